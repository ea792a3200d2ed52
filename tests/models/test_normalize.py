"""Normalisation against its formula."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from inputaware.errors import DataError
from inputaware.models.normalize import Normalize

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 1e-6)])
def test_normalizes_each_channel(dtype: torch.dtype, tolerance: float) -> None:
    images = np.random.default_rng(0).random((2, 3, 4, 5))
    normalize = Normalize(MEAN, STD)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (MEAN, STD))
    found = normalize(torch.from_numpy(images).to(dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, (images - mean) / std, rtol=0, atol=5 * tolerance)
    np.testing.assert_allclose(normalize.scale(torch.from_numpy(images).to(dtype)), images / std, rtol=5 * tolerance)


def test_scaled_difference_is_the_difference_of_normalized_images() -> None:
    first, second = torch.rand(2, 4, 3, 8, 8, dtype=torch.float64)
    normalize = Normalize(MEAN, STD)
    torch.testing.assert_close(normalize.scale(first - second), normalize(first) - normalize(second))


def test_identity_does_no_work() -> None:
    images = torch.rand(1, 3, 2, 2)
    normalize = Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert normalize(images) is images
    assert normalize.scale(images) is images


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5,)), ((0.0,), (1.0,))])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_bytes_are_refused(mean: tuple[float], std: tuple[float], dtype: torch.dtype) -> None:
    message = rf"^images: expected pixels in \[0, 1\] as floating-point numbers; found {dtype}; divide bytes by 255$"
    with pytest.raises(DataError, match=message):
        Normalize(mean, std)(torch.ones(1, 1, 2, 2, dtype=dtype))


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5,)), ((0.0,), (1.0,))])
@pytest.mark.parametrize("shape", [(5, 1, 29, 29), (5, 1, 28, 27), (5, 3, 28, 28), (1, 28, 28), (28, 28), ()])
def test_images_of_another_shape_are_refused(
    mean: tuple[float], std: tuple[float], shape: tuple[int, ...], unchecked: None
) -> None:
    normalize = Normalize(mean, std, (1, 28, 28))
    assert normalize(torch.rand(0, 1, 28, 28)).shape == (0, 1, 28, 28)
    with pytest.raises(DataError) as caught:
        normalize(torch.rand(shape))
    assert str(caught.value) == (
        "images: expected a tensor of shape (batch, 1, 28, 28), which the classifier was made for; "
        f"found {shape}; resize the images"
    )


def test_has_no_state_and_keeps_full_precision_in_float64() -> None:
    normalize = Normalize((0.1,), (0.3,))
    assert not normalize.state_dict()
    assert not list(normalize.buffers())
    copied = copy.deepcopy(normalize).double()
    assert copied(torch.full((1, 1, 1, 1), 0.4, dtype=torch.float64)).item() == (0.4 - 0.1) / 0.3


def test_constants_made_in_inference_mode_serve_a_backward_pass() -> None:
    normalize = Normalize(MEAN, STD)
    images = torch.rand(1, 3, 2, 2)
    with torch.inference_mode():
        normalize(images)
    leaf = images.clone().requires_grad_()
    normalize(leaf).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad[0, :, 0, 0], 1 / torch.tensor(STD))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_first_call_within_torch_func_leaves_nothing_of_it(dtype: torch.dtype) -> None:
    normalize = Normalize(MEAN, STD)
    images = torch.rand(1, 3, 2, 2, dtype=dtype)
    slope = torch.func.grad(lambda pixels: normalize(pixels).square().sum())
    bent = torch.func.jacrev(slope)
    expected = 2 * (images - torch.tensor(MEAN, dtype=dtype).view(3, 1, 1))
    expected = expected / torch.tensor(STD, dtype=dtype).view(3, 1, 1) ** 2
    for _ in range(2):
        torch.testing.assert_close(slope(images), expected)
        torch.testing.assert_close(bent(images).sum(), (2 / torch.tensor(STD, dtype=dtype) ** 2).sum() * 4)
    torch.testing.assert_close(copy.deepcopy(normalize)(images), normalize(images))


def test_a_constant_that_is_made_while_torch_compiles_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    normalize = Normalize(MEAN, STD)
    images = torch.rand(1, 3, 2, 2, dtype=torch.float64)
    expected = Normalize(MEAN, STD)(images)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    before = dict(normalize._constants)
    torch.testing.assert_close(normalize(images), expected)
    assert normalize._constants.keys() == before.keys()


def test_prints_its_constants() -> None:
    assert repr(Normalize((0.5,), (0.25,))) == "Normalize(mean=(0.5,), std=(0.25,))"
