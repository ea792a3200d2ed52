"""Memory: many runs one after another in one process, and what is left of it after each."""

from __future__ import annotations

import gc
from pathlib import Path

from robustness.storage import small_config

from inputaware.api import train
from inputaware.defenses.settings import DefenseSettings, ImageRegularizationSettings

__all__ = ["resident_mib", "train_many"]


def resident_mib() -> float:
    """Return how much memory the process holds now, in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096 / 2**20


def train_many(folder: Path, runs: int) -> list[float]:
    """Train, evaluate and defend small runs one after another; return what the process holds after each, in MiB.

    Args:
        folder: an empty folder to work in.
        runs: how many.
    """
    settings = DefenseSettings(image_regularization=ImageRegularizationSettings(kernels=(3,), bits=(1,)))
    held = []
    for number in range(runs):
        run = train(small_config(seed=number), folder / str(number))
        run.defend("image-regularization", settings)
        del run
        gc.collect()
        held.append(resident_mib())
    return held
