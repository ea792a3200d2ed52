"""How a sweep goes: the state of each cell, and the time left."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["CellState", "CellStatus", "seconds_left"]

CellStatus = Literal["waiting", "running", "finished", "kept", "broken"]
"""kept: it was finished before the sweep started. broken: it failed, and the rest goes on."""

_TELLING = 0.05
"""Share of a cell's work from which on its own pace says how long it takes."""


@dataclass
class CellState:
    """Where a cell stands.

    Attributes:
        group: cells of one group take about the same time.
        status: see :data:`CellStatus`.
        stage: what a running cell is at.
        share: of its work that is done, in [0, 1].
        seconds: since its present attempt began; of a finished cell what the last attempt took.
        attempts: how often a worker took it up in this sweep.
        worker: node and process of the last one.
        error: of a broken cell.
    """

    group: str
    status: CellStatus = "waiting"
    stage: str = ""
    share: float = 0.0
    seconds: float = 0.0
    attempts: int = 0
    worker: str = ""
    error: str = ""


def seconds_left(states: Mapping[str, CellState], slots: int) -> float | None:
    """Return how long the rest takes; none while nothing tells.

    A running cell goes on at its own pace. One that waits takes what its group takes on average, or, where none of its
    group has got anywhere yet, what all cells take on average. The sum is divided by the cells that run at the same
    time; the slowest running cell is the least.

    Args:
        states: of all cells, by name.
        slots: how many cells run at the same time.
    """
    known: dict[str, list[float]] = {}
    for state in states.values():
        if state.status == "finished":
            known.setdefault(state.group, []).append(state.seconds)
        elif state.status == "running" and state.share >= _TELLING:
            known.setdefault(state.group, []).append(state.seconds / state.share)
    if not known:
        waits = any(state.status in ("waiting", "running") for state in states.values())
        return None if waits else 0.0
    means = {group: statistics.fmean(found) for group, found in known.items()}
    overall = statistics.fmean(means.values())
    rest = [0.0]
    total = 0.0
    for state in states.values():
        expected = means.get(state.group, overall)
        if state.status == "waiting":
            total += expected
        elif state.status == "running":
            if state.share >= _TELLING:
                expected = state.seconds / state.share
            rest.append(max(0.0, expected - state.seconds))
    return max(*rest, (total + sum(rest)) / max(1, slots)) if len(rest) > 1 else total / max(1, slots)
