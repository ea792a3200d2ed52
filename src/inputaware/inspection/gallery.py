"""Samples of the attack: image, mask, pattern, triggered image and what was added (paper, figures 1 and 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from inputaware.attacks.base import Backdoor
from inputaware.data.loader import to_pixels
from inputaware.errors import ConfigError

__all__ = ["Gallery", "choose_images", "make_gallery"]


@dataclass(frozen=True)
class Gallery:
    """Images with their triggers.

    Attributes:
        images: clean images, pixels in [0, 1].
        masks: where the trigger lies, in [0, 1].
        patterns: what the trigger shows, pixels in [0, 1].
        poisoned: images with their own triggers, pixels in [0, 1].
        residuals: ``poisoned - images``, in [-1, 1].
        targets: the labels that the attacker wants.
    """

    images: Float[Tensor, "batch channel height width"]
    masks: Float[Tensor, "batch 1 height width"]
    patterns: Float[Tensor, "batch channel height width"]
    poisoned: Float[Tensor, "batch channel height width"]
    residuals: Float[Tensor, "batch channel height width"]
    targets: Int64[Tensor, " batch"]


def make_gallery(
    backdoor: Backdoor,
    images: UInt8[Tensor, "batch channel height width"],
    labels: Int64[Tensor, " batch"],
) -> Gallery:
    """Return images with their triggers.

    Args:
        backdoor: how to apply the trigger.
        images: 8-bit images.
        labels: their true labels.
    """
    pixels = to_pixels(images)
    found = backdoor.poison(pixels, labels)
    return Gallery(pixels, found.masks, found.patterns, found.images, found.images - pixels, found.targets)


def choose_images(labels: Int64[Tensor, " images"], each: int, seed: int) -> Int64[Tensor, " chosen"]:
    """Draw images of each class at random, not by their looks.

    Args:
        labels: the images' classes.
        each: how many of each class.
        seed: of the draw.

    Returns:
        Indices, by class.

    Raises:
        ConfigError: fewer than one image of each class is asked for, or more than a class has.
    """
    if each < 1:
        raise ConfigError(f"images: expected a number of at least 1, the images of each class; found {each}")
    counts = torch.bincount(labels)
    present = [label for label, count in enumerate(counts.tolist()) if count]
    rarest = min(present, key=lambda label: int(counts[label]))
    if each > counts[rarest]:
        raise ConfigError(
            f"images: expected at most {int(counts[rarest])}, the test images of class {rarest}; found {each}"
        )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    shuffled = labels.cpu()[order]
    return torch.cat([order[shuffled == label][:each] for label in present])
