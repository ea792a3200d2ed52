"""The attack's own losses, as functions of tensors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["diversity_loss", "mask_norm_loss"]


def diversity_loss(
    input_difference: Float[Tensor, "batch channel height width"],
    trigger_difference: Float[Tensor, "batch trigger_channel height width"],
    *,
    eps: float = 1e-7,
) -> Float[Tensor, ""]:
    """Return how much less triggers differ than the images that they were made from.

    ``L_div = mean(||x - x'|| / (||t(x) - t(x')|| + eps))`` (main paper), where ``||.||`` is the root mean square
    of an image and eps stands outside of the root (release). ``t`` is the mask in stage 1 and the pattern in
    stage 2. It is computed in float32 at least, whatever the surrounding precision.

    Deviation: the gradient of a norm at zero is taken as zero, so that two equal triggers give a finite loss and
    a finite gradient. In the release their gradient is NaN.

    Args:
        input_difference: ``x - x'``, in normalised units.
        trigger_difference: ``t(x) - t(x')``; patterns in normalised units, masks as they are.
        eps: keeps the quotient finite, above 0.
    """
    return (_root_mean_square(input_difference) / (_root_mean_square(trigger_difference) + eps)).mean()


def mask_norm_loss(mask: Float[Tensor, "batch 1 height width"], *, density: float) -> Float[Tensor, ""]:
    """Return the mean size of masks above the density that costs nothing: ``mean(relu(m - density))``.

    The form is the release's.

    Args:
        mask: masks in [0, 1], after the soft threshold.
        density: the paper's tau, in [0, 1].
    """
    return F.relu(mask - density).mean()


def _root_mean_square(difference: Tensor) -> Float[Tensor, " batch"]:
    """Return the root mean square of each image; torch gives this norm a gradient of zero at zero."""
    difference = difference.to(torch.promote_types(difference.dtype, torch.float32))
    norm: Tensor = torch.linalg.vector_norm(difference, dim=(1, 2, 3))
    return norm / math.sqrt(difference[0].numel())
