"""A run with another number of epochs: the script beside a run that had it from the start."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inputaware import Run, preset_config, train
from inputaware.config.fields import Config
from inputaware.config.record import override
from inputaware.errors import ConfigError
from inputaware.runs.checkpoint import load_checkpoint, load_tensors, save_checkpoint
from inputaware.runs.files import read_json, write_json
from inputaware.runs.folder import RunFolder
from inputaware.runs.results import collect_result

Runner = Callable[..., subprocess.CompletedProcess[str]]

SCRIPT = Path(__file__).parents[2] / "scripts" / "set-epochs"


def settings(epochs: int, **options: Any) -> Config:
    """Return a small training in the paper's schedule, whose rates fall after the first epoch."""
    config = preset_config(
        "paper", dataset="digits", train_images=200, precision="32", device="cpu", model={"hidden_units": 8}
    )
    falling = {"milestones": (1,)}
    stages = {
        "mask_stage": {"epochs": 1},
        "joint_stage": {"epochs": epochs, "classifier": falling, "generator": falling},
    }
    return override(config, stages | options)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run with one joint epoch."""
    return train(settings(1), tmp_path_factory.mktemp("runs") / "short run")


def test_the_run_comes_to_what_a_long_one_comes_to(short: Run, tmp_path: Path, run_script: Runner) -> None:
    before = {path: path.read_bytes() for path in short.folder.path.rglob("*") if path.is_file()}
    new = tmp_path / "long"
    found = run_script(SCRIPT, str(short.folder), "--joint-epochs", "3", "--output", str(new))
    go_on = f"inputaware train --resume --output {new}"
    assert found.stderr == ""
    assert found.returncode == 0
    assert found.stdout == f"{new}: 1 joint epochs of 3 are done; go on with: {go_on}\n"
    assert {path: path.read_bytes() for path in short.folder.path.rglob("*") if path.is_file()} == before
    run, beside = train(None, new, resume=True), train(settings(3), tmp_path / "beside")
    for name in ("config.json", "metrics.jsonl", "evaluation.json"):
        assert (new / name).read_bytes() == (beside.folder.path / name).read_bytes()
    for name in ("classifier", "mask_generator", "pattern_generator"):
        tensors, metadata = load_tensors(new / f"{name}.safetensors")
        others, of_others = load_tensors(beside.folder.path / f"{name}.safetensors")
        assert metadata == of_others
        assert all(torch.equal(tensors[key], others[key]) for key in tensors | others)
    assert read_json(run.folder.environment)["command"] is None  # as that of a run that a program has trained
    # What the short one's epochs took is counted, and one evaluation.
    result = collect_result(new, run.config)
    rows = [(row["part"], row["epoch"]) for row in run.folder.timing.rows()]
    assert rows.count(("evaluation", None)) == 1
    assert ("joint", 1) in rows
    assert ("joint", 3) in rows
    assert result["resumed"] == 1
    assert len(result["validation_by_epoch"]["clean_accuracy"]) == 3


@pytest.mark.parametrize("epochs", [0, -1])
def test_fewer_epochs_than_are_done_are_refused(epochs: int, short: Run, tmp_path: Path, run_script: Runner) -> None:
    found = run_script(SCRIPT, str(short.folder), "--joint-epochs", str(epochs), "--output", str(tmp_path / "new"))
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == (
        f"set-epochs: joint_epochs: expected at least 1, since 1 are done or begun; found {epochs}\n"
    )
    assert not (tmp_path / "new").exists()


def test_an_unfinished_run_ends_earlier(short: Run, copy_of_run: Path, tmp_path: Path, run_script: Runner) -> None:
    (copy_of_run / "evaluation.json").unlink()
    # As of a run that goes on while it is copied: a whole row and a torn one that the checkpoint does not know.
    rows = (copy_of_run / "metrics.jsonl").read_text()
    (copy_of_run / "metrics.jsonl").write_text(rows + rows.splitlines()[-1] + '\n{"stage": "jo')
    wanted = run_script(SCRIPT, str(copy_of_run), "--joint-epochs", "2", "--output", str(tmp_path / "two"))
    assert wanted.returncode == 0
    ended = run_script(SCRIPT, str(tmp_path / "two"), "--joint-epochs", "1", "--output", str(tmp_path / "one"))
    assert ended.returncode == 0
    run = train(None, tmp_path / "one", resume=True)
    for name in ("config.json", "metrics.jsonl", "evaluation.json"):
        assert (run.folder.path / name).read_bytes() == (short.folder.path / name).read_bytes()


def test_a_run_whose_schedule_depends_on_its_length_is_refused(load_script: Any) -> None:
    with_epochs = load_script(SCRIPT).with_epochs
    fast = preset_config("fast", dataset="digits")
    start = (
        "run: expected one whose first epochs do not depend on how many there are, as with preset paper; found "
        "joint_stage.classifier.schedule one-cycle"
    )
    end = "; train anew with --joint-stage.epochs 200"
    shares = "joint_stage.initial_attack_probability 0.17, joint_stage.initial_cross_probability 0.33"
    for attack, more in (
        ("input-aware", f", joint_stage.generator.schedule one-cycle, {shares}"),
        ("badnets", ""),
        ("none", ""),
    ):
        with pytest.raises(ConfigError) as caught:
            with_epochs(replace(fast, attack=attack), 200)
        assert str(caught.value) == start + more + end
    assert with_epochs(settings(1), 200) == settings(200)


def test_epochs_that_are_done_anew_are_counted_once(copy_of_run: Path, tmp_path: Path, run_script: Runner) -> None:
    folder = RunFolder(copy_of_run)
    state = load_checkpoint(folder.checkpoint)
    # As of a run that was killed long after its last checkpoint, at the end of the mask stage.
    save_checkpoint(folder.checkpoint, replace(state, stage=0))
    folder.note_time("joint", 1000.0, torch.device("cpu"), epoch=2)
    folder.note_time("defense strip", 1000.0, torch.device("cpu"))
    record = read_json(folder.environment)
    write_json(folder.environment, record | {"command": "inputaware train --output runs/it"})
    found = run_script(SCRIPT, str(copy_of_run), "--joint-epochs", "2", "--output", str(tmp_path / "new"))
    go_on = f"inputaware train --resume --output {tmp_path / 'new'}"
    assert found.stdout == f"{tmp_path / 'new'}: 0 joint epochs of 2 are done; go on with: {go_on}\n"
    new = RunFolder(tmp_path / "new")
    assert {row["part"] for row in new.timing.rows()} == {"preparation", "mask"}
    assert read_json(new.environment)["command"] == (
        f"inputaware train --output runs/it && scripts/set-epochs {copy_of_run} --joint-epochs 2 "
        f"--output {tmp_path / 'new'} && {go_on}"
    )
    found = run_script(SCRIPT, str(copy_of_run), "--joint-epochs", "0", "--output", str(tmp_path / "none"))
    assert found.stderr == "set-epochs: joint_epochs: expected at least 1; found 0\n"


def test_what_is_no_state_of_the_run_is_refused(copy_of_run: Path, tmp_path: Path, run_script: Runner) -> None:
    def ask(epochs: int = 2) -> str:
        new = tmp_path / "new"
        found = run_script(SCRIPT, str(copy_of_run), "--joint-epochs", str(epochs), "--output", str(new))
        assert (found.returncode, found.stdout) == (2, "")
        assert not new.exists()
        return found.stderr

    folder = RunFolder(copy_of_run)
    state = load_checkpoint(folder.checkpoint)
    save_checkpoint(folder.checkpoint, replace(state, steps=1))
    assert "joint_epochs: expected at least 2, since 2 are done or begun; found 1" in ask(1)
    save_checkpoint(folder.checkpoint, replace(state, rows=0))
    assert ask() == (
        f"set-epochs: {folder}: expected a run that was trained here, an epoch at least; found none of it\n"
    )
    save_checkpoint(folder.checkpoint, replace(state, run="another"))
    assert ask() == (
        f"set-epochs: {folder.checkpoint}: expected the run's own checkpoint; found another one's; train anew\n"
    )
    folder.checkpoint.unlink()
    assert "expected this file of a run folder; found none" in ask()


def test_an_existing_folder_is_not_overwritten(short: Run, tmp_path: Path, run_script: Runner) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").touch()
    found = run_script(SCRIPT, str(short.folder), "--joint-epochs", "3", "--output", str(tmp_path / "new"))
    assert found.returncode == 2
    assert "output: expected" in found.stderr
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine"]


@pytest.fixture
def copy_of_run(short: Run, tmp_path: Path) -> Path:
    """Return a copy of the short run."""
    return Path(shutil.copytree(short.folder.path, tmp_path / "copy"))
