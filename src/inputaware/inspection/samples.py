"""Which images samples of the attack are shown of (paper, figures 1 and 3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from inputaware.errors import ConfigError

__all__ = ["choose_images", "named_images"]


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


def named_images(indices: Sequence[int], count: int) -> Int64[Tensor, " chosen"]:
    """Return the images that somebody asked for, in that order.

    Args:
        indices: their places among all images, from 0.
        count: of all images.

    Raises:
        ConfigError: there are none, one is no place of an image, or one stands twice.
    """
    asked: list[Any] = list(indices)
    if not asked:
        raise ConfigError("indices: expected one image of the test set or more; found none; name some, or leave it out")
    for index in asked:
        if not isinstance(index, int | np.integer) or isinstance(index, bool):
            raise ConfigError(f"indices: expected whole numbers, places in the test set; found {index!r}")
        if not 0 <= index < count:
            raise ConfigError(f"indices: expected numbers from 0 to {count - 1}, places in the test set; found {index}")
    index, times = Counter(asked).most_common(1)[0]
    if times > 1:
        raise ConfigError(f"indices: expected each image once; found {index} {times} times; name it once")
    return torch.tensor([int(index) for index in asked])
