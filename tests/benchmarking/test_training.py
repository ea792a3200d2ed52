"""Which settings of the plain loop are tried, and that what is reported of a stage agrees with itself."""

from __future__ import annotations

import pytest
import torch

from inputaware.benchmarking import training
from inputaware.benchmarking.training import LoopSetting, loop_settings, measure_training
from inputaware.benchmarking.workload import StageName


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
