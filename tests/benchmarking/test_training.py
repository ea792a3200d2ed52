"""Which settings of the plain loop are tried, and that what is reported of a stage agrees with itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from inputaware.attacks.base import StepLoss
from inputaware.benchmarking import training, workload
from inputaware.benchmarking.training import LoopSetting, loop_settings, measure_training
from inputaware.benchmarking.workload import StageName
from inputaware.data.loader import Batch
from inputaware.training.step import TrainingStep


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (1, [(0, 1), (1, 1)]),
        (2, [(0, 2), (1, 2), (1, 1), (2, 2), (2, 1)]),
        (6, [(0, 6), (1, 6), (1, 5), (2, 6), (2, 4), (4, 6), (4, 2)]),
    ],
)
def test_settings_of_the_plain_loop(cores: int, expected: list[tuple[int, int]]) -> None:
    assert loop_settings(cores) == [LoopSetting(*pair) for pair in expected]


@pytest.mark.parametrize("stage", ["mask", "joint"])
def test_what_is_reported_agrees_with_itself(stage: StageName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "peak_memory", lambda *_, **__: {"before_mib": 1, "peak_mib": 2})
    threads = torch.get_num_threads()
    shares: list[float] = []
    found = measure_training(
        "digits",
        stage,
        images=64,
        repeats=2,
        steps=1,
        device=torch.device("cpu"),
        precision="32",
        peak_rate=1e9,
        batch_size=16,
        progress=shares.append,
    )
    assert torch.get_num_threads() == threads
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    for kind in ("step", "loop"):
        assert found[f"{kind}_speedup"]["rounds"] == 2
        assert found[f"{kind}_speedup"]["lowest"] <= found[f"{kind}_speedup"]["median"]
    step = found["step"]
    assert step["unrecorded_seconds"] is None
    # Of two rounds the median is the mean, so rates and seconds agree only at the ends of their ranges.
    assert step["images_per_second"]["highest"] == pytest.approx(16 / step["seconds"]["lowest"])
    assert found["operations_per_second"] == pytest.approx(found["operations_per_step"] / step["seconds"]["median"])
    assert found["share_of_peak"] == pytest.approx(found["operations_per_second"] / 1e9)
    # The plain step makes triggers for the partners as well.
    assert found["plain_operations_per_step"] > found["operations_per_step"]
    tried = found["loop"]["plain_settings_tried"]
    best = max(tried, key=lambda row: row["images_per_second"])
    assert (best["workers"], best["threads"]) == (found["loop"]["plain_workers"], found["loop"]["plain_threads"])
    assert len(tried) == len(loop_settings(threads))


def test_where_steps_are_recorded_those_that_are_not_are_timed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Recording(TrainingStep):
        """A step that is recorded, without a GPU; the plain counterpart's is not."""

        def __init__(self, *arguments: Any, captured: bool = True, **options: Any) -> None:
            super().__init__(*arguments, captured=captured, **options)
            if captured:
                self.captured = self.replay  # type: ignore[assignment]

        def replay(self, work: Callable[[Batch], StepLoss], batch: Batch, layout: object) -> StepLoss:
            done.append("replayed")
            return work(batch)

    monkeypatch.setattr(workload, "TrainingStep", Recording)
    monkeypatch.setattr(training, "peak_memory", lambda *_, **__: {"before_mib": 1, "peak_mib": 2})
    monkeypatch.setattr(training, "loop_settings", lambda _: [LoopSetting(0, 1)])
    options: dict[str, Any] = {"images": 64, "repeats": 3, "steps": 1, "precision": "32", "peak_rate": 1e9}
    found = measure_training("digits", "mask", device=torch.device("cpu"), batch_size=16, **options)
    assert found["step"]["unrecorded_seconds"]["rounds"] == 3
    # One step to warm up, three rounds of steps, three of the loop.
    assert len(done) == 7
