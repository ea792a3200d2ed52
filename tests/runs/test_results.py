"""Published results hold the run's numbers and the paper's beside them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inputaware.config.fields import AttackName, Config, TargetName
from inputaware.config.presets import preset_config
from inputaware.config.record import config_to_dict, override
from inputaware.errors import RunFolderError
from inputaware.runs.files import read_json, seal, write_json
from inputaware.runs.journal import Journal
from inputaware.runs.results import collect_result, published, published_filters, read_evaluation

# The main paper's table for all-to-one, the supplement's table 3 for all-to-all, in percent.
PAPER = {
    ("mnist", "all-to-one"): (99.54, 99.54, 95.25),
    ("cifar10", "all-to-one"): (94.65, 99.32, 88.16),
    ("gtsrb", "all-to-one"): (99.27, 99.84, 96.80),
    ("mnist", "all-to-all"): (99.46, 98.47, 94.34),
    ("cifar10", "all-to-all"): (94.49, 93.16, 89.40),
    ("gtsrb", "all-to-all"): (98.93, 98.13, 94.29),
}
ENVIRONMENT = {
    "processor": "a processor",
    "device": "cpu",
    "threads": "2",
    "precision": "32",
    "command": "inputaware train",
    "commit": "abc",
    "python": "3.11",
    "versions": {"torch": "2"},
}


@pytest.fixture
def config() -> Config:
    return preset_config("fast", dataset="mnist", target_class=3, seed=5)


@pytest.fixture
def run(tmp_path: Path, config: Config) -> Path:
    """Return a folder with the records of a finished run."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_json(folder / "evaluation.json", {"clean_accuracy": 0.5})
    write_json(folder / "environment.json", ENVIRONMENT)
    for stage, epoch, watched in (
        ("mask", 1, {}),
        ("joint", 1, {"clean_accuracy": 0.4}),
        ("joint", 2, {"clean_accuracy": 0.5}),
    ):
        Journal(folder / "metrics.jsonl").append({"stage": stage, "epoch": epoch, "validation": watched})
    # The second epoch of the mask stage was done twice.
    rows = (
        ("preparation", None, 0.26, 100),
        ("mask", 1, 1.5, 300),
        ("mask", 2, 99.0, 310),
        ("mask", 2, 2.0, 310),
        ("joint", 1, 4, 250),
    )
    for part, epoch, seconds, memory in rows:
        row = {"part": part, "epoch": epoch, "seconds": seconds, "peak_memory_mib": memory}
        Journal(folder / "timing.jsonl").append(row)
    return folder


@pytest.mark.parametrize(("dataset", "target"), PAPER)
def test_the_papers_numbers(dataset: str, target: TargetName) -> None:
    clean, attack, cross = PAPER[dataset, target]
    row = published(preset_config("paper", dataset=dataset, target=target))
    assert row == pytest.approx(
        {"clean_accuracy": clean / 100, "attack_success_rate": attack / 100, "cross_accuracy": cross / 100}
    )


@pytest.mark.parametrize(
    ("dataset", "attack"), [("digits", "input-aware"), (".", "input-aware"), ("mnist", "badnets"), ("mnist", "none")]
)
def test_where_the_paper_has_no_numbers(dataset: str, attack: AttackName) -> None:
    assert published(preset_config("fast", dataset=dataset, attack=attack)) is None


def test_table_4() -> None:
    found = published_filters("cifar10")
    assert found is not None
    assert list(found) == ["original", "k=3", "k=5", "3 bits", "2 bits", "1 bit"]
    percent = {key: [round(100 * row[key], 2) for row in found.values()] for key in found["original"]}
    assert percent == {
        "clean_accuracy": [94.49, 68.37, 34.76, 86.56, 63.60, 28.22],
        "attack_success_rate": [93.16, 66.63, 35.29, 85.38, 62.26, 25.18],
    }
    assert published_filters("mnist") is None


def test_a_result_holds_what_the_folder_says(run: Path, config: Config) -> None:
    assert collect_result(run, config) == {
        "dataset": "mnist",
        "attack": "input-aware",
        "target": "all-to-one",
        "target_class": 3,
        "preset": "fast",
        "seed": 5,
        "trained_on": "the train split",
        "resumed": 0,
        "evaluation": {"clean_accuracy": 0.5},
        "paper": {"clean_accuracy": 0.9954, "attack_success_rate": 0.9954, "cross_accuracy": 0.9525},
        "validation_by_epoch": {"clean_accuracy": [0.4, 0.5]},
        "wall_seconds": 7.8,
        "seconds_by_part": {"preparation": 0.3, "mask": 3.5, "joint": 4},
        "peak_memory_mib": 310,
        "defenses": {},
        "device": "a processor",
        "gpus": 0,
        "threads": "2",
        "precision": "32",
        "command": "inputaware train",
        "commit": "abc",
        "versions": {"python": "3.11", "torch": "2"},
        "config": config_to_dict(config),
    }


