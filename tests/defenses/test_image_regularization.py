"""Filters against SciPy and OpenCV's own output, and what is measured before and after the trigger."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from inputaware.attacks.base import Backdoor
from inputaware.defenses.base import CleanData, Suspect, Trial
from inputaware.defenses.image_regularization import (
    ImageRegularization,
    floor_depth,
    gaussian_blur,
    median_filter,
    round_depth,
)
from inputaware.defenses.registry import build_defense
from inputaware.defenses.settings import DefenseSettings, ImageRegularizationSettings
from inputaware.errors import ConfigError

SHAPE = (1, 8, 8)
CLASSES = 2


def random_bytes(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def pixels(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float() / 255


def as_bytes(images: Tensor) -> np.ndarray:
    scaled = images.double().numpy() * 255
    np.testing.assert_allclose(scaled, np.rint(scaled), rtol=0, atol=1e-4)
    return np.rint(scaled).astype(np.int64)


# What OpenCV 5.0.0 returns for GaussianBlur(image, (k, k), 0).
IMAGE = [
    [110, 24, 13, 136, 13, 163, 41],
    [72, 41, 99, 210, 45, 65, 128],
    [218, 203, 178, 74, 63, 100, 140],
    [33, 189, 77, 228, 151, 108, 106],
    [82, 234, 75, 93, 35, 5, 2],
    [110, 173, 111, 130, 235, 88, 95],
]
BLURRED = {
    3: [
        [62, 53, 79, 108, 86, 85, 99],
        [98, 92, 107, 113, 85, 87, 104],
        [147, 147, 143, 127, 100, 99, 111],
        [148, 150, 141, 128, 109, 87, 84],
        [142, 144, 128, 118, 104, 67, 51],
        [150, 149, 125, 113, 107, 69, 48],
    ],
    5: [
        [76, 80, 93, 100, 92, 90, 94],
        [99, 101, 107, 107, 96, 93, 97],
        [134, 134, 131, 120, 103, 97, 98],
        [147, 145, 137, 124, 105, 90, 84],
        [146, 142, 132, 119, 101, 77, 66],
        [146, 141, 129, 116, 99, 73, 59],
    ],
    7: [
        [97, 98, 101, 102, 98, 95, 95],
        [107, 107, 108, 106, 99, 95, 94],
        [126, 125, 121, 114, 104, 96, 94],
        [139, 137, 130, 118, 104, 91, 87],
        [142, 140, 131, 117, 100, 84, 79],
        [143, 140, 130, 116, 99, 82, 76],
    ],
}


@pytest.mark.parametrize("side", BLURRED)
def test_blur_is_opencvs(side: int) -> None:
    found = gaussian_blur(pixels(np.array(IMAGE, dtype=np.uint8)[None, None]), side)
    np.testing.assert_array_equal(as_bytes(found)[0, 0], BLURRED[side])


@pytest.mark.parametrize(("side", "taps"), [(3, [1, 2, 1]), (5, [1, 4, 6, 4, 1])])
def test_blur_is_scipys_correlation_rounded(side: int, taps: list[int]) -> None:
    images = random_bytes(3, 3, 32, 29)
    expected = images.astype(np.float64)
    for axis in (2, 3):
        expected = ndimage.correlate1d(expected, np.array(taps) / sum(taps), axis=axis, mode="mirror")
    np.testing.assert_array_equal(as_bytes(gaussian_blur(pixels(images), side)), np.floor(expected + 0.5))


@pytest.mark.parametrize("side", [3, 5, 7])
def test_median_is_scipys(side: int) -> None:
    images = random_bytes(2, 3, 12, 9)
    expected = ndimage.median_filter(images, size=(1, 1, side, side), mode="reflect")
    np.testing.assert_array_equal(as_bytes(median_filter(pixels(images), side)), expected)


@pytest.mark.parametrize("bits", range(1, 9))
def test_floor_depth_keeps_the_highest_bits(bits: int) -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    mask = 0xFF << (8 - bits) & 0xFF
    np.testing.assert_array_equal(as_bytes(floor_depth(pixels(every), bits)), every & mask)


@pytest.mark.parametrize("bits", range(1, 9))
def test_round_depth_goes_to_the_nearest_of_its_colours(bits: int) -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    colours = np.linspace(0, 1, 2**bits)
    exact = every / 255
    nearest = colours[np.abs(exact[..., None] - colours).argmin(-1)]
    np.testing.assert_allclose(round_depth(pixels(every), bits), nearest, rtol=0, atol=1e-6)


def test_eight_bits_and_constant_images_stay() -> None:
    images = pixels(random_bytes(2, 3, 8, 8))
    for shrink in (floor_depth, round_depth):
        torch.testing.assert_close(shrink(images, 8), images)
    constant = torch.full((1, 1, 8, 8), 77 / 255)
    for smooth in (gaussian_blur, median_filter):
        torch.testing.assert_close(smooth(constant, 5), constant)


@pytest.mark.parametrize("apply", [gaussian_blur, median_filter, floor_depth, round_depth])
@pytest.mark.parametrize("parameter", [3, 5])
def test_filters_stay_in_range_and_see_8_bits(apply: Callable[[Tensor, int], Tensor], parameter: int) -> None:
    images = torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    images[0] = 1
    images[1] = 0
    found = apply(images, parameter)
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    assert 0 <= found.min() <= found.max() <= 1
    assert torch.equal(found, apply((images * 255).round() / 255, parameter))
    layout = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(apply(layout, parameter), found)


class CornerReader(nn.Module):
    """Class 1 where the first pixel is brighter than a half."""

    def forward(self, images: Tensor) -> Tensor:
        corner = images[:, 0, 0, 0]
        return torch.stack([0.5 - corner, corner - 0.5], 1)


class BrightCorner(Backdoor):
    """One white pixel in the corner: whoever smooths it away is safe, whoever smooths before is not."""

    universal = True

    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.zeros(len(images), 1, *SHAPE[1:])
        mask[:, :, 0, 0] = 1
        return mask, torch.ones_like(images)


def data() -> CleanData:
    images = torch.from_numpy(random_bytes(6, *SHAPE) // 4)
    images[3:] += 190
    return CleanData(images, torch.tensor([0, 0, 0, 1, 1, 1]))


def suspect() -> Suspect:
    return Suspect(CornerReader(), SHAPE, CLASSES)


def backdoor() -> Backdoor:
    return BrightCorner(shape=SHAPE, classes=CLASSES, target="all-to-one", target_class=1)


def test_the_order_of_filter_and_trigger_counts() -> None:
    defense = ImageRegularization(ImageRegularizationSettings())
    finding = defense.run(suspect(), data())
    heard: list[float] = []
    scores = defense.score(finding, suspect(), Trial(data(), backdoor()), progress=heard.append).scores
    assert finding.verdict == "no-verdict"
    assert scores["original"]["attack"]["attack_success_rate"] == 1
    for kind in ("release", "feature-squeezing"):
        assert list(scores[kind]) == ["k=3", "k=5", "3 bits", "2 bits", "1 bit"]
        for label, rates in scores[kind].items():
            assert rates["clean_accuracy"] == 1
            assert rates["filter_then_trigger"]["attack_success_rate"] == 1
            destroyed = label.startswith("k=")
            assert rates["trigger_then_filter"]["attack_success_rate"] == (0.5 if destroyed else 1)
            assert rates["trigger_then_filter"]["attack_success_rate_excluding_target"] == (0 if destroyed else 1)
            assert rates["trigger_then_filter"]["robust_accuracy"] == (1 if destroyed else 0.5)
    assert heard == pytest.approx([(done + 1) / 10 for done in range(10)])


def test_the_finding_names_what_every_filter_costs() -> None:
    # One dark image has a bright corner: it is right only where the corner is smoothed away.
    clean = data()
    clean.images[0, 0, 0, 0] = 255
    finding = ImageRegularization(ImageRegularizationSettings(kernels=(3,), bits=(2,))).run(suspect(), clean)
    assert finding.scores == {
        "original": {"clean_accuracy": 5 / 6},
        "release": {"k=3": {"clean_accuracy": 1.0}, "2 bits": {"clean_accuracy": 5 / 6}},
        "feature-squeezing": {"k=3": {"clean_accuracy": 1.0}, "2 bits": {"clean_accuracy": 5 / 6}},
    }
    assert finding.sentence == (
        "On the defender's images clean accuracy is 83.3 % without a filter and 83.3 % under the filter that costs "
        "most (feature-squeezing, 2 bits); filters judge no model."
    )


def test_the_score_names_the_best_filter_that_a_defender_can_afford() -> None:
    defense = ImageRegularization(ImageRegularizationSettings())
    score = defense.score(defense.run(suspect(), data()), suspect(), Trial(data(), backdoor()))
    assert score.sentence == (
        "Without a filter the attack succeeds on 100.0 % of the images; of the filters that cost at most 4 points of "
        "clean accuracy on the defender's images the best in hindsight (feature-squeezing, k=3, after the trigger) "
        "leaves 50.0 % (0.0 % without the target's own), "
        "with clean accuracy 100.0 %."
    )
    finding = defense.run(suspect(), data())
    for kind in ("release", "feature-squeezing"):
        for rates in finding.scores[kind].values():
            rates["clean_accuracy"] = 0.9
    score = defense.score(finding, suspect(), Trial(data(), backdoor()))
    assert score.sentence == (
        "Without a filter the attack succeeds on 100.0 % of the images; every filter costs more than 4 points of clean "
        "accuracy on the defender's images."
    )


def test_a_clean_model_has_no_attack() -> None:
    defense = ImageRegularization(ImageRegularizationSettings())
    score = defense.score(defense.run(suspect(), data()), suspect(), Trial(data(), None))
    assert score.scores["original"] == {"clean_accuracy": 1.0, "attack": None}
    assert score.scores["release"]["k=3"]["trigger_then_filter"] is None
    assert score.scores["release"]["k=3"]["filter_then_trigger"] is None
    assert score.sentence == "A clean model has no trigger to destroy; its clean accuracy is 100.0 % without a filter."


def test_the_same_again_and_fit_for_json() -> None:
    defense = build_defense("image-regularization")
    one, two = (defense.run(suspect(), data()) for _ in range(2))
    assert one.record() == two.record()
    score = defense.score(one, suspect(), Trial(data(), backdoor()))
    json.dumps([one.record(), score.scores], allow_nan=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernels": (4,)}, "image_regularization.kernels: expected 3, 5 or 7; found 4"),
        ({"bits": (3, 9)}, "image_regularization.bits: expected a number of at least 1 and at most 8; found 9"),
        ({"bits": ()}, "image_regularization: expected at least one of kernels and one of bits; found none"),
    ],
)
def test_settings_out_of_range(settings: dict[str, tuple[int, ...]], message: str) -> None:
    given = DefenseSettings(image_regularization=ImageRegularizationSettings(**settings))  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as error:
        build_defense("image-regularization", given)
    assert str(error.value) == message
