"""Storage faults: the disk fails, fills up, turns read-only or loses files while a run is at work.

After each fault the run must have ended with our own error or not at all, the last good state must load, nothing
else may be touched, and once the fault is mended the run must go on to the files of a run that never met one.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from robustness.kills import files

from inputaware.api import train
from inputaware.config.fields import Config
from inputaware.config.presets import preset_config
from inputaware.data.cache import load_images
from inputaware.errors import InputAwareError, RunFolderError, WriteError
from inputaware.training import loop
from inputaware.training.loop import EpochReport

__all__ = ["Faults", "Once", "fail_each_write", "fill_the_disk", "lose_files", "small_config", "turn_read_only"]

_ERRORS = {"full disk": errno.ENOSPC, "read-only": errno.EROFS, "broken disk": errno.EIO, "folder gone": errno.ENOENT}


@dataclass
class Faults:
    """What came of the faults.

    Attributes:
        survived: faults that lost nothing, by kind.
        lost: the others, with what it takes to repeat them: must be empty.
    """

    survived: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)


def small_config(**options: Any) -> Config:
    """Return the configuration of a run that takes about a second and has both stages."""
    changes: dict[str, Any] = {
        "device": "cpu",
        "precision": "32",
        "train_images": 100,
        "validation_images": 20,
        "mask_stage": {"epochs": 2, "batch_size": 50},
        "joint_stage": {"epochs": 2, "batch_size": 50},
        "model": {"hidden_units": 16},
    }
    return preset_config("fast", dataset="digits", **{**changes, **options})


@contextmanager
def _saving_each_epoch() -> Iterator[None]:
    with mock.patch.object(loop, "_SAVE_EVERY", 0.0):
        yield


def _whole(folder: Path) -> dict[str, bytes]:
    """Return the files of a run that meets no fault."""
    with _saving_each_epoch():
        train(small_config(), folder / "whole")
    return files(folder / "whole")


def _judge(faults: Faults, kind: str, place: str, run: Path, expected: dict[str, bytes]) -> None:
    """Let a run go on after its fault was mended, and compare."""
    try:
        if (run / "config.json").exists():
            train(None, run, resume=True)
        else:
            shutil.rmtree(run, ignore_errors=True)
            train(small_config(), run)
    except InputAwareError as error:
        faults.lost.append(f"{kind}, {place}: does not go on: {error}")
        return
    found = files(run)
    different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if different:
        faults.lost.append(f"{kind}, {place}: other files than without a fault: {', '.join(different)}")
    else:
        faults.survived[kind] += 1


def fail_each_write(folder: Path, every: int = 1) -> Faults:
    """Let each flush to the disk of a run fail in turn, in four ways.

    Args:
        folder: an empty folder to work in.
        every: take only each so-manieth of them.
    """
    faults, calls = Faults(), [0]
    really = os.fsync
    for split in ("train", "test"):
        load_images("digits", split)  # into the cache: where that cannot be written a run goes on without

    def count(handle: int) -> None:
        calls[0] += 1
        really(handle)

    with mock.patch("os.fsync", count):
        expected = _whole(folder)
    total = calls[0]
    cases = [(number, kind) for number in range(1, total + 1) for kind in _ERRORS]
    for number, kind in cases[::every]:
        run = folder / f"{number}-{kind}"
        calls[0] = 0

        def fail(handle: int, number: int = number, kind: str = kind) -> None:
            calls[0] += 1
            if calls[0] >= number:  # and every one after it: a disk stays full
                raise OSError(_ERRORS[kind], os.strerror(_ERRORS[kind]))
            really(handle)

        place = f"write {number} of {total}"
        try:
            with _saving_each_epoch(), mock.patch("os.fsync", fail):
                train(small_config(), run)
            faults.lost.append(f"{kind}, {place}: went unnoticed")
        except WriteError as error:
            if os.strerror(_ERRORS[kind]) not in str(error) or any(run.rglob("*.partial")):
                faults.lost.append(f"{kind}, {place}: {error}")
            else:
                _judge(faults, kind, place, run, expected)
        except Exception as error:
            faults.lost.append(f"{kind}, {place}: {type(error).__name__}: {error}")
        shutil.rmtree(run, ignore_errors=True)
    return faults


class Once:
    """A listener that does something once, after some epochs."""

    def __init__(self, epochs: int, action: Callable[[], None]) -> None:
        self.left = epochs
        self.action = action

    def stage_started(self, stage: str, epochs: int, steps: int, done: int) -> None:
        """Do nothing."""

    def stepped(self, steps: int, losses: dict[str, float]) -> None:
        """Do nothing."""

    def epoch_finished(self, report: EpochReport) -> None:
        """Count."""
        self.left -= 1
        if self.left == 0:
            self.action()


_NAMES = (
    *("config.json", "metrics.jsonl", "timing.jsonl", "environment.json"),
    *("checkpoint/state.safetensors", ".lock", "."),
)


def lose_files(folder: Path, epochs: Sequence[int] = (1, 2, 3, 4), names: Sequence[str] = _NAMES) -> Faults:
    """Remove or cut a file of a run, or all of it, while it is at work.

    The run must end as if nothing had happened, or with our own error; what it cannot make again must be named. With
    the file put back it must go on.

    Args:
        folder: an empty folder to work in.
        epochs: after which epochs, of both stages.
        names: which files; ``.`` is the folder itself.
    """
    faults, expected = Faults(), _whole(folder)
    for name in names:
        for epoch in epochs:
            for kind in ("vanished", "truncated"):
                if name == "." and kind == "truncated":
                    continue
                run = folder / f"{kind}-{epoch}-{name.replace('/', '-')}"
                kept = folder / "kept"

                def strike(run: Path = run, name: str = name, kind: str = kind, kept: Path = kept) -> None:
                    shutil.copytree(run, kept)
                    target = run / name
                    if target == run:
                        run.rename(run.with_name(run.name + ".moved"))
                    elif kind == "vanished":
                        target.unlink(missing_ok=True)
                    elif target.exists():
                        os.truncate(target, target.stat().st_size // 2)

                place = f"{name} after epoch {epoch}"
                try:
                    with _saving_each_epoch():
                        train(small_config(), run, listener=Once(epoch, strike))
                except (RunFolderError, WriteError) as error:
                    if str(run) not in str(error):
                        faults.lost.append(f"{kind}, {place}: the error does not name the folder: {error}")
                    # The user puts back what was there.
                    moved = run.with_name(run.name + ".moved")
                    if moved.exists():
                        shutil.rmtree(run, ignore_errors=True)
                        moved.rename(run)
                    elif name != ".lock":
                        shutil.copy(kept / name, run / name)
                    _judge(faults, kind, place, run, expected)
                except Exception as error:
                    faults.lost.append(f"{kind}, {place}: {type(error).__name__}: {error}")
                else:
                    _judge(faults, kind, place, run, expected)
                shutil.rmtree(kept, ignore_errors=True)
    return faults


@contextmanager
def _small_disk(folder: Path, kibibytes: int) -> Iterator[Path]:
    """Mount a disk of some KiB; raises OSError where this process may not mount."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        raise PermissionError("this process may not mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def fill_the_disk(folder: Path, sizes: int) -> Faults:
    """Train on small disks of growing size until one holds the whole run; each is then made large enough.

    Args:
        folder: an empty folder to work in.
        sizes: how many sizes to try.

    Raises:
        PermissionError: this process may not mount a disk.
    """
    faults, expected = Faults(), _whole(folder)
    needed = sum(len(content) for content in expected.values()) // 2**10 * 2
    for number in range(sizes):
        size = max(8, needed * number // sizes)
        place = f"a disk of {size} KiB"
        with _small_disk(folder / f"disk-{number}", size) as disk:
            (disk / "mine.txt").write_text("precious")
            try:
                with _saving_each_epoch():
                    train(small_config(), disk / "run")
            except (WriteError, RunFolderError) as error:
                if "No space left on device" not in str(error):
                    faults.lost.append(f"full disk, {place}: {error}")
            except Exception as error:
                faults.lost.append(f"full disk, {place}: {type(error).__name__}: {error}")
                continue
            partial = [path.name for path in disk.rglob("*.partial")]
            if partial or (disk / "mine.txt").read_text() != "precious":
                faults.lost.append(f"full disk, {place}: left {partial}")
                continue
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            _judge(faults, "small disk", place, disk / "run", expected)
    return faults


def turn_read_only(folder: Path) -> Faults:
    """Make the disk of a run read-only after each epoch, and writable again.

    Args:
        folder: an empty folder to work in.

    Raises:
        PermissionError: this process may not mount a disk.
    """
    faults, expected = Faults(), _whole(folder)
    for epochs in (1, 2, 3, 4):
        place = f"after epoch {epochs}"
        with _small_disk(folder / f"read-only-{epochs}", 2**16) as disk:

            def close(run: Path = disk / "run") -> None:
                # A view of the folder that cannot be written, laid over it.
                subprocess.run(["mount", "--bind", str(run), str(run)], check=True)
                subprocess.run(["mount", "-o", "remount,bind,ro", str(run)], check=True)

            try:
                with _saving_each_epoch():
                    train(small_config(), disk / "run", listener=Once(epochs, close))
                faults.lost.append(f"read-only disk, {place}: went unnoticed")
                continue
            except WriteError as error:
                if "Read-only file system; make the folder writable" not in str(error):
                    faults.lost.append(f"read-only disk, {place}: {error}")
            except Exception as error:
                faults.lost.append(f"read-only disk, {place}: {type(error).__name__}: {error}")
                continue
            subprocess.run(["umount", str(disk / "run")], check=True)
            _judge(faults, "read-only disk", place, disk / "run", expected)
    return faults
