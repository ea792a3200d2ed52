"""The parts of a step are named, add up, and leave no hooks behind."""

from __future__ import annotations

import itertools

import pytest
import torch

from inputaware.benchmarking import parts
from inputaware.benchmarking.parts import PARTS, seconds_by_part
from inputaware.benchmarking.workload import StageName, Workload


@pytest.mark.parametrize("stage", ["mask", "joint"])
def test_every_part_is_timed(stage: StageName) -> None:
    workload = Workload.build("digits", stage, images=32, device=torch.device("cpu"), precision="32", batch_size=16)
    found = seconds_by_part(workload, 2)
    assert tuple(found) == PARTS
    assert (found["classifier"] > 0) == (stage == "joint")
    assert all(seconds > 0 for part, seconds in found.items() if part != "classifier")
    for recipe in workload.stage.recipes.values():
        assert not recipe.module._forward_hooks
        assert not recipe.module._forward_pre_hooks


def test_a_clock_that_ticks_once_a_look_gives_what_one_can_count(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(parts.time, "perf_counter", lambda: float(next(ticks)))
    workload = Workload.build("digits", "joint", images=32, device=torch.device("cpu"), precision="32", batch_size=16)
    # The forward pass is looked at twice for each of the two generators and for the classifier, and once at its end.
    assert seconds_by_part(workload, 1) == {
        "data": 1.0,
        "generators": 2.0,
        "classifier": 1.0,
        "losses": 4.0,
        "backward": 1.0,
        "optimiser": 2.0,
    }
