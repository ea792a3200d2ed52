"""How long the command takes before it does what it was asked for."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, cast

from inputaware.api import train
from inputaware.config.presets import preset_config
from inputaware.errors import InputAwareError
from inputaware.evaluation.statistics import summary

__all__ = ["STARTS", "measure_startup"]

STARTS = ("help", "train", "evaluate")
"""help: ``inputaware --help``. train: ``inputaware train --dataset digits`` until its first step. evaluate: the whole
``inputaware evaluate`` of a run on digits."""

_POLL = 0.005
"""Seconds between two looks whether training has begun."""
_PATIENCE = 300.0
"""Seconds after which a start counts as failed."""


def measure_startup(start: str, *, repeats: int) -> dict[str, float]:
    """Return the seconds of a command from the start of its process; a first time, from the disk, is left out.

    Args:
        start: one of :data:`STARTS`.
        repeats: how often.

    Raises:
        InputAwareError: the command failed.
    """
    with tempfile.TemporaryDirectory(prefix="inputaware-") as temporary:
        folder = Path(temporary)
        if start == "evaluate":
            _tiny_run(folder / "run")
        seconds = []
        for number in range(repeats + 1):
            if start == "train":
                seconds.append(_seconds_to_first_step(folder / str(number)))
            else:
                arguments = ["--help"] if start == "help" else ["evaluate", str(folder / "run"), "--json"]
                seconds.append(_seconds_of_command(arguments))
    return summary(seconds[1:])


def _tiny_run(folder: Path) -> None:
    """Train for a moment: how well is of no interest here."""
    config = preset_config(
        "fast",
        dataset="digits",
        train_images=128,
        validation_images=20,
        mask_stage={"epochs": 1},
        joint_stage={"epochs": 1},
    )
    train(config, folder)


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "inputaware", *arguments]


def _seconds_of_command(arguments: list[str]) -> float:
    started = time.perf_counter()
    answer = subprocess.run(_command(arguments), capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if answer.returncode:
        raise _failed(arguments, answer.returncode, answer.stderr)
    return seconds


def _seconds_to_first_step(output: Path) -> float:
    """Return the seconds until training notes how long its preparation took: right before the first step."""
    arguments = ["train", "--dataset", "digits", "--output", str(output)]
    note = output / "timing.jsonl"
    started = time.perf_counter()
    process = subprocess.Popen(_command(arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while not (os.path.exists(note) and os.path.getsize(note)):
            if process.poll() is not None or time.perf_counter() - started > _PATIENCE:
                process.kill()
                raise _failed(arguments, process.wait(), cast(IO[str], process.stderr).read())
            time.sleep(_POLL)
        return time.perf_counter() - started
    finally:
        # Nobody wants what it trains. It removes its lock on the way out.
        process.terminate()
        process.communicate()


def _failed(arguments: list[str], code: int, words: str) -> InputAwareError:
    last = (words.strip().splitlines() or ["nothing on stderr"])[-1]
    return InputAwareError(
        f"startup: expected 'inputaware {' '.join(arguments)}' to run; found exit code {code}: {last}; "
        "mend this, or leave the part out"
    )
