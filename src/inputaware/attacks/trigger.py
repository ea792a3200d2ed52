"""The one place where a trigger is blended into an image."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["apply_trigger"]


def apply_trigger(
    images: Float[Tensor, "batch channel height width"],
    mask: Float[Tensor, "batch 1 height width"],
    pattern: Float[Tensor, "batch channel height width"],
) -> Float[Tensor, "batch channel height width"]:
    """Return the images with triggers applied: ``B = x + (p - x) * m`` (main paper).

    Where the mask is 0 the result is the image and where it is 1 the pattern, bit for bit; pixels stay in
    [0, 1]. With mask and pattern of the image itself this is the attack ``B(x, x)``, with those of another
    image ``x'`` the cross-trigger test's ``B(x, x')``.

    The authors' release blends normalised images and patterns. Normalisation is affine, with the same constants
    for both, and each mask value weighs all channels of a pixel, so blending pixels and normalising afterwards
    is the same.

    Args:
        images: pixels in [0, 1].
        mask: how much of the pattern shows, in [0, 1], one channel.
        pattern: pixels in [0, 1].
    """
    return torch.lerp(images, pattern, mask)
