"""A whole epoch is timed: each batch once."""

from __future__ import annotations

import pytest
import torch

from inputaware.benchmarking.size import seconds_of_epoch
from inputaware.training.step import TrainingStep


@pytest.mark.parametrize(("batch_size", "expected"), [(32, (32, 3)), (64, (64, 1))])
def test_an_epoch(batch_size: int, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(TrainingStep, "__call__", lambda self, batch, **_: sizes.append(len(batch.images)))
    row = seconds_of_epoch(
        "digits", "joint", images=100, batch_size=batch_size, device=torch.device("cpu"), precision="32"
    )
    size, steps = expected
    # One step to warm up, then the epoch.
    assert sizes == [size] * (steps + 1)
    assert (row["images"], row["batch_size"], row["steps"]) == (100, size, steps)
    assert row["seconds_per_step"] == pytest.approx(row["seconds"] / steps)
    assert row["images_per_second"] == pytest.approx(steps * size / row["seconds"])
