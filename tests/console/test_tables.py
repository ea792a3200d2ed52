"""What a person reads: tables on any width, text from outside shown as it is."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from inputaware.console.tables import (
    benchmark_tables,
    defense_table,
    evaluation_table,
    inspection_table,
    poison_table,
)

RESULT: dict[str, Any] = {
    "test_images": 360,
    "clean_accuracy": 0.99,
    "attack_success_rate": 1.0,
    "attack_success_rate_excluding_target": 0.98765,
    "cross_accuracy": 0.95,
    "cross_accuracy_std": 0.0012,
    "trigger": {"mask_area": 0.0321, "psnr_db": 20.04},
    "per_class": {"images": [36] * 10},
}


CLEAN = {
    **dict.fromkeys(RESULT),
    "test_images": 360,
    "clean_accuracy": 0.5,
    "per_class": RESULT["per_class"],
}


PAPER = {"clean_accuracy": 0.9954, "attack_success_rate": 0.9954, "cross_accuracy": 0.9525}


def drawn(table: Table) -> str:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def cells(table: Table, column: int) -> list[str]:
    return [str(cell) for cell in table.columns[column].cells]


def test_what_was_not_scored_stands_without_a_score() -> None:
    found = {"verdict": "flagged", "sentence": "Found."}
    scored = {**found, "scoring": {"sentence": "Right."}}
    both = defense_table({"one": scored, "two": found}, "both")
    assert both.columns[1].header == "what it found; how it did on the test set"
    assert cells(both, 1) == ["Found.\n\nTest set: Right.", "Found."]
    alone = defense_table({"two": found}, "alone")
    assert alone.columns[1].header == "what it found"
    assert (cells(alone, 0), cells(alone, 1)) == (["two\nflagged"], ["Found."])


def test_rates_are_percent_with_the_paper_beside_them() -> None:
    table = evaluation_table(RESULT, PAPER, "run")
    assert [column.header for column in table.columns] == ["test", "this run, %", "paper, %", "what it means"]
    assert cells(table, 0) == ["clean", "attack", "attack, other classes", "cross"]
    assert cells(table, 1) == ["99.00", "100.00", "98.77", "95.00 ± 0.12"]
    assert cells(table, 2) == ["99.54", "99.54", "-", "95.25"]
    without = "360 images; trigger: 3.2 % of the image's area, PSNR 20.0 dB"
    spread = "cross: ± is the standard deviation of three pairings on these images, not over seeds"
    assert table.caption == f"{without}\n{spread}"
    universal = evaluation_table(RESULT | dict.fromkeys(("cross_accuracy", "cross_accuracy_std")), PAPER, "run")
    assert (cells(universal, 1)[-1], universal.caption) == ("-", without)
    nearest = {"images": 2000, "keeps_label": 0.25, "gets_target": 0.5}
    assert evaluation_table(RESULT | {"reuse": {"nearest": nearest}}, PAPER, "run").caption == (
        f"{table.caption}\nWith the most similar other image's trigger (of 2000 images) 25.0 % keep their true label, "
        "and of those that are not of the attacker's class anyway 50.0 % get that class."
    )


def test_what_does_not_apply_is_a_dash() -> None:
    table = evaluation_table(CLEAN, None, "run")
    assert [column.header for column in table.columns] == ["test", "this run, %", "what it means"]
    assert cells(table, 1) == ["50.00", "-", "-", "-"]
    assert table.caption == "360 images; a clean model has no trigger"


def test_a_model_that_learned_nothing_says_so() -> None:
    assert evaluation_table(CLEAN | {"clean_accuracy": 0.1}, None, "run").caption == (
        "360 images; a clean model has no trigger\nThe classifier is right on 10.0 % of clean images, where always "
        "saying one class is right on 10.0 %: it has learned next to nothing, and its other rates mean nothing."
    )


@pytest.mark.parametrize("title", ["runs/[bold]x[/bold]", "[/red]", "a [link=x]b"])
def test_a_folders_name_is_shown_as_it_is(title: str) -> None:
    assert title in drawn(evaluation_table(RESULT, None, title))


def test_images_without_a_mask_are_named_below_the_heat_where_there_are_some() -> None:
    means = {"heat_share": 0.25, "concentration": 2.0, "auroc": None, "without_heat": 0}
    heat = {"images": 360, "mask_area": 0.05, "backdoor": means, "clean": means}
    caption = "means over 360 test images; the masks cover 5.0 % of the area"
    older = inspection_table({"heat_on_trigger": heat}, "run")
    assert older.caption == caption
    assert cells(older, 1) == ["25.00", "2.00", "-"]
    assert inspection_table({"heat_on_trigger": heat | {"without_mask": 0}}, "run").caption == caption
    assert inspection_table({"heat_on_trigger": heat | {"without_mask": 52}}, "run").caption == (
        f"{caption}\nAUROC: without 52 of them, whose mask has no pixel above 0.5, or no other"
    )


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
    assert table.caption == "1 of 1 get the target"


@pytest.mark.parametrize("name", ["[red]stop[/red]", "[/]", "[bold]", "café [x]"])
@pytest.mark.parametrize("column", ["picture", "prediction_before", "prediction_after", "target"])
def test_class_names_are_shown_as_they_are(column: str, name: str) -> None:
    assert name in drawn(poison_table([row(**{column: name})]))


def test_a_name_of_two_lines_takes_one_row_and_a_sentence_keeps_its_lines() -> None:
    text = drawn(poison_table([row(picture="a\nb.png", target="st\nop")]))
    assert "a\\nb.png" in text
    assert "st\\nop" in text
    record = {"verdict": "clean", "sentence": "one\ntwo", "scoring": {"sentence": "done"}}
    table = defense_table({"my\nown": record}, "a\nrun")
    assert (table.title, cells(table, 0), cells(table, 1)) == (
        "a\\nrun",
        ["my\\nown\nclean"],
        ["one\ntwo\n\nTest set: done"],
    )


@pytest.mark.parametrize(
    ("count", "shown", "caption"), [(3, 3, "3 of 3 get the target"), (4, 3, "the first 3 of 4; 4 of 4 get the target")]
)
def test_a_long_table_is_cut(count: int, shown: int, caption: str | None) -> None:
    table = poison_table([row()] * count, limit=3)
    assert table.row_count == shown
    assert table.caption == caption


def test_what_gets_the_target_anyway_is_counted() -> None:
    rows = [row(prediction_after="stop"), row(prediction_before="yield"), row(prediction_before="yield")]
    words = "2 of 3 get the target; 2 of 3 do without a trigger too, and tell nothing"
    assert poison_table(rows).caption == words
    assert poison_table(rows, limit=2).caption == f"the first 2 of 3; {words}"


def ranged(median: float) -> dict[str, float]:
    return {"median": median, "lowest": median / 2, "highest": median * 2, "rounds": 3}


def measured(stage: str) -> dict[str, Any]:
    """Return what a benchmark says of a stage."""
    return {
        "step": {
            "images_per_second": ranged(2000.0),
            "plain_images_per_second": ranged(1000.0),
            "seconds": ranged(0.064),
        },
        "loop": {
            "images_per_second": ranged(1900.0),
            "plain_images_per_second": ranged(500.0),
            "plain_workers": 2,
            "plain_threads": 1,
        },
        "operations_per_step": 5_155_133_952,
        "share_of_peak": 0.2621,
        "memory": {"product": {"peak_mib": 470}, "plain": {"peak_mib": 583}},
        "seconds_by_part": {"data": 0.001, "classifier": 0.012 if stage == "joint" else 0.0},
    }


BENCHMARK: dict[str, Any] = {
    "settings": {"dataset": "mnist", "repeats": 3},
    "environment": {"device": "cpu", "threads": "2", "precision": "32"},
    "training": {
        "peak": {"operations_per_second": 185e9},
        "mask": measured("mask"),
        "joint": measured("joint"),
    },
    **{f"{stage}_{kind}_speedup": ranged(2.0) for stage in ("mask", "joint") for kind in ("step", "loop")},
    "latency": {
        "mnist": {
            "classifier": {
                "published_ms": 6.51,
                "batch": {
                    "128": {
                        "median_ms": 12.345,
                        "percentile_95_ms": 15.0,
                        "plain": {"median_ms": 14.0},
                        "speedup": {"median": 1.13},
                    }
                },
            }
        }
    },
    "size": {
        "joint": {
            "by_share": [
                {
                    "images": 256,
                    "batch_size": 128,
                    "steps": 2,
                    "seconds": 0.5,
                    "images_per_second": 512.0,
                    "seconds_per_step": 0.25,
                }
            ],
            "by_batch_size": [],
        }
    },
    "startup": {"help_seconds": ranged(0.25), "train_seconds": ranged(3.0), "evaluate_seconds": ranged(4.0)},
}


def test_a_benchmark_has_a_table_for_each_part() -> None:
    speed, cost, latency, size, startup = benchmark_tables(BENCHMARK)
    assert cells(speed, 0) == ["mask step", "mask loop", "joint step", "joint loop"]
    assert cells(speed, 1) == ["2000", "1900", "2000", "1900"]
    assert cells(speed, 2) == ["1000", "500", "1000", "500"]
    assert cells(speed, 3) == ["2.00 (1.00 to 4.00)"] * 4
    assert cells(speed, 4) == ["-", "2 workers, 1 threads"] * 2
    assert speed.caption == "medians (ranges) of 3 rounds; cpu, 2 threads, precision 32"
    assert cells(cost, 2) == ["64.0", "5.16", "26.21", "470", "583", "1.0", "12.0"]
    assert cells(cost, 1)[-1] == "0.0"
    assert "share of the peak (185 GFLOP/s), %" in cells(cost, 0)
    row = ["mnist classifier", "128", "12.35", "15.00", "14.00", "1.13", "6.51"]
    assert [cells(latency, column)[0] for column in range(7)] == row
    assert [cells(size, column)[0] for column in range(6)] == ["256", "128", "2", "0.50", "512", "250.0"]
    assert size.title == "An epoch of the joint stage"
    assert cells(startup, 1) == ["0.25 (0.12 to 0.50)", "3.00 (1.50 to 6.00)", "4.00 (2.00 to 8.00)"]


def test_a_benchmark_shows_only_what_was_measured() -> None:
    assert [table.title for table in benchmark_tables({"startup": BENCHMARK["startup"]})] == ["Start-up"]
    unpublished = {"digits": {"classifier": {**BENCHMARK["latency"]["mnist"]["classifier"], "published_ms": None}}}
    (table,) = benchmark_tables({"latency": unpublished})
    assert cells(table, 6) == ["-"]
