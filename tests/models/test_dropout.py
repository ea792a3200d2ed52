"""Dropout by bytes: its statistics, and the fused step against ReLU, mask and max-pooling one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from inputaware.errors import ConfigError
from inputaware.models.dropout import ReluDropoutPool, cheap_dropout

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif("not torch.cuda.is_available()"))]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
SHAPE = (5, 6, 10, 7)
"""Odd enough to leave out a column and to need a part of a 64-bit word."""

each_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels-last"])


def keep_scale(values: Tensor, probability: float, seed: int) -> Tensor:
    """Return what dropout multiplies each element by: 0, or the scale."""
    torch.manual_seed(seed)
    return cheap_dropout(torch.ones_like(values), probability)


def integers(layout: torch.memory_format, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return small whole numbers, so that windows hold ties: of positive numbers, and of zeros and below."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(-2, 3, SHAPE, generator=generator).to(dtype).contiguous(memory_format=layout)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("probability", "share"), [(0.1, 26 / 256), (0.5, 0.5), (0.99, 253 / 256), (0.002, 1 / 256)])
def test_drops_the_rounded_share_and_scales_the_rest(device: str, probability: float, share: float) -> None:
    count = 400_003
    torch.manual_seed(0)
    found = cheap_dropout(torch.ones(count, device=device), probability)
    assert found.unique().tolist() == pytest.approx([0, 1 / (1 - share)], rel=1e-6)
    sigma = math.sqrt(share * (1 - share) / count)
    dropped = (found == 0).double().mean().item()
    assert abs(dropped - share) < 4 * sigma
    assert abs(found.double().mean().item() - 1) < 4 * sigma / (1 - share)


def test_neighbours_are_independent() -> None:
    dropped = (keep_scale(torch.empty(400_000), 0.1, seed=1) == 0).double().numpy()
    dropped = (dropped - dropped.mean()) / dropped.std()
    for lag in (1, 2, 3, 4, 5, 6, 7, 8, 16, 64):
        correlation = float(np.mean(dropped[lag:] * dropped[:-lag]))
        assert abs(correlation) < 4 / math.sqrt(len(dropped)), lag


def test_every_byte_of_a_word_drops_alike() -> None:
    dropped = (keep_scale(torch.empty(80_000, 8), 0.1, seed=2) == 0).sum(0).numpy()
    kept = 80_000 - dropped
    assert stats.chi2_contingency(np.stack([dropped, kept])).pvalue > 1e-4


def test_drops_nothing_at_zero() -> None:
    values = torch.randn(7)
    assert cheap_dropout(values, 0.0) is values


@pytest.mark.parametrize("probability", [-0.1, 0.995, math.nan])
def test_refuses_probabilities_out_of_range(probability: float) -> None:
    message = f"^dropout: expected a number of at least 0 and at most 0.99; found {probability}$"
    with pytest.raises(ConfigError, match=message):
        cheap_dropout(torch.ones(3), probability)
    with pytest.raises(ConfigError, match=message):
        ReluDropoutPool(probability)


def test_gradient_reaches_what_was_kept() -> None:
    values = torch.randn(100, requires_grad=True)
    torch.manual_seed(5)
    cheap_dropout(values, 0.5).sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, keep_scale(values, 0.5, seed=5), rtol=0, atol=0)


@each_layout
def test_is_repeatable_from_the_seed(layout: torch.memory_format) -> None:
    values = torch.randn(SHAPE).contiguous(memory_format=layout)
    pool = ReluDropoutPool(0.3)
    results = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        results.append((cheap_dropout(values, 0.3), pool(values)))
    for first, again, other in zip(*results, strict=True):
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_elements_are_drawn_in_the_order_of_memory() -> None:
    contiguous = keep_scale(torch.empty(SHAPE), 0.5, seed=9)
    channels_last = keep_scale(torch.empty(SHAPE).contiguous(memory_format=torch.channels_last), 0.5, seed=9)
    assert channels_last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(channels_last.permute(0, 2, 3, 1).flatten(), contiguous.flatten())


@each_layout
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.1, 0.6])
def test_fused_step_equals_its_parts_also_at_ties(
    layout: torch.memory_format, dtype: torch.dtype, probability: float
) -> None:
    values = integers(layout, dtype).requires_grad_()
    weights = torch.randn(5, 6, 5, 3).to(dtype)
    torch.manual_seed(11)
    found = ReluDropoutPool(probability)(values)
    (gradient,) = torch.autograd.grad(found, values, weights)

    reference_values = values.detach().double().contiguous().requires_grad_()
    scale = 256 / (256 - round(probability * 256))
    kept = (keep_scale(values, probability, seed=11) != 0).double()
    reference = F.max_pool2d(F.relu(reference_values) * kept, 2) * scale
    (reference_gradient,) = torch.autograd.grad(reference, reference_values, weights.double())
    tolerance = {"rtol": 3 * torch.finfo(dtype).eps, "atol": 0}
    torch.testing.assert_close(found.double(), reference, **tolerance)
    torch.testing.assert_close(gradient.double(), reference_gradient.contiguous(), **tolerance)
    assert found.dtype == gradient.dtype == dtype
    assert found.is_contiguous(memory_format=layout)
    # Some windows have no positive element left: there the gradient must be zero for every element.
    empty = (reference == 0).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert empty.any()
    assert not gradient[:, :, :, :6][empty].any()


@each_layout
def test_fused_step_has_the_gradient_of_its_differences(layout: torch.memory_format) -> None:
    pool = ReluDropoutPool(0.4)

    def run(values: Tensor) -> Tensor:
        torch.manual_seed(13)
        result: Tensor = pool(values)
        return result

    values = torch.randn(2, 3, 4, 5, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(run, values)


def test_fused_step_leaves_its_input_alone() -> None:
    values = integers(torch.channels_last)
    before = values.clone()
    ReluDropoutPool(0.5)(values)
    assert torch.equal(values, before)


def test_fused_step_works_under_autocast() -> None:
    convolution = torch.nn.Conv2d(1, 4, 3).to(memory_format=torch.channels_last)
    images = torch.rand(3, 1, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        found = ReluDropoutPool(0.1)(convolution(images))
    found.float().square().sum().backward()
    assert found.dtype == torch.bfloat16
    assert convolution.weight.grad is not None
    assert convolution.weight.grad.dtype == torch.float32
    assert convolution.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("probability", "training"), [(0.0, True), (0.5, False)])
def test_without_dropout_it_is_relu_and_pooling(probability: float, training: bool) -> None:
    values = integers(torch.contiguous_format)
    state = torch.get_rng_state()
    found = ReluDropoutPool(probability).train(training)(values)
    # The largest of each window by hand, nothing below zero.
    windows = values[:, :, :, :6].reshape(5, 6, 5, 2, 3, 2)
    assert torch.equal(found, windows.amax((3, 5)).clamp_min(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_prints_its_probability() -> None:
    assert ReluDropoutPool(0.1).extra_repr() == "probability=0.1"
