"""The trigger of each image on each image: whether triggers can be used again (main paper, cross-trigger test)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from inputaware.attacks.base import Backdoor
from inputaware.attacks.trigger import apply_trigger

__all__ = ["choose_of_each", "cross_triggers"]


def cross_triggers(
    backdoor: Backdoor, images: Float[Tensor, "image channel height width"]
) -> Float[Tensor, "trigger image channel height width"]:
    """Return every image with every image's trigger: ``B(x_j, x_i) = x_j + (p(x_i) - x_j) * m(x_i)``.

    Args:
        backdoor: how to apply the trigger.
        images: clean images ``x``, pixels in [0, 1].

    Returns:
        Row ``i`` holds the trigger of image ``i`` on each image ``j``; the diagonal is the attack, the rest the
        cross-trigger test.
    """
    masks, patterns = backdoor.trigger(images)
    return torch.stack(
        [
            apply_trigger(images, mask.expand(len(images), -1, -1, -1), pattern.expand_as(images))
            for mask, pattern in zip(masks, patterns, strict=True)
        ]
    )


def choose_of_each(labels: Int64[Tensor, " images"], most: int) -> Int64[Tensor, " chosen"]:
    """Return the places of the first image of each class; where these are too many, evenly over the classes.

    Args:
        labels: classes of images that are sorted by class.
        most: how many at most.
    """
    values = labels.cpu()
    first = torch.tensor([place for place, label in enumerate(values) if place == 0 or label != values[place - 1]])
    if len(first) <= most:
        return first
    return first[torch.linspace(0, len(first) - 1, most).round().long()]
