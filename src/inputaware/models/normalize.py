"""The one step from pixels to normalised values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from inputaware.errors import DataError

__all__ = ["Normalize"]


class Normalize(nn.Module):
    """Normalise pixels: ``(x - mean) / std`` for each channel.

    Mean and standard deviation are constants, not entries of the state dict: they belong to the data set.
    They are kept as Python numbers, so that a network in float64 gets them in full precision, and they
    follow the device and the precision of the images.

    Args:
        mean: mean of each channel, in pixels of [0, 1].
        std: standard deviation of each channel, in the same unit, above 0.
        shape: channels, height and width of the images; none: any.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], shape: tuple[int, int, int] | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.identity = all(value == 0 for value in self.mean) and all(value == 1 for value in self.std)
        self._constants: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        self._constants_for(torch.device("cpu"), torch.float32)

    def forward(
        self, images: Shaped[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Return normalised images.

        Args:
            images: pixels in [0, 1].

        Raises:
            DataError: they have another shape, or are bytes or other integers, which would be normalised by constants
                that are rounded to 0.
        """
        # Sizes are known without a look at the pixels. Some others would pass through a network, and mean nothing.
        if self.shape is not None and tuple(images.shape[1:]) != self.shape:
            raise DataError(
                f"images: expected a tensor of shape (batch, {', '.join(map(str, self.shape))}), which the classifier "
                f"was made for; found {tuple(images.shape)}; resize the images"
            )
        if not images.is_floating_point():
            raise DataError(
                f"images: expected pixels in [0, 1] as floating-point numbers; found {images.dtype}; "
                "divide bytes by 255"
            )
        if self.identity:
            return images
        mean, std = self._constants_for(images.device, images.dtype)
        return (images - mean) / std

    def scale(
        self, difference: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Return a difference of two images in normalised units: ``d / std``, for the mean cancels.

        Args:
            difference: difference of pixels, in [-1, 1].
        """
        if self.identity:
            return difference
        return difference / self._constants_for(difference.device, difference.dtype)[1]

    def extra_repr(self) -> str:
        """Return the constants, for printing the network."""
        return f"mean={self.mean}, std={self.std}"

    def _constants_for(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation beside the images; they are copied to a device once."""
        key = (device, dtype)
        if key not in self._constants:
            if torch.compiler.is_compiling():  # which knows no context that is torch's own
                return self._make(device, dtype)
            # A constant made in inference mode could not serve a later backward pass, one of torch.func nothing later.
            with torch.inference_mode(False), torch._C._DisableFuncTorch():
                self._constants[key] = self._make(device, dtype)
        return self._constants[key]

    def _make(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        mean, std = (
            torch.tensor(values, device=device, dtype=dtype).view(-1, 1, 1) for values in (self.mean, self.std)
        )
        return mean, std
