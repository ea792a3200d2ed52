"""What a person reads: tables on any width, text from outside shown as it is, lines where there is no terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from inputaware.console import TrainingDisplay, evaluation_table, poison_table, progress_bar
from inputaware.training.loop import EpochReport

RESULT: dict[str, Any] = {
    "test_images": 360,
    "clean_accuracy": 0.99,
    "attack_success_rate": 1.0,
    "attack_success_rate_excluding_target": 0.98765,
    "cross_accuracy": 0.95,
    "cross_accuracy_std": 0.0012,
    "trigger": {"mask_area": 0.0321, "psnr_db": 20.04},
}
CLEAN = {
    **dict.fromkeys(RESULT),
    "test_images": 360,
    "clean_accuracy": 0.5,
}
PAPER = {"clean_accuracy": 0.9954, "attack_success_rate": 0.9954, "cross_accuracy": 0.9525}


def drawn(table: Table) -> str:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def cells(table: Table, column: int) -> list[str]:
    return [str(cell) for cell in table.columns[column].cells]


def test_rates_are_percent_with_the_paper_beside_them() -> None:
    table = evaluation_table(RESULT, PAPER, "run")
    assert [column.header for column in table.columns] == ["test", "this run, %", "paper, %", "what it means"]
    assert cells(table, 0) == ["clean", "attack", "attack, other classes", "cross"]
    assert cells(table, 1) == ["99.00", "100.00", "98.77", "95.00 ± 0.12"]
    assert cells(table, 2) == ["99.54", "99.54", "-", "95.25"]
    assert table.caption == "360 images; trigger: 3.2 % of the image's area, PSNR 20.0 dB"


def test_what_does_not_apply_is_a_dash() -> None:
    table = evaluation_table(CLEAN, None, "run")
    assert [column.header for column in table.columns] == ["test", "this run, %", "what it means"]
    assert cells(table, 1) == ["50.00", "-", "-", "-"]
    assert table.caption == "360 images; a clean model has no trigger"


@pytest.mark.parametrize("title", ["runs/[bold]x[/bold]", "[/red]", "a [link=x]b"])
def test_a_folders_name_is_shown_as_it_is(title: str) -> None:
    assert title in drawn(evaluation_table(RESULT, None, title))


def row(**changes: Any) -> dict[str, Any]:
    return {
        "picture": "a.png",
        "prediction_before": "stop",
        "probability_before": 0.984,
        "prediction_after": "yield",
        "probability_after": 1.0,
        "target": "yield",
        **changes,
    }


def test_predictions_before_and_after() -> None:
    table = poison_table([row()])
    assert [column.header for column in table.columns] == ["image", "before", "after", "attacker's target"]
    assert [cells(table, index) for index in range(4)] == [["a.png"], ["stop (98 %)"], ["yield (100 %)"], ["yield"]]
    assert table.caption is None


@pytest.mark.parametrize("name", ["[red]stop[/red]", "[/]", "[bold]", "café [x]"])
@pytest.mark.parametrize("column", ["picture", "prediction_before", "prediction_after", "target"])
def test_class_names_are_shown_as_they_are(column: str, name: str) -> None:
    assert name in drawn(poison_table([row(**{column: name})]))


@pytest.mark.parametrize(("count", "shown", "caption"), [(3, 3, None), (4, 3, "the first 3 of 4")])
def test_a_long_table_is_cut(count: int, shown: int, caption: str | None) -> None:
    table = poison_table([row()] * count, limit=3)
    assert table.row_count == shown
    assert table.caption == caption


def report(epoch: int, **changes: Any) -> EpochReport:
    return EpochReport(
        **{
            "stage": "joint",
            "epoch": epoch,
            "epochs": 5,
            "losses": {"total": 1.5, "cross_entropy": 0.25},
            "validation": {"clean_accuracy": 0.5, "attack_success_rate": 0.25, "cross_accuracy": None},
            "seconds": 1.0,
            "images_per_second": 1234.4,
            **changes,
        }
    )


LINE = "joint stage, epoch {}/5: total 1.5000 cross entropy 0.2500 clean 50.00 attack 25.00 1234 images/s\n"


def test_without_a_terminal_a_line_is_printed_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("inputaware.console.time.monotonic", lambda: now)
    output = io.StringIO()
    with TrainingDisplay(Console(file=output, width=40)) as display:
        display.stage_started("joint", 5, 10, 0)
        display.stepped(10, {"total": 1.0})
        display.epoch_finished(report(1))
        now += 9
        display.epoch_finished(report(2))
        now += 2
        display.epoch_finished(report(3))
        display.epoch_finished(report(4))
        display.epoch_finished(report(5))
    assert output.getvalue() == LINE.format(1) + LINE.format(3) + LINE.format(5)


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
