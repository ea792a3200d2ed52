"""Lines where there is no terminal, bars on one."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from inputaware.console.displays import TrainingDisplay, named_progress, progress_bar
from inputaware.training.loop import EpochReport


def report(epoch: int, **changes: Any) -> EpochReport:
    return EpochReport(
        **{
            "stage": "joint",
            "epoch": epoch,
            "epochs": 5,
            "losses": {"total": 1.5, "cross_entropy": 0.25},
            "validation": {"clean_accuracy": 0.5, "attack_success_rate": 0.25, "cross_accuracy": None},
            "images_per_second": 1234.4,
            **changes,
        }
    )


LINE = "joint stage, epoch {}/5: total 1.5000 cross entropy 0.2500 clean 50.00 attack 25.00 1234 images/s{}\n"


def test_without_a_terminal_a_line_is_printed_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("inputaware.console.displays.time.monotonic", lambda: now)
    output = io.StringIO()
    with TrainingDisplay(Console(file=output, width=40)) as display:
        display.stage_started("joint", 5, 10, 0)
        display.stepped(10, {"total": 1.0})
        now += 187.5
        display.epoch_finished(report(1))
        now += 9
        display.epoch_finished(report(2))
        now += 2
        display.epoch_finished(report(3))
        display.epoch_finished(report(4))
        display.epoch_finished(report(5))
    # Of the stage: four epochs as long as the first, then two as long as the mean of the first three.
    lines = ((1, ", about 0:12:30 left"), (3, ", about 0:02:12 left"), (5, ""))
    assert output.getvalue() == "".join(LINE.format(*line) for line in lines)


def test_the_time_left_of_a_resumed_stage_is_that_of_the_epochs_since(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("inputaware.console.displays.time.monotonic", lambda: now)
    output = io.StringIO()
    with TrainingDisplay(Console(file=output)) as display:
        display.stage_started("joint", 5, 10, 3)
        now += 40
        display.epoch_finished(report(4))
    assert output.getvalue() == LINE.format(4, ", about 0:00:40 left")


def test_a_stage_without_accuracies_prints_its_losses() -> None:
    output = io.StringIO()
    with TrainingDisplay(Console(file=output)) as display:
        display.stage_started("mask", 5, 10, 0)
        display.epoch_finished(report(5, stage="mask", losses={"norm": 0.5}, validation={}))
    assert output.getvalue() == "mask stage, epoch 5/5: norm 0.5000 1234 images/s\n"


def test_on_a_terminal_the_bar_follows_steps_and_stages() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=200, color_system=None)
    with TrainingDisplay(console) as display:
        display.stage_started("mask", 2, 10, 1)
        display.stepped(4, {"norm": 0.125})
        (mask,) = display.progress.tasks
        assert (mask.description, mask.completed, mask.total) == ("mask stage", 14, 20)
        assert mask.fields["status"] == "norm 0.125"
        display.stage_started("joint", 5, 10, 0)
        display.stepped(10, {"cross_entropy": 0.25})
        display.epoch_finished(report(1))
        joint = display.progress.tasks[1]
        assert (joint.completed, joint.total, joint.visible) == (10, 50, True)
        assert not display.progress.tasks[0].visible
        assert joint.fields["status"] == "cross entropy 0.250 | clean 50.00 attack 25.00 | 1234 images/s"
    assert "joint stage" in output.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_says_what_runs_only_on_a_terminal(terminal: bool) -> None:
    output = io.StringIO()
    with progress_bar(Console(file=output, force_terminal=terminal, width=80), "evaluating") as tell:
        tell(0.5)
        tell(1.0)
    assert ("evaluating" in output.getvalue()) == terminal


def test_off_a_terminal_a_long_work_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 29.0, 31.0, 31.0, 40.0, 40.0])
    monkeypatch.setattr("inputaware.console.displays.time.monotonic", lambda: next(now))
    output = io.StringIO()
    with named_progress(Console(file=output, force_terminal=False, width=80)) as tell:
        for share in (0.1, 0.2, 0.3, 1.0, 1.0):
            tell("strip", share)
    assert output.getvalue().splitlines() == ["strip: 20%", "strip: done"]
