"""What defenses share that repair a classifier: how they divide clean images, and are scored before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from inputaware.data.splits import subset_indices
from inputaware.defenses.base import Progress, Trial
from inputaware.evaluation.metrics import attack_rates, mean_over
from inputaware.evaluation.words import in_percent, success_in_words

__all__ = ["curve_arrays", "divide", "most_pruned", "rates_along", "rates_in_words"]


def divide(
    labels: Int64[Tensor, " images"], *, held_out: float, seed: int
) -> tuple[Int64[Tensor, " used"], Int64[Tensor, " held"]]:
    """Return the clean images that repair, and those that are held out to choose by: the same share of every class.

    Args:
        labels: of all clean images, two or more.
        held_out: the share that is held out, in (0, 1); one image at least is in either part.
        seed: of the draw.

    Returns:
        Both ascending, on the labels' device.
    """
    everything = torch.arange(len(labels))
    count = min(len(labels) - 1, max(1, round(held_out * len(labels))))
    held = subset_indices(labels, everything, count, seed)
    used = torch.ones(len(labels), dtype=torch.bool)
    used[held] = False
    return everything[used].to(labels.device), held.to(labels.device)


def most_pruned(accuracy: Float64[Tensor, " stages"], *, tolerance: float) -> int:
    """Return the furthest stage of a pruning that costs at most ``tolerance`` of accuracy.

    Args:
        accuracy: clean accuracy before, and with more and more pruned.
        tolerance: fraction in [0, 1].
    """
    # Far below one image's share, so that a cost of exactly the tolerance is allowed.
    allowed = accuracy >= accuracy[0] - tolerance - 1e-9
    return int(allowed.nonzero().max())


def rates_along(
    predictions: Callable[[Tensor, Progress], Tensor], trial: Trial, progress: Progress = lambda share: None
) -> list[dict[str, Any]]:
    """Return the ``clean_accuracy`` of each stage of a repair, and under ``attack`` the attack's rates.

    Args:
        predictions: returns the predicted classes of images, (stages, batch); it is handed what to tell its progress.
        trial: test images, and the backdoor; of a clean model ``attack`` is none.
        progress: told the share of the work that is done.
    """
    labels, share = trial.clean.labels, 1.0 if trial.backdoor is None else 0.5
    clean = predictions(trial.clean.pixels, lambda done: progress(share * done))
    found: list[dict[str, Any]] = [{"clean_accuracy": mean_over(row == labels), "attack": None} for row in clean]
    if trial.poisoned is not None:
        poisoned = predictions(trial.poisoned.images, lambda done: progress(0.5 + done / 2))
        for point, row in zip(found, poisoned, strict=True):
            point["attack"] = attack_rates(row, trial.poisoned.targets, labels)
    return found


def curve_arrays(points: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """Return what :func:`rates_along` found as arrays by their names; NaN where a notion does not apply.

    Args:
        points: one or more, of the same model.
    """
    arrays = {"clean_accuracy": np.array([point["clean_accuracy"] for point in points])}
    for name in points[0]["attack"] or {}:
        values = [point["attack"][name] for point in points]
        arrays[name] = np.array([float("nan") if value is None else value for value in values])
    return arrays


def rates_in_words(points: Mapping[str, Mapping[str, Any]]) -> str:
    """Return clean accuracy and attack success of a classifier at several stages of its repair.

    Args:
        points: of :func:`rates_along`, by the words for each stage; two or more.
    """
    words = ", ".join(f"{in_percent(point['clean_accuracy'], 1)} {name}" for name, point in points.items())
    if not all(point["attack"] for point in points.values()):
        return f"Clean accuracy is {words}; a clean model has no attack to lose."
    *first, last = (success_in_words(point["attack"]) for point in points.values())
    return f"Clean accuracy is {words}; the attack succeeds on {', '.join(first)} and {last} of the images."
