"""Samples of the attack: image, mask, pattern, triggered image and what was added (paper, figures 1 and 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from inputaware.attacks.base import Backdoor
from inputaware.data.loader import to_pixels
from inputaware.errors import ConfigError

__all__ = ["Gallery", "choose_images", "enlarge", "grid", "make_gallery", "show_pixels", "show_residuals"]

_WHITE = 255


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


def show_pixels(images: Float[Tensor, "batch channel height width"]) -> UInt8[np.ndarray, "batch height width 3"]:
    """Return pixels in [0, 1] as bytes with three channels: 0 is black and 1 white, nothing is stretched."""
    colour = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    scaled = (colour.clamp(0, 1) * 255).round().to(torch.uint8)
    shown: NDArray[np.uint8] = scaled.permute(0, 2, 3, 1).cpu().numpy()
    return shown


def show_residuals(residuals: Float[Tensor, "batch channel height width"]) -> UInt8[np.ndarray, "batch height width 3"]:
    """Return residuals in [-1, 1] as bytes, ``1/2 + r/2``.

    Grey is unchanged; white is brighter by one, black darker by one.
    """
    return show_pixels(0.5 + residuals / 2)


def enlarge(cells: UInt8[np.ndarray, "batch height width 3"], factor: int) -> UInt8[np.ndarray, "batch high wide 3"]:
    """Return pictures with each pixel as a square of ``factor`` pixels."""
    larger: NDArray[np.uint8] = cells.repeat(factor, axis=1).repeat(factor, axis=2)
    return larger


def grid(columns: list[UInt8[np.ndarray, "rows height width 3"]], gap: int) -> UInt8[np.ndarray, "high wide 3"]:
    """Return pictures side by side, one row for each image, on white.

    Args:
        columns: for each column its pictures, as many in each.
        gap: pixels around each picture.
    """
    rows, height, width = columns[0].shape[:3]
    canvas = np.full((gap + rows * (height + gap), gap + len(columns) * (width + gap), 3), _WHITE, dtype=np.uint8)
    for column, pictures in enumerate(columns):
        left = gap + column * (width + gap)
        for row, picture in enumerate(pictures):
            top = gap + row * (height + gap)
            canvas[top : top + height, left : left + width] = picture
    return canvas
