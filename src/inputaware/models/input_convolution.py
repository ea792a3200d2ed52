"""The first convolution of a network for grey images, with a cheaper gradient for the images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["InputConvolution"]


class InputConvolution(nn.Conv2d):
    """A convolution of one channel, without padding, whose gradient for its input is a matrix product.

    An attack that trains a generator through a classifier needs the gradient for the classifier's images. For
    one input channel torch's kernel on a CPU computes it many times slower than its arithmetic asks for. Here the
    output's gradient is multiplied with the weights, and the products are added where they belong.

    Under autocast and on other devices it is torch's own convolution throughout.

    Args:
        channels: channels of the output.
        side: side of the kernel.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__(1, channels, side)

    def forward(self, input: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch channel rows columns"]:
        """Return the convolution.

        Args:
            input: images, in any unit.
        """
        if input.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not torch.is_grad_enabled():
            return super().forward(input)
        result: Tensor = _Convolve.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return result


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(images, weight)
        return F.conv2d(images, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        images, weight = ctx.saved_tensors
        (gradient,) = gradients
        wants_images, wants_weight, wants_bias = ctx.needs_input_grad
        _, for_weight, for_bias = torch.ops.aten.convolution_backward(
            gradient,
            images,
            weight,
            [len(weight)],
            [1, 1],
            [0, 0],
            [1, 1],
            False,
            [0, 0],
            1,
            [False, wants_weight, wants_bias],
        )
        return _for_images(gradient, weight, images.shape) if wants_images else None, for_weight, for_bias


def _for_images(gradient: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
    """Return ``d x[i, j] = sum over c, k, l of d y[c, i - k, j - l] w[c, k, l]``."""
    batch, channels, rows, columns = gradient.shape
    side = weight.shape[-1]
    flat = gradient.permute(1, 0, 2, 3).reshape(channels, -1)
    products = (weight.reshape(channels, -1).t() @ flat).view(side, side, batch, rows, columns)
    result = gradient.new_zeros(shape)
    for row in range(side):
        for column in range(side):
            result[:, 0, row : row + rows, column : column + columns] += products[row, column]
    return result
