"""Metrics against formulas in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from inputaware.evaluation.metrics import (
    class_rates,
    mean_over,
    peak_signal_to_noise,
    rms_distance,
    round_to_8_bits,
    structural_similarity,
)

SHAPES = [(3, 1, 28, 28), (2, 3, 32, 32), (4, 2, 11, 17)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def pair(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return images and noisy copies, in float64."""
    draw = np.random.default_rng(0)
    first = draw.random(shape)
    return first, np.clip(first + 0.2 * draw.standard_normal(shape), 0, 1)


@each_shape
def test_root_mean_square_distance(shape: tuple[int, ...]) -> None:
    first, second = pair(shape)
    expected = [np.sqrt(np.mean((a - b) ** 2)) for a, b in zip(first, second, strict=True)]
    found = rms_distance(torch.from_numpy(first), torch.from_numpy(second))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


@each_shape
def test_peak_signal_to_noise(shape: tuple[int, ...]) -> None:
    first, second = pair(shape)
    expected = [20 * math.log10(1 / np.sqrt(np.mean((a - b) ** 2))) for a, b in zip(first, second, strict=True)]
    found = peak_signal_to_noise(torch.from_numpy(first), torch.from_numpy(second))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_peak_signal_to_noise_of_equal_images_is_100() -> None:
    images = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    assert peak_signal_to_noise(images, images).tolist() == pytest.approx([100.0, 100.0])


def reference_similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Return the structural similarity of two channels: Wang et al. 2004, equation 13, window by window."""
    line = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    for top in range(first.shape[0] - 10):
        for left in range(first.shape[1] - 10):
            a = first[top : top + 11, left : left + 11]
            b = second[top : top + 11, left : left + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            variance_a = (window * (a - mean_a) ** 2).sum()
            variance_b = (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + 1e-4)
                * (2 * covariance + 9e-4)
                / ((mean_a**2 + mean_b**2 + 1e-4) * (variance_a + variance_b + 9e-4))
            )
    return float(np.mean(values))


@each_shape
def test_structural_similarity(shape: tuple[int, ...]) -> None:
    first, second = pair(shape)
    expected = [
        np.mean([reference_similarity(a, b) for a, b in zip(one, other, strict=True)])
        for one, other in zip(first, second, strict=True)
    ]
    found = structural_similarity(torch.from_numpy(first), torch.from_numpy(second))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    single = structural_similarity(torch.from_numpy(first).float(), torch.from_numpy(second).float())
    np.testing.assert_allclose(single.numpy(), expected, atol=1e-4)


def test_the_window_of_the_reference_is_the_one_of_scipy() -> None:
    line = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    image = pair((1, 1, 28, 28))[0][0, 0]
    blurred = correlate(image, np.outer(line, line) / line.sum() ** 2)[5:-5, 5:-5]
    # With a far brighter second image only the luminance term is left, which shows the first one's blur.
    ours = structural_similarity(torch.from_numpy(image)[None, None], torch.full((1, 1, 28, 28), 0.5).double())
    variance = correlate(image**2, np.outer(line, line) / line.sum() ** 2)[5:-5, 5:-5] - blurred**2
    luminance = (blurred + 1e-4) / (blurred**2 + 0.25 + 1e-4)
    np.testing.assert_allclose(float(ours), np.mean(luminance * 9e-4 / (variance + 9e-4)), rtol=1e-9)


def test_structural_similarity_of_equal_images_is_1() -> None:
    images = torch.from_numpy(pair((2, 3, 32, 32))[0])
    np.testing.assert_allclose(structural_similarity(images, images).numpy(), 1, rtol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(10, 28), (28, 10)])
def test_images_smaller_than_the_window_are_refused(height: int, width: int) -> None:
    images = torch.zeros(1, 1, height, width)
    with pytest.raises(ValueError, match=rf"^images: expected at least 11 pixels a side; found {height}x{width}$"):
        structural_similarity(images, images)


def test_rounding_gives_the_nearest_of_256_values() -> None:
    values = torch.linspace(0, 1, 10_001)
    found = round_to_8_bits(values).double().numpy()
    levels = np.arange(256) / 255
    assert np.abs(found[:, None] - levels).min(1).max() < 1e-7
    assert np.abs(found - values.double().numpy()).max() <= 0.5 / 255 + 1e-7


def test_rounding_leaves_8_bit_images_as_they_are() -> None:
    exact = torch.arange(256, dtype=torch.uint8).float() / 255
    assert torch.equal(round_to_8_bits(exact), exact)


def test_rounding_stays_in_range() -> None:
    assert round_to_8_bits(torch.tensor([-1e-3, -0.5, 1.001, 3.0])).tolist() == [0, 0, 1, 1]


def test_shares() -> None:
    hits = torch.tensor([True, False, True, True])
    assert mean_over(hits) == 0.75
    assert mean_over(hits, torch.tensor([True, True, False, False])) == 0.5
    assert mean_over(hits, torch.zeros(4, dtype=torch.bool)) is None
    assert mean_over(hits[:0]) is None


def test_shares_of_each_class() -> None:
    hits = torch.tensor([True, False, True, True, False])
    labels = torch.tensor([0, 0, 2, 2, 3])
    assert class_rates(hits, labels, 5) == [0.5, None, 1.0, 0.0, None]
