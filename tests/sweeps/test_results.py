"""What counts of a cell: everything where it is finished, its evaluation where a defense broke it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from inputaware.api import train
from inputaware.defenses.settings import DefenseSettings, StripSettings
from inputaware.evaluation.doubts import doubts, doubts_over_seeds
from inputaware.runs.files import read_json, write_json
from inputaware.sweeps.grid import plan_sweep
from inputaware.sweeps.progress import CellState
from inputaware.sweeps.results import _csv, write_results

TINY = {
    "dataset": "digits",
    "attack": "badnets",
    "train_images": 100,
    "validation_images": 20,
    "device": "cpu",
    "model.hidden_units": 16,
    "joint_stage": {"epochs": 1, "batch_size": 50},
}


def test_a_defense_that_broke_a_cell_leaves_its_evaluation(tmp_path: Path) -> None:
    sweep = plan_sweep({"base": {**TINY, "seed": [0, 1]}, "defenses": ["strip"]}, {})
    first, second = sweep.cells
    run = train(first.config, tmp_path / "runs" / first.name)
    run.defend("strip", DefenseSettings(strip=StripSettings(overlays=2)), seed=0)
    states = {first.name: CellState(first.name, "finished"), second.name: CellState(second.name, "broken", error="no")}

    whole = write_results(sweep, tmp_path, states)
    (record,) = whole["configurations"]
    assert record["seeds"] == [0]
    assert "defenses.strip.scoring.false_acceptance_rate" in record["measures"]

    # The result that is there may have been made with other settings, for it did not count.
    states[first.name] = CellState(first.name, "broken", error="strip: out of memory")
    summary = write_results(sweep, tmp_path, states)
    assert json.loads((tmp_path / "summary.json").read_text())["broken"] == summary["broken"]
    assert summary["broken"] == {first.name: "strip: out of memory", second.name: "no"}
    assert summary["cells"] == {"finished": 0, "broken": 2, "left": 0}
    (record,) = summary["configurations"]
    assert record["seeds"] == [0]
    assert record["measures"]["clean_accuracy"]["mean"] == run.evaluate()["clean_accuracy"]
    assert not [name for name in record["measures"] if name.startswith("defenses")]
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["broken", "broken"]
    assert [row["clean_accuracy"] is None for row in rows] == [False, True]
    assert [row["config.seed"] for row in rows] == [0, 1]


def test_runs_that_are_no_example_are_told(tmp_path: Path) -> None:
    # One epoch of two steps teaches nothing; what the other one found is written in its place.
    sweep = plan_sweep({"base": {**TINY, "seed": [0, 1, 2]}}, {})
    first, second, left = sweep.cells
    train(first.config, tmp_path / "runs" / first.name)
    run = train(second.config, tmp_path / "runs" / second.name)
    evaluation = {name: value for name, value in run.evaluate().items() if name != "sha256"}
    others = {"clean_accuracy": 0.9, "attack_success_rate": 0.95, "attack_success_rate_excluding_target": 0.94}
    write_json(run.folder.evaluation, {**evaluation, **others})
    states = {cell.name: CellState(cell.name, "finished") for cell in (first, second)}
    summary = write_results(sweep, tmp_path, {**states, left.name: CellState(left.name)})
    (record,) = summary["configurations"]
    assert record["doubted_seeds"] == [0]
    assert record["doubts"] == doubts_over_seeds(
        {0: read_json(tmp_path / "runs" / first.name / "evaluation.json"), 1: {**evaluation, **others}}
    )
    assert "1 of 2 seeds (0)" in record["doubts"][0]
    words = " ".join(doubts(read_json(tmp_path / "runs" / first.name / "evaluation.json")))
    assert pq.read_table(tmp_path / "results.parquet")["doubts"].to_pylist() == [words, "", None]
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        assert [row["doubts"] for row in csv.DictReader(file)] == [words, "", ""]


def test_the_rows_stand_as_csv_too_without_lists(tmp_path: Path) -> None:
    sweep = plan_sweep({"base": {**TINY, "seed": [0, 1]}, "defenses": ["strip"]}, {})
    first, second = sweep.cells
    train(first.config, tmp_path / "runs" / first.name).defend(
        "strip", DefenseSettings(strip=StripSettings(overlays=2))
    )
    states = {first.name: CellState(first.name, "finished"), second.name: CellState(second.name, "waiting")}
    write_results(sweep, tmp_path, states)
    table = pq.read_table(tmp_path / "results.parquet")
    lists = [field.name for field in table.schema if pa.types.is_list(field.type)]
    assert "config.joint_stage.generator.betas" in lists
    # STRIP never decides: the column of its verdicts as numbers is there, and empty.
    assert table.schema.field("defenses.strip.flagged").type == pa.float64()
    assert table["defenses.strip.flagged"].to_pylist() == [None, None]
    plain = table.drop_columns(lists)
    # Only the types say that a number of threads is a text. No text and an empty one look alike.
    types = pa.csv.ConvertOptions(column_types=plain.schema)
    found = pa.csv.read_csv(tmp_path / "results.csv", convert_options=types)
    assert found.column_names == plain.column_names
    for name in plain.column_names:
        nothing = "" if pa.types.is_string(plain.schema.field(name).type) else None
        assert found[name].to_pylist() == [nothing if value is None else value for value in plain[name].to_pylist()]

    # What a reader of text alone sees: a number with all its digits, truth, nothing where there is nothing.
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        done, left = csv.DictReader(file)
    rate = table["clean_accuracy"][0].as_py()
    assert (done["config.attack"], done["config.hold_out"], done["clean_accuracy"]) == ("badnets", "True", str(rate))
    assert (done["defenses.strip.verdict"], done["error"], left["clean_accuracy"]) == ("no-verdict", "", "")

    error = 'it said: "no,\nnever" of köln'
    rows = [{"error": error, "norms": [1.0], "number": 1}, {"number": 2, "norms": None}]
    assert _csv(rows, ["error", "norms", "number"]) == 'error,number\r\n"it said: ""no,\nnever"" of köln",1\r\n,2\r\n'
