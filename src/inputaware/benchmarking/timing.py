"""Taking times: with the device's work waited for, and with the things that are compared taking turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

__all__ = ["seconds_of", "synchronize", "take_turns", "threads"]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked for; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds_of(action: Callable[[], object], device: torch.device) -> float:
    """Return how long an action takes, the device's work included."""
    synchronize(device)
    started = time.perf_counter()
    action()
    synchronize(device)
    return time.perf_counter() - started


def take_turns(timers: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return each timer's seconds of every round.

    All timers run once a round, so that a change of the machine's load falls on all of them, and every other round goes
    through them backwards, so that none always runs after the same other one.

    Args:
        timers: functions that do their work and return its seconds, by name.
        rounds: how often each runs.
    """
    found: dict[str, list[float]] = {name: [] for name in timers}
    for number in range(rounds):
        names = list(timers)
        for name in names if number % 2 == 0 else reversed(names):
            found[name].append(timers[name]())
    return found


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with this many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
