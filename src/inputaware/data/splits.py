"""Stratified splits of the training data: what trains, what chooses settings, what a defender is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from inputaware.config.datasets import IMAGE_COUNTS, held_out
from inputaware.errors import DataError

__all__ = ["Splits", "split_indices", "subset_indices"]


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Indices into the training data, ascending; disjoint, and together all of it."""

    train: Int64[Tensor, " train"]
    """What the networks are trained on."""
    validation: Int64[Tensor, " validation"]
    """What settings are chosen with."""
    defender: Int64[Tensor, " defender"]
    """The clean images a defender is given: no training sees them that holds images out."""


def split_indices(
    labels: Int64[Tensor, " images"], *, name: str, class_names: Sequence[str] = (), seed: int = 0
) -> Splits:
    """Split training data by class share, the same way every time.

    Validation and defender get 5,000 images each (digits: 144); of a user's own images a tenth each, at most
    5,000 and at least one of every class.

    Args:
        labels: classes of the training images, 0 to K - 1.
        name: name of the data set, or a path.
        class_names: name of each class, for messages.
        seed: seed of the draw.

    Raises:
        DataError: a class has too few images to be in all three splits, or the data are too few in all.
    """
    classes = labels.cpu().numpy()
    counts = np.bincount(classes)

    def words(label: int) -> str:
        name = class_names[label] if class_names else str(label)
        return str(label) if name == str(label) else f"{label} ({name})"

    if counts.min() < 3:
        rare = int(counts.argmin())
        raise DataError(
            f"{name}: expected at least 3 training images of every class, one for each of train, validation and "
            f"defender; found {counts[rare]} of class {words(rare)}; add images or remove the class"
        )
    total = len(classes)
    if name in IMAGE_COUNTS:
        size = IMAGE_COUNTS[name].held_out
        needed = 2 * size + len(counts)
        if total < needed:
            raise DataError(
                f"{name}: expected at least {needed} training images, {size} each for validation and defender and "
                f"one of every class to train on; found {total}; check that the file is whole"
            )
    else:
        size = held_out(total, len(counts))
    shares = _apportion(counts.tolist(), size, minimum=1)
    short = [label for label, (share, count) in enumerate(zip(shares, counts, strict=True)) if 2 * share >= count]
    if short:
        raise DataError(
            f"{name}: expected enough training images of class {words(short[0])} for all three splits; found "
            f"{counts[short[0]]}, of which validation and defender take {shares[short[0]]} each; add images"
        )
    members = _shuffled_members(classes, len(counts), seed)
    return Splits(
        validation=_ascending([own[:share] for own, share in zip(members, shares, strict=True)]),
        defender=_ascending([own[share : 2 * share] for own, share in zip(members, shares, strict=True)]),
        train=_ascending([own[2 * share :] for own, share in zip(members, shares, strict=True)]),
    )


def subset_indices(
    labels: Int64[Tensor, " images"], indices: Int64[Tensor, " available"], count: int, seed: int = 0
) -> Int64[Tensor, " count"]:
    """Choose some of the images, the same share of every class.

    Args:
        labels: classes of all images.
        indices: the images to choose from.
        count: how many to choose, 1 or more.
        seed: seed of the draw.

    Returns:
        The chosen indices, ascending.

    Raises:
        DataError: fewer images are there than are asked for.
    """
    if not 1 <= count <= len(indices):
        raise DataError(f"subset: expected between 1 and {len(indices)} images, which are there; found {count}")
    candidates = indices.cpu().numpy()
    classes = labels.cpu().numpy()[candidates]
    counts = np.bincount(classes)
    shares = _apportion(counts.tolist(), count, minimum=0)
    members = _shuffled_members(classes, len(counts), seed)
    chosen = [candidates[own[:share]] for own, share in zip(members, shares, strict=True)]
    return _ascending(chosen)


def _apportion(counts: Sequence[int], total: int, *, minimum: int) -> list[int]:
    """Share out ``total`` in proportion to ``counts`` by largest remainders, with a minimum for every class.

    The quotas are compared as whole numbers (times the sum of the counts), so that no rounding decides a tie.
    """
    whole = sum(counts)
    shares = [max(minimum, count * total // whole) for count in counts]
    excess = [share * whole - count * total for share, count in zip(shares, counts, strict=True)]
    while (difference := total - sum(shares)) != 0:
        if difference > 0:
            label, step = min(range(len(counts)), key=excess.__getitem__), 1
        else:
            spare = [label for label, share in enumerate(shares) if share > minimum]
            label, step = max(spare, key=excess.__getitem__), -1
        shares[label] += step
        excess[label] += step * whole
    return shares


def _shuffled_members(
    classes: np.ndarray[tuple[int], np.dtype[np.int64]], number: int, seed: int
) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Return the positions of each class in random order."""
    # NumPy promises that this generator's stream never changes; its newer ones and torch's come without a promise.
    random = np.random.RandomState(seed % 2**32)
    return [random.permutation(np.flatnonzero(classes == label)) for label in range(number)]


def _ascending(parts: Sequence[np.ndarray[tuple[int], np.dtype[np.int64]]]) -> Int64[Tensor, " images"]:
    return torch.from_numpy(np.sort(np.concatenate(parts)).astype(np.int64))