def test_what_depends_on_target_and_device(run: Path, config: Config) -> None:
    write_json(run / "environment.json", {**ENVIRONMENT, "device": "a GPU"})
    result = collect_result(run, override(config, {"target": "all-to-all"}))
    assert result["target_class"] is None
    assert (result["device"], result["gpus"]) == ("a GPU", 1)
    write_json(run / "environment.json", {**ENVIRONMENT, "device": "a GPU", "processes": "4"})
    assert collect_result(run, config)["gpus"] == 4


def test_what_part_of_the_data_was_trained_on_and_that_it_was_resumed_are_said(run: Path, config: Config) -> None:
    write_json(run / "environment.json", {**ENVIRONMENT, "resumed": [ENVIRONMENT]})
    result = collect_result(run, override(config, {"train_images": 700}))
    assert result["trained_on"] == "the train split, 700 of its images"
    assert result["resumed"] == 1
    result = collect_result(run, override(config, {"hold_out": False}))
    assert (result["trained_on"], result["validation_by_epoch"]) == ("the whole training set, none held out", None)


def test_a_run_that_was_trained_elsewhere_has_no_cost(run: Path, config: Config) -> None:
    write_json(run / "environment.json", {**ENVIRONMENT, "imported": {"file": "netC.pth.tar"}})
    (run / "metrics.jsonl").unlink()
    for rows in (True, False):  # evaluated by train --resume, or by evaluate
        if not rows:
            (run / "timing.jsonl").unlink()
        result = collect_result(run, config)
        assert [result[name] for name in ("validation_by_epoch", "wall_seconds", "peak_memory_mib")] == [None] * 3
        assert result["evaluation"] == {"clean_accuracy": 0.5}
        assert result["trained_on"] == "the whole training set, by the authors' release"


def test_a_result_is_written_as_json(run: Path, config: Config, tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", collect_result(run, config))
    assert read_json(tmp_path / "result.json") == json.loads(json.dumps(collect_result(run, config)))


def test_a_run_that_is_not_finished_is_refused(run: Path, config: Config) -> None:
    mine = run.rename(run.with_name("my run"))
    (mine / "evaluation.json").unlink()
    with pytest.raises(RunFolderError) as caught:
        collect_result(mine, config)
    assert str(caught.value) == (
        f"{mine}: expected a finished run with an evaluation.json; found none; "
        f"go on with: inputaware train --resume --output '{mine}'"
    )


def test_an_evaluation_without_rates_is_to_be_made_again(run: Path) -> None:
    mine = run.rename(run.with_name("my run"))
    write_json(mine / "evaluation.json", {})
    with pytest.raises(RunFolderError) as caught:
        read_evaluation(mine / "evaluation.json")
    assert str(caught.value) == (
        f"{mine}/evaluation.json: expected an evaluation's rates; found others; "
        f"make it again with: inputaware evaluate '{mine}'"
    )


@pytest.mark.parametrize(
    ("file", "content", "found"),
    [
        ("environment.json", "{}", "KeyError: 'device'"),
        ("timing.jsonl", json.dumps(seal({"part": "joint", "epoch": 1})) + "\n", "KeyError: 'seconds'"),
    ],
)
def test_a_run_with_incomplete_records_is_refused(
    run: Path, config: Config, file: str, content: str, found: str
) -> None:
    (run / file).write_text(content)
    with pytest.raises(RunFolderError) as caught:
        collect_result(run, config)
    assert str(caught.value) == (
        f"{run}: expected the records of a finished run; found {found}; restore its files or train again"
    )


@pytest.mark.parametrize("name", ["metrics.jsonl", "timing.jsonl"])
@pytest.mark.parametrize(
    ("content", "found"),
    [(None, "no such file"), ("", "none"), (json.dumps(seal({"stage": "mask", "part": "mask"})) + "\n", "none")],
)
def test_a_journal_that_lost_the_joint_stage_is_named(
    run: Path, config: Config, name: str, content: str | None, found: str
) -> None:
    file = run / name
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(RunFolderError) as caught:
        collect_result(run, config)
    assert str(caught.value) == (
        f"{file}: expected rows of the joint stage; found {found}; "
        "restore the file from a copy, or train again into another folder"
    )


def test_a_missing_record_is_named(run: Path, config: Config) -> None:
    file = run / "environment.json"
    file.unlink()
    with pytest.raises(RunFolderError) as caught:
        collect_result(run, config)
    assert str(caught.value) == (
        f"{file}: expected this file of a run folder; found none; restore the file or train again"
    )


def test_results_are_read_without_torch(start_child: Callable[..., subprocess.Popen[Any]]) -> None:
    output, errors = start_child("import sys, inputaware.runs.results; print('torch' in sys.modules)").communicate()
    assert (output, errors) == ("False\n", "")
