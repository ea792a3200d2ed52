"""Several listeners are told in order, and TensorBoard's files hold the epochs' numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from inputaware.errors import ConfigError, RunFolderError
from inputaware.training.listeners import Listeners, TensorBoardListener
from inputaware.training.loop import EpochReport


def report(epoch: int = 1) -> EpochReport:
    return EpochReport(
        stage="joint",
        epoch=epoch,
        epochs=3,
        losses={"total": 2.5 / epoch, "cross_entropy": 0.5},
        validation={"clean_accuracy": 0.75, "cross_accuracy": None},
        images_per_second=640.0,
    )


class Recorder:
    def __init__(self, name: str, told: list[tuple[Any, ...]]) -> None:
        self.name = name
        self.told = told

    def stage_started(self, stage: str, epochs: int, steps: int, done: int) -> None:
        self.told.append((self.name, stage, epochs, steps, done))

    def stepped(self, steps: int, losses: dict[str, float]) -> None:
        self.told.append((self.name, steps, losses))

    def epoch_finished(self, report: EpochReport) -> None:
        self.told.append((self.name, report))


def test_all_are_told_in_their_order() -> None:
    told: list[tuple[Any, ...]] = []
    listeners = Listeners([Recorder("a", told), Recorder("b", told)])
    listeners.stage_started("mask", 3, 10, 1)
    listeners.stepped(4, {"norm": 0.5})
    listeners.epoch_finished(report())
    assert told == [
        ("a", "mask", 3, 10, 1),
        ("b", "mask", 3, 10, 1),
        ("a", 4, {"norm": 0.5}),
        ("b", 4, {"norm": 0.5}),
        ("a", report()),
        ("b", report()),
    ]


def test_tensorboard_without_the_extra_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError) as caught:
        TensorBoardListener(tmp_path / "events")
    assert str(caught.value) == (
        "tensorboard: expected the extra of that name; found none; "
        "in the checkout: pip install -c constraints.txt -e '.[tensorboard]'"
    )
    assert not (tmp_path / "events").exists()


def test_a_folder_that_cannot_be_made_is_refused_before_there_is_anything(tmp_path: Path) -> None:
    pytest.importorskip("torch.utils.tensorboard", reason="needs the extra tensorboard")
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError) as caught:
        TensorBoardListener(tmp_path / "file" / "x")
    assert str(caught.value) == (
        f"tensorboard: expected a path beneath a folder; found '{tmp_path}/file/x/events' beneath the file "
        f"'{tmp_path}/file'; choose another one"
    )


def test_tensorboard_gets_a_point_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[Any, ...]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            written.append(("folder", folder))

        def add_scalar(self, name: str, value: float, epoch: int) -> None:
            written.append((name, value, epoch))

        def flush(self) -> None:
            written.append(("flush",))

    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    listener = TensorBoardListener(tmp_path)
    listener.stage_started("joint", 3, 10, 0)
    listener.stepped(4, {"total": 1.0})
    listener.epoch_finished(report(2))
    assert written == [
        ("folder", str(tmp_path)),
        ("joint/loss/total", 1.25, 2),
        ("joint/loss/cross_entropy", 0.5, 2),
        ("joint/validation/clean_accuracy", 0.75, 2),
        ("joint/speed/images_per_second", 640.0, 2),
        ("flush",),
    ]
