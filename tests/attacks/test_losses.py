"""The losses against NumPy in float64, and where they are hardest to compute."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from inputaware.attacks.losses import diversity_loss, mask_norm_loss


def numpy_diversity(images: np.ndarray, triggers: np.ndarray, eps: float) -> float:
    """Return the mean of quotients of root mean squares."""
    quotients = [
        math.sqrt(np.mean(image**2)) / (math.sqrt(np.mean(trigger**2)) + eps)
        for image, trigger in zip(images, triggers, strict=True)
    ]
    return float(np.mean(quotients))


@pytest.mark.parametrize(("channels", "eps"), [(1, 1e-7), (3, 1e-7), (3, 0.5)])
def test_diversity_is_the_mean_quotient_of_root_mean_squares(channels: int, eps: float) -> None:
    random = np.random.default_rng(channels)
    images, triggers = random.normal(size=(5, 3, 6, 4)), random.normal(size=(5, channels, 6, 4))
    expected = numpy_diversity(images, triggers, eps)
    found = diversity_loss(torch.from_numpy(images), torch.from_numpy(triggers), eps=eps)
    assert found.shape == ()
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("size", [2, 8])
def test_diversity_does_not_change_with_the_size_and_adds_eps_outside_of_the_root(size: int) -> None:
    images, triggers = torch.full((2, 3, size, size), 2.0), torch.full((2, 1, size, size), 0.25)
    assert diversity_loss(images, triggers, eps=0.25).item() == pytest.approx(4.0, rel=1e-6)
    assert diversity_loss(images, torch.zeros_like(triggers), eps=0.25).item() == pytest.approx(8.0, rel=1e-6)


def test_diversity_has_the_gradient_of_its_differences() -> None:
    images = torch.randn(3, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    triggers = torch.randn(3, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(diversity_loss, (images, triggers))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tiny", [0.0, 1e-30, 1e-20, 1e-9])
def test_diversity_of_equal_triggers_has_a_finite_gradient(tiny: float, dtype: torch.dtype) -> None:
    triggers = torch.randn(2, 3, 8, 8, dtype=dtype)
    triggers[0] = tiny
    triggers.requires_grad_()
    loss = diversity_loss(torch.ones(2, 3, 8, 8, dtype=dtype), triggers)
    loss.backward()
    assert loss.isfinite()
    assert triggers.grad is not None
    assert triggers.grad.isfinite().all()
    assert triggers.grad[1].any()
    if tiny == 0:
        assert not triggers.grad[0].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_diversity_is_computed_in_float32(dtype: torch.dtype) -> None:
    images, triggers = torch.randn(4, 3, 8, 8).to(dtype), (torch.randn(4, 3, 8, 8) * 1e-3).to(dtype)
    expected = numpy_diversity(images.double().numpy(), triggers.double().numpy(), 1e-7)
    with torch.autocast("cpu", torch.bfloat16):
        found = diversity_loss(images, triggers)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("density", [0.0, 0.032, 0.5, 1.0])
def test_mask_norm_counts_only_what_lies_above_the_density(density: float) -> None:
    mask = np.random.default_rng(0).random((3, 1, 6, 4))
    leaf = torch.from_numpy(mask).requires_grad_()
    found = mask_norm_loss(leaf, density=density)
    found.backward()
    assert found.item() == pytest.approx(np.mean(np.clip(mask - density, 0, None)), rel=1e-13, abs=0)
    np.testing.assert_allclose(leaf.grad, (mask > density) / mask.size, rtol=1e-13)
