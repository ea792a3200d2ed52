"""Which images samples of the attack are shown of (paper, figures 1 and 3)."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from inputaware.errors import ConfigError

__all__ = ["choose_images"]


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
