"""The blend against its formula, and at its ends bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from inputaware.attacks.trigger import apply_trigger
from inputaware.models.normalize import Normalize

Case = tuple[Tensor, Tensor, Tensor]

each_channel_count = pytest.mark.parametrize("channels", [1, 3])


def draw(channels: int, dtype: torch.dtype = torch.float32) -> Case:
    """Return images, mask and pattern, with 0, 1 and the numbers next to them among the values."""
    generator = torch.Generator().manual_seed(channels)
    ends = torch.tensor([0.0, 1.0, 2.0**-30, 1 - 2.0**-24, 0.5])

    def pixels(count: int) -> Tensor:
        values = torch.rand(40, count, 9, 7, generator=generator)
        swap = torch.rand(values.shape, generator=generator) < 0.3
        picks = ends[torch.randint(len(ends), values.shape, generator=generator)]
        return torch.where(swap, picks, values).to(dtype)

    return pixels(channels), pixels(1), pixels(channels)


@each_channel_count
def test_is_the_formula(channels: int) -> None:
    images, mask, pattern = draw(channels, torch.float64)
    x, m, p = (values.numpy() for values in (images, mask, pattern))
    np.testing.assert_allclose(apply_trigger(images, mask, pattern), x + (p - x) * m, rtol=0, atol=1e-15)


@each_channel_count
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_is_exact_at_both_ends_and_stays_between_them(channels: int, layout: torch.memory_format) -> None:
    images, mask, pattern = (values.contiguous(memory_format=layout) for values in draw(channels))
    assert torch.equal(apply_trigger(images, torch.zeros_like(mask), pattern), images)
    assert torch.equal(apply_trigger(images, torch.ones_like(mask), pattern), pattern)
    found = apply_trigger(images, mask, pattern)
    assert found.dtype == torch.float32
    assert found.min() == 0
    assert found.max() == 1
    untouched = (mask == 0).expand_as(images)
    assert untouched.any()
    assert torch.equal(found[untouched], images[untouched])


def test_blending_pixels_is_blending_normalized_values() -> None:
    images, mask, pattern = draw(3, torch.float64)
    normalize = Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
    x, p = normalize(images), normalize(pattern)
    torch.testing.assert_close(normalize(apply_trigger(images, mask, pattern)), x + (p - x) * mask, rtol=0, atol=1e-14)


def test_gradients_are_the_formulas() -> None:
    images, mask, pattern = (values.requires_grad_() for values in draw(3, torch.float64))
    weights = torch.randn(images.shape, dtype=torch.float64)
    found = torch.autograd.grad(apply_trigger(images, mask, pattern), (images, mask, pattern), weights)
    with torch.no_grad():
        expected = (weights * (1 - mask), (weights * (pattern - images)).sum(1, keepdim=True), weights * mask)
    for gradient, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-14)
