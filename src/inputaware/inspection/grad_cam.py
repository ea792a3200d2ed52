"""Grad-CAM (Selvaraju et al. 2017): where a classifier looks, and how much of that is the trigger."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from inputaware.models.precision import full_float32

__all__ = ["concentration", "grad_cam", "heat_auroc", "heat_share"]

_CHUNK = 100
"""Images in a pass; their gradients are kept as well."""


def grad_cam(
    classifier: nn.Module,
    layer: nn.Module,
    images: Float[Tensor, "batch channel height width"],
    classes: Int64[Tensor, " batch"],
) -> Float[Tensor, "batch height width"]:
    """Return the heat map of each image: ``relu(sum_k a_k A_k)``.

    ``a_k`` is the mean over places of the gradient of the class's logit for channel ``A_k`` (Selvaraju et al. 2017,
    equations 1 and 2). captum computes it; it is then enlarged to the image's size (bilinear). It has no unit: maps
    of two images can be compared in their shape only.

    Args:
        classifier: maps pixels in [0, 1] to logits.
        layer: the module whose output ``A`` is looked at.
        images: pixels in [0, 1].
        classes: the class of each image whose logit is explained.

    Returns:
        Heat, 0 or more; all 0 where nothing in the map speaks for the class.
    """
    from captum.attr import LayerGradCam

    explainer = LayerGradCam(classifier.eval(), layer)
    parts = []
    for chunk, wanted in zip(torch.split(images, _CHUNK), torch.split(classes, _CHUNK), strict=True):
        # The weights need no gradients, so the images must ask for some.
        asking = chunk.detach().clone().requires_grad_(True)
        with full_float32():
            found = explainer.attribute(asking, target=wanted, relu_attributions=True)
        parts.append(F.interpolate(found.detach(), chunk.shape[2:], mode="bilinear", align_corners=False)[:, 0])
    return torch.cat(parts)


def heat_share(
    heat: Float[Tensor, "batch height width"], masks: Float[Tensor, "batch height width"]
) -> Float64[Tensor, " batch"]:
    """Return the share of each image's heat that lies on its mask: ``sum(h m) / sum h``; NaN where there is no heat.

    Args:
        heat: heat maps, 0 or more.
        masks: masks in [0, 1].
    """
    heat, masks = heat.double(), masks.double()
    return (heat * masks).sum((1, 2)) / heat.sum((1, 2))


def concentration(
    heat: Float[Tensor, "batch height width"], masks: Float[Tensor, "batch height width"]
) -> Float64[Tensor, " batch"]:
    """Return the share of heat on the mask over the mask's share of the area: 1 where heat knows nothing of the mask.

    Args:
        heat: heat maps, 0 or more.
        masks: masks in [0, 1].

    Returns:
        0 or more; NaN where there is no heat or no mask.
    """
    return heat_share(heat, masks) / masks.double().mean((1, 2))


def heat_auroc(
    heat: Float[Tensor, "batch height width"], masks: Float[Tensor, "batch height width"]
) -> Float64[Tensor, " batch"]:
    """Return how well heat tells pixels on the mask from others: the area under each image's ROC curve.

    It is the chance that a pixel on the mask (above 1/2) is hotter than one beside it, ties counting half; computed
    from the ranks.

    Args:
        heat: heat maps.
        masks: masks in [0, 1].

    Returns:
        In [0, 1]; NaN where no pixel or every pixel is on the mask.
    """
    values = heat.flatten(1).contiguous()
    inside = (masks.flatten(1) > 0.5).double()
    ordered = values.sort(1).values
    below = torch.searchsorted(ordered, values)
    up_to = torch.searchsorted(ordered, values, right=True)
    ranks = (below + up_to + 1).double() / 2
    positives = inside.sum(1)
    negatives = inside.shape[1] - positives
    return ((ranks * inside).sum(1) - positives * (positives + 1) / 2) / (positives * negatives)
