"""Where the time of a step goes."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

from torch import nn

from inputaware.benchmarking.timing import synchronize
from inputaware.benchmarking.workload import MIDDLE, Workload

__all__ = ["PARTS", "seconds_by_part"]

PARTS = ("data", "generators", "classifier", "losses", "backward", "optimiser")
"""data: the loader. generators and classifier: their forward passes. losses: the rest of the forward pass, the blend
included. backward: all gradients. optimiser: learning rates, clearing of gradients, new weights, moving averages."""


class _Stopwatch:
    """Adds up the time between the starts and the ends of modules' forward passes."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.seconds = 0.0
        self.started = 0.0

    def watch(self, module: nn.Module) -> list[Any]:
        """Return handles of the hooks that measure a module."""
        return [module.register_forward_pre_hook(self._start), module.register_forward_hook(self._end)]

    def _start(self, *_: Any) -> None:
        self.started = self.now()

    def _end(self, *_: Any) -> None:
        self.seconds += self.now() - self.started


def seconds_by_part(workload: Workload, steps: int) -> dict[str, float]:
    """Return the median time of each part of a step.

    The device's work is waited for at the end of each part, and on a GPU the parts are launched kernel by kernel, where
    a whole step is replayed from a recording: their sum is a multiple of a step's time.

    Args:
        workload: the product's stage, and its data.
        steps: how many steps to measure; one more is done before them.
    """
    step, device = workload.step, workload.device

    def now() -> float:
        synchronize(device)
        return time.perf_counter()

    generators, classifier = _Stopwatch(now), _Stopwatch(now)
    stage = workload.stage
    handles: list[Any] = []
    for name in ("generator", "mask_generator", "pattern_generator"):
        if hasattr(stage, name):
            handles += generators.watch(getattr(stage, name))
    if hasattr(stage, "classifier"):
        handles += classifier.watch(stage.classifier)
    rows: list[dict[str, float]] = []
    batches = workload.batches()
    try:
        with workload.arithmetic():
            for _ in range(steps + 1):
                generators.seconds = classifier.seconds = 0.0
                times = [now()]
                batch = next(batches)
                times.append(now())
                step.prepare(epoch=0, progress=MIDDLE)
                times.append(now())
                loss = step.loss(batch, MIDDLE)
                times.append(now())
                step.backward(loss)
                times.append(now())
                step.update()
                step.follow()
                times.append(now())
                data, preparing, forward, backward, updating = (end - start for start, end in itertools.pairwise(times))
                rows.append(
                    {
                        "data": data,
                        "generators": generators.seconds,
                        "classifier": classifier.seconds,
                        "losses": forward - generators.seconds - classifier.seconds,
                        "backward": backward,
                        "optimiser": preparing + updating,
                    }
                )
    finally:
        for handle in handles:
            handle.remove()
    # The first step makes what is made only once.
    return {part: statistics.median(row[part] for row in rows[1:]) for part in PARTS}
