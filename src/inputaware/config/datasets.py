"""The data sets that are known by name, and how many images they have."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["COLOURED", "DATASETS", "IMAGE_COUNTS", "IMAGE_SUFFIXES", "ImageCounts", "held_out"]

_HELD_OUT = 5_000
"""Training images in the validation split, and as many in the defender's; of digits and of one's own fewer."""


class ImageCounts(NamedTuple):
    """How many images a data set has.

    Attributes:
        published: its publisher's, to train on.
        test: its publisher's, to test on.
        held_out: those of the published in the validation split, and as many in the defender's.
    """

    published: int
    test: int
    held_out: int = _HELD_OUT

    @property
    def train(self) -> int:
        """Those in the ``train`` split: what the others leave."""
        return self.published - 2 * self.held_out


IMAGE_COUNTS = {
    "digits": ImageCounts(1437, 360, held_out=144),
    "mnist": ImageCounts(60_000, 10_000),
    "cifar10": ImageCounts(50_000, 10_000),
    "gtsrb": ImageCounts(39_209, 12_630),
}
"""The images of each data set that is known by name."""

DATASETS = tuple(IMAGE_COUNTS)
"""The data sets that are known by name; anything else is a path."""

COLOURED = ("cifar10", "gtsrb")
"""Those of them whose images have colour."""

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""What counts as an image in a folder; other files are passed over."""


def held_out(images: int, classes: int) -> int:
    """Return how many training images of one's own make the validation split, and as many the defender's."""
    return max(classes, min(_HELD_OUT, images // 10))
