"""Kills: training, evaluation and defenses are ended by SIGKILL, go on, and must end with the files of a whole run."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PHASES", "Kills", "files", "kill_and_compare"]

PHASES = ("mask stage", "joint stage", "evaluation", "defenses")

_VARYING = {"environment.json", "timing.jsonl"}
_MASK_EPOCHS, _JOINT_EPOCHS = 3, 4
_TRAIN = [
    "train",
    "--dataset=digits",
    "--device=cpu",
    "--precision=32",
    "--train-images=120",
    "--validation-images=20",
    f"--mask-stage.epochs={_MASK_EPOCHS}",
    "--mask-stage.batch-size=20",
    f"--joint-stage.epochs={_JOINT_EPOCHS}",
    "--joint-stage.batch-size=20",
    "--model.hidden-units=32",
]
_DEFENSES = ["image-regularization", "--image-regularization.kernels=3", "--image-regularization.bits=1"]
_LIMIT = 1800
"""Seconds after which a process counts as one that hangs."""

# A checkpoint every other step: the moments of a kill are then spread over more states of the folder.
_PROGRAM = """
import sys, inputaware.training.loop as loop
loop._SAVE_EVERY, loop._LOOK_EVERY = 0.0, 2
from inputaware.cli import main
commands, command = [], []
for word in [*sys.argv[1:], "--then"]:
    if word == "--then":
        commands.append(command)
        command = []
    else:
        command.append(word)
sys.exit(max(main(command) for command in commands))
"""


@dataclass
class Kills:
    """What came of it.

    Attributes:
        survived: kills after which the run went on to the same files, by the phase that they struck.
        lost: what was different otherwise: must be empty.
    """

    survived: Counter[str]
    lost: list[str]


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files but the ones that hold times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in _VARYING
    }


def _start(folder: Path, resume: bool) -> subprocess.Popen[str]:
    train = ["train", "--resume"] if resume else _TRAIN
    commands = [*train, "--output", str(folder), "--then", "defend", str(folder), *_DEFENSES]
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *commands],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _phase(folder: Path) -> str | None:
    """Return which part of its work a process is at; none before it has made the folder."""
    if not (folder / "config.json").exists():
        return None
    if (folder / "evaluation.json").exists():
        return "defenses"
    if (folder / "classifier.safetensors").exists():
        return "evaluation"
    try:
        rows = (folder / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        rows = 0
    return "mask stage" if rows < _MASK_EPOCHS else "joint stage"


def _finish(process: subprocess.Popen[str]) -> str:
    """Wait for a process, and return what it complained of."""
    try:
        _, errors = process.communicate(timeout=_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"no end within {_LIMIT} s"
    return "" if process.returncode == 0 else f"exit code {process.returncode}: {errors[-500:]}"


def _watch(folder: Path, process: subprocess.Popen[str]) -> dict[str, float]:
    """Return how long each phase of a process takes, in seconds."""
    seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    before = time.monotonic()
    while process.poll() is None:
        phase = _phase(folder)
        now = time.monotonic()
        if phase is not None:
            seconds[phase] += now - before
        before = now
        time.sleep(0.002)
    return seconds


def kill_and_compare(folder: Path, kills: int, seed: int = 0) -> Kills:
    """Kill a run at random moments, spread evenly over its phases, and compare what it ends with.

    Args:
        folder: an empty folder to work in.
        kills: how many runs to kill; a quarter of them is killed a second time as it goes on.
        seed: of the moments.
    """
    draw = random.Random(seed)
    whole = folder / "whole"
    process = _start(whole, resume=False)
    seconds = _watch(whole, process)
    if complaint := _finish(process):
        raise RuntimeError(f"the run that nobody kills: {complaint}")
    expected = files(whole)
    result = Kills(Counter(), [])
    for number in range(kills):
        run = folder / f"killed-{number}"
        phase = PHASES[number % len(PHASES)]
        struck = _kill(run, _start(run, resume=False), phase, draw.random() * seconds[phase])
        if number % 4 == 3 and (run / "config.json").exists():
            _kill(run, _start(run, resume=True), None, draw.random() * 3)
        complaint = _finish(_start(run, resume=(run / "config.json").exists()))
        found = files(run)
        different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        if complaint or different:
            result.lost.append(f"seed {seed}, kill {number} in the {struck}: {complaint or ', '.join(different)}")
        else:
            result.survived[struck] += 1
    return result


def _kill(run: Path, process: subprocess.Popen[str], phase: str | None, seconds: float) -> str:
    """Kill a process some time after it has entered a phase; return the phase that it was in by then."""
    deadline = time.monotonic() + _LIMIT
    while phase is not None and process.poll() is None and _phase(run) != phase and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    return _phase(run) or "start"
