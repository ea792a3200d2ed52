"""The course of the learning rate."""

from __future__ import annotations

import math

from inputaware.config.fields import OptimizerConfig

__all__ = ["learning_rate"]

_FLOOR = 1e-4
"""The share of the peak at which a one-cycle schedule ends."""
_START = 1 / 25
"""The share of the peak at which a one-cycle schedule starts."""


def learning_rate(config: OptimizerConfig, *, epoch: int, progress: float) -> float:
    """Return the learning rate of a step.

    ``step`` multiplies the learning rate by 0.1 after each milestone. ``one-cycle`` (Smith 2018) rises from a
    25th of the peak to the peak and falls to a ten-thousandth of it, both along half a cosine.

    Args:
        config: the optimiser's settings.
        epoch: how many epochs of the stage are done.
        progress: the share of the stage's steps that lies behind, in [0, 1).
    """
    if config.schedule == "step":
        return config.learning_rate * 0.1 ** sum(epoch >= milestone for milestone in config.milestones)
    if progress < config.warmup:
        start, end, share = _START, 1.0, progress / config.warmup
    else:
        start, end, share = 1.0, _FLOOR, (progress - config.warmup) / (1 - config.warmup)
    return config.learning_rate * (start + (end - start) * (1 - math.cos(math.pi * share)) / 2)
