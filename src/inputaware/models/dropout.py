"""Dropout that draws one random byte an element.

Deviation: dropout probabilities are rounded to a multiple of 1/256, so that a byte decides. What is
kept is scaled by the rounded probability, so the expectation is exact. Drawing a random float32 an element
costs a large part of the MNIST classifier's time on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from inputaware.config.checks import check_number

__all__ = ["ReluDropoutPool", "cheap_dropout"]

_HIGHEST = 0.99
"""Highest dropout probability; above it a byte could drop everything."""


def cheap_dropout(values: Float[Tensor, "*shape"], probability: float) -> Float[Tensor, "*shape"]:
    """Set elements to zero at random and scale the others so that the expectation stays.

    The random numbers come from the default generator of the values' device. Which elements are dropped
    depends on the memory layout: the bytes are drawn in the order in which the elements are stored.

    Args:
        values: any floating-point tensor.
        probability: share of elements to drop, in [0, 0.99], rounded to a multiple of 1/256.

    Raises:
        ConfigError: the probability is out of its range.
    """
    threshold = _byte_threshold(probability)
    if threshold == 0:
        return values
    return values * _draw_keep(values, threshold) * _keep_scale(threshold)


class ReluDropoutPool(nn.Module):
    """ReLU, dropout and 2x2 max-pooling in one step that reads and writes memory less often.

    In evaluation mode it is ReLU and max-pooling.

    Args:
        probability: share of elements to drop in training mode, in [0, 0.99], rounded to a multiple of 1/256.

    Raises:
        ConfigError: the probability is out of its range.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self._threshold = _byte_threshold(probability)
        # A module of its own, so that what is left of a map in evaluation mode can be looked at.
        self.relu = nn.ReLU()

    def forward(
        self, values: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height//2 width//2"]:
        """Return the pooled values; an odd last row or column is left out.

        Args:
            values: what a convolution returned; it is not changed.
        """
        if not self.training or self._threshold == 0:
            return F.max_pool2d(self.relu(values), 2)
        keep = _draw_keep(values, self._threshold)
        pooled: Tensor = _ReluMaskPool.apply(values, keep, _keep_scale(self._threshold))  # type: ignore[no-untyped-call]
        return pooled

    def extra_repr(self) -> str:
        """Return the probability, for printing the network."""
        return f"probability={self.probability}"


class _ReluMaskPool(torch.autograd.Function):
    """``scale * max_pool(relu(values) with the dropped elements at zero)``.

    The maximum of a window does not care whether ReLU stands before or after it, so ReLU is taken of the
    pooled values, a quarter as many. Where a window's maximum is zero, ReLU's gradient there is zero
    whichever of its elements the pooling chose.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, keep: Tensor, scale: float) -> Tensor:
        kept = values * keep
        pooled, chosen = torch.ops.aten.max_pool2d_with_indices(kept, [2, 2], [2, 2])
        pooled.clamp_min_(0).mul_(scale)
        # The backward pass needs of `kept` only its shape and layout.
        ctx.save_for_backward(kept, pooled, chosen)
        ctx.scale = scale
        return pooled  # type: ignore[no-any-return]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        kept, pooled, chosen = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradients[0], pooled, 0) * ctx.scale
        gradient = torch.ops.aten.max_pool2d_with_indices_backward(
            gradient, kept, [2, 2], [2, 2], [0, 0], [1, 1], False, chosen
        )
        return gradient, None, None


def _byte_threshold(probability: float) -> int:
    """Return how many of a byte's 256 values drop an element."""
    check_number("dropout", probability, 0, _HIGHEST)
    return round(probability * 256)


def _keep_scale(threshold: int) -> float:
    """Return the factor that keeps the expectation."""
    return 256 / (256 - threshold)


def _draw_keep(values: Tensor, threshold: int) -> Float[Tensor, "*shape"]:
    """Return 1 for elements to keep and 0 for others, in the type and memory layout of the values."""
    drawn = _draw_bytes(values.numel(), values.device)
    # Into bytes, and a product in place of a choice: of what gives or takes truth values a CPU does one at a time.
    keep = torch.ge(drawn, threshold, out=drawn).to(values.dtype)
    if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        batch, channels, height, width = values.shape
        return keep.view(batch, height, width, channels).permute(0, 3, 1, 2)
    return keep.view(values.shape)


def _draw_bytes(count: int, device: torch.device) -> Tensor:
    """Return random bytes, uniform on 0 to 255."""
    if device.type != "cpu":
        return torch.empty(count, dtype=torch.uint8, device=device).random_(0, 256)
    # A CPU draws one number after the other: eight bytes at a time cost an eighth.
    words = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.uint8)[:count]
