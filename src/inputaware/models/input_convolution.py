"""The first convolution of a network for grey images, as matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["InputConvolution", "first_order_gradients"]


class InputConvolution(nn.Conv2d):
    """A convolution of one channel, without padding, that is a matrix product in training.

    For one input channel torch's kernels on a CPU take many times as long for both gradients as the arithmetic asks
    for. Here every window of the images is a column of a matrix; the output and the weights' gradient are products
    with it. An attack that trains a generator through a classifier also needs the gradient for the images: the output's
    gradient is multiplied with the weights, and the products are added where they belong.

    The output is laid out channels last. In evaluation mode, without gradients, and on other devices, it is torch's own
    convolution: what examines a network may want gradients of gradients, or ``torch.func``, which a product of our own
    does not have. :func:`first_order_gradients` is for those who do not.

    Args:
        channels: channels of the output.
        side: side of the kernel.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__(1, channels, side)
        self.hastened = False

    def forward(self, input: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch channel rows columns"]:
        """Return the convolution.

        Args:
            input: images, in any unit.
        """
        wanted = torch.is_grad_enabled() and (self.training or self.hastened)
        if input.device.type != "cpu" or not wanted:
            return super().forward(input)
        assert self.bias is not None
        values: tuple[Tensor, ...] = (input, self.weight, self.bias)
        if torch.is_autocast_enabled("cpu"):
            values = tuple(value.to(torch.get_autocast_dtype("cpu")) for value in values)
        result: Tensor = _Convolve.apply(*values)  # type: ignore[no-untyped-call]
        return result


@contextmanager
def first_order_gradients(network: nn.Module) -> Iterator[None]:
    """Let a network in evaluation mode take gradients as fast as in training; within, none can be taken of them.

    Args:
        network: any; one without :class:`InputConvolution` is left as it is.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, InputConvolution)]
    before = [layer.hastened for layer in layers]
    for layer in layers:
        layer.hastened = True
    try:
        yield
    finally:
        for layer, hastened in zip(layers, before, strict=True):
            layer.hastened = hastened


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        side = weight.shape[-1]
        batch, _, height, width = images.shape
        rows, columns = height - side + 1, width - side + 1
        flat = images.contiguous()
        # [k, l, n, i, j] = x[n, i + k, j + l]: a column of the matrix is a window of the images, and a 1 for the bias.
        windows = flat.new_ones(side * side + 1, batch * rows * columns)
        windows[:-1].view(side, side, batch, rows, columns).copy_(
            flat.as_strided((side, side, batch, rows, columns), (width, 1, height * width, width, 1))
        )
        factors = torch.cat([weight.reshape(len(weight), -1), bias[:, None]], 1)
        ctx.save_for_backward(windows, weight)
        ctx.shape = images.shape
        return (windows.t() @ factors.t()).view(batch, rows, columns, len(weight)).permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        windows, weight = ctx.saved_tensors
        gradient = gradients[0].permute(0, 2, 3, 1).reshape(-1, len(weight))
        wants_images, *wants_factors = ctx.needs_input_grad
        for_images = _for_images(gradient, weight, ctx.shape) if wants_images else None
        if not any(wants_factors):
            return for_images, None, None
        for_factors = windows @ gradient
        return for_images, for_factors[:-1].t().reshape(weight.shape), for_factors[-1]


def _for_images(gradient: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
    """Return ``d x[i, j] = sum over c, k, l of d y[c, i - k, j - l] w[c, k, l]``.

    Args:
        gradient: of the output, a row for each pixel and a column for each channel.
        weight: the convolution's.
        shape: of the images.
    """
    batch, _, height, width = shape
    channels, side = len(weight), weight.shape[-1]
    rows, columns = height - side + 1, width - side + 1
    products = (weight.reshape(channels, -1).t() @ gradient.t()).view(side, side, batch, rows, columns)
    # First over the kernel's rows, where long stretches of memory meet, then the few sums over its columns.
    by_column = F.pad(products[0], (0, 0, 0, side - 1))
    for row in range(1, side):
        by_column[:, :, row : row + rows] += products[row]
    if gradient.dtype == torch.bfloat16:
        by_column = by_column.float()  # sums of few are rounded, not sums of sums
    result = F.pad(by_column[0], (0, side - 1))
    for column in range(1, side):
        result[:, :, column : column + columns] += by_column[column]
    return result.unsqueeze(1).to(gradient.dtype)
