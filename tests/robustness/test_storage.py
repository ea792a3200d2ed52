"""A short version of ``scripts/fault-tests storage``, and what a fault says."""

from __future__ import annotations

import os
import re
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
from robustness.storage import Once, fail_each_write, lose_files, small_config

from inputaware.api import Run, train
from inputaware.cli import main
from inputaware.errors import RunFolderError, WriteError
from inputaware.runs.checkpoint import load_checkpoint
from inputaware.runs.folder import RunFolder
from inputaware.runs.journal import Journal


def test_a_write_that_fails_loses_nothing(tmp_path: Path) -> None:
    found = fail_each_write(tmp_path, every=47)
    assert found.lost == []
    assert sum(found.survived.values()) >= 2


def test_files_that_vanish_while_a_run_is_at_work_lose_nothing(tmp_path: Path) -> None:
    found = lose_files(tmp_path, epochs=(3,), names=("metrics.jsonl", "."))
    assert found.lost == []
    assert set(found.survived) == {"vanished", "truncated"}


def test_files_that_vanish_after_the_last_epoch_are_written_again(tmp_path: Path) -> None:
    found = lose_files(tmp_path, epochs=(4,), names=("metrics.jsonl", "checkpoint/state.safetensors"))
    assert found.lost == []
    assert found.survived == {"vanished": 2, "truncated": 2}


def test_a_checkpoint_folder_that_vanishes_after_the_last_epoch_is_made_again(tmp_path: Path) -> None:
    checkpoints = tmp_path / "run" / "checkpoint"
    train(small_config(), tmp_path / "run", listener=Once(4, lambda: shutil.rmtree(checkpoints)))
    assert load_checkpoint(checkpoints / "state.safetensors").rows == 4
    assert (tmp_path / "run" / "evaluation.json").exists()


def test_a_lock_that_does_not_fit_on_the_disk_is_our_own_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(WriteError) as caught, folder.lock():
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == (
        f"{folder.path}/.lock: expected to write this; found: File too large; free space, and try again"
    )
    assert not (folder.path / ".lock").exists()


def test_a_full_disk_ends_training_with_exit_code_1_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    really, calls = os.fsync, [0]

    def fail(handle: int) -> None:
        calls[0] += 1
        if calls[0] > 8:
            raise OSError(28, "No space left on device")
        really(handle)

    monkeypatch.setattr(os, "fsync", fail)
    run = tmp_path / "run"
    small = ["--train-images=100", "--mask-stage.epochs=2", "--joint-stage.epochs=2", "--model.hidden-units=16"]
    assert main(["train", "--dataset=digits", "--device=cpu", *small, f"--output={run}"]) == 1
    assert re.fullmatch(
        rf"inputaware: {run}/[a-z/.]+: expected to write this; found: No space left on device; free space, and try "
        rf"again; go on with: inputaware train --resume --output {run}",
        capsys.readouterr().err.splitlines()[-1],
    )
    monkeypatch.setattr(os, "fsync", really)
    assert main(["train", "--resume", f"--output={run}"]) == 0


def test_a_journal_that_lost_rows_takes_no_more(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.append({"epoch": 1}, after=0)
    journal.path.write_text("")
    with pytest.raises(RunFolderError) as caught:
        journal.append({"epoch": 2}, after=1)
    assert str(caught.value) == (
        f"{journal.path}: expected 1 rows, as were written; found 0; "
        "the file was changed while training went on: restore it or train again"
    )
    assert journal.rows() == []


def test_what_a_kill_left_half_written_is_removed_by_the_next_writer(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    (folder.path / "checkpoint").mkdir(parents=True)
    (folder.path / ".lock").write_text("999999")
    for name in (".evaluation.json.7.partial", "checkpoint/.state.safetensors.7.partial"):
        (folder.path / name).write_text("half")
    (folder.path / ".inspection.x.partial").mkdir()
    (folder.path / ".inspection.x.old" / "inspection").mkdir(parents=True)
    (folder.path / ".inspection.x.old" / "inspection" / "gallery.png").write_text("mine")
    (folder.path / "notes.partial").write_text("mine")
    (folder.path / "defenses").mkdir()
    (folder.path / "defenses" / ".strip.npz.7.partial").write_text("half")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".mine.partial").write_text("mine")
    # What a stranger's folder links to is none of the run's.
    (folder.path / "defenses" / ".elsewhere.partial").symlink_to(tmp_path / "elsewhere")
    (folder.path / ".inspection.y.old").symlink_to(tmp_path / "elsewhere")
    with folder.lock():
        pass
    left = [".inspection.y.old", "checkpoint", "defenses", "inspection", "notes.partial"]
    assert sorted(os.listdir(folder.path)) == left
    assert os.listdir(folder.path / "checkpoint") == os.listdir(folder.path / "defenses") == []
    assert (folder.path / "inspection" / "gallery.png").read_text() == "mine"
    assert os.listdir(tmp_path / "elsewhere") == [".mine.partial"]


@pytest.mark.parametrize("name", ["checkpoint", "defenses", "inspection"])
@pytest.mark.parametrize("kind", ["folder", "nowhere"])
def test_a_run_with_a_linked_folder_is_not_written(name: str, kind: str, tmp_path: Path) -> None:
    folder, elsewhere = RunFolder(tmp_path / "run"), tmp_path / "elsewhere"
    folder.path.mkdir()
    if kind == "folder":
        elsewhere.mkdir()
        (elsewhere / ".mine.partial").write_text("mine")
    (folder.path / name).symlink_to(elsewhere)
    with pytest.raises(RunFolderError) as caught, folder.lock():
        pass
    assert str(caught.value) == (
        f"{folder.path}/{name}: expected a folder of the run's own; found a link to '{elsewhere}', which is "
        "not written through; put a folder in its place, or remove it"
    )
    assert os.listdir(folder.path) == [name]
    assert kind == "nowhere" or os.listdir(elsewhere) == [".mine.partial"]


def test_memory_stays_flat_over_many_runs(tmp_path: Path) -> None:
    memory: Any = pytest.importorskip("robustness.memory")
    if not Path("/proc/self/statm").exists():
        pytest.skip("resident memory is read from Linux's /proc")
    held = memory.train_many(tmp_path, 4)
    assert held[-1] - held[1] < 30


def test_the_run_of_a_small_configuration_is_whole(tmp_path: Path) -> None:
    run = train(small_config(), tmp_path / "run")
    assert Run.load(tmp_path / "run").folder.identity() == run.folder.identity()
