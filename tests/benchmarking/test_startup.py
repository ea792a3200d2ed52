"""Start-up is that of the real command, in a process that ends with the measurement."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inputaware.benchmarking import startup
from inputaware.benchmarking.startup import measure_startup
from inputaware.errors import InputAwareError


def test_help() -> None:
    found = measure_startup("help", repeats=2)
    assert found["rounds"] == 2
    assert 0 < found["lowest"] <= found["median"] <= found["highest"]


def test_train_is_stopped_at_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []
    folders: list[Path] = []
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
        started.append(popen(command, **options))
        folders.append(Path(command[-1]))
        return started[-1]

    monkeypatch.setattr(startup.subprocess, "Popen", start)
    assert startup._seconds_to_first_step(Path(os.environ["INPUTAWARE_CACHE"]) / "start") > 0
    (process,) = started
    assert process.returncode == 143
    assert (folders[0] / "timing.jsonl").read_text().count("preparation") == 1
    assert not (folders[0] / "evaluation.json").exists()


def test_evaluate_is_timed_on_a_finished_run(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        assert (Path(command[-2]) / "evaluation.json").exists()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(startup, "_tiny_run", lambda folder: (folder.mkdir(), (folder / "evaluation.json").touch()))
    monkeypatch.setattr(startup.subprocess, "run", run)
    assert measure_startup("evaluate", repeats=3)["rounds"] == 3
    assert [command[3] for command in commands] == ["evaluate"] * 4
    assert not Path(commands[0][-2]).exists()


def test_a_training_that_does_not_start_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('boom')"]
    monkeypatch.setattr(startup, "_command", lambda _: command)
    with pytest.raises(InputAwareError) as caught:
        startup._seconds_to_first_step(tmp_path / "run")
    words = f"startup: expected 'inputaware train --dataset digits --output {tmp_path / 'run'}' to run; "
    assert str(caught.value).startswith(f"{words}found exit code 1: boom; ")


def test_a_command_that_fails_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 2, stdout="", stderr="usage\nsomething is missing\n")
    monkeypatch.setattr(startup.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(InputAwareError) as caught:
        startup._seconds_of_command(["poison"])
    assert str(caught.value) == (
        "startup: expected 'inputaware poison' to run; found exit code 2: something is missing; "
        "mend this, or leave the part out"
    )
