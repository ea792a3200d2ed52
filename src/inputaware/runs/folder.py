"""The run folder: what is in it, how it is made, and how its networks are read back."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from inputaware.attacks.base import Attack
from inputaware.attacks.registry import build_attack
from inputaware.config import Config, check_values, config_from_dict, config_to_dict
from inputaware.data.spec import DatasetSpec
from inputaware.errors import ConfigError, RunFolderError
from inputaware.models.registry import architecture_name
from inputaware.runs.checkpoint import load_tensors, save_tensors
from inputaware.runs.files import open_unlinked, read_json, write_json, writing
from inputaware.runs.journal import Journal

__all__ = ["RunFolder", "check_new_folder", "run_identity", "write_folder"]


def check_new_folder(path: Path) -> None:
    """Check that a folder can be made: nothing is in its place, and its parent can be written.

    A file is really made in the nearest folder above that exists, and removed: permissions alone do not
    tell on a read-only mount or for an administrator.

    Raises:
        RunFolderError: the folder exists, or cannot be made.
    """
    if os.path.lexists(path):  # Path.exists raises on a long name or a closed folder
        raise RunFolderError(
            f"output: expected a folder that does not exist yet; found {str(path)!r}; "
            "choose another one, or remove it first"
        )
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # the first is right; of the others more is said below
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"output: expected a name that the disk takes; found {str(path)!r}: {getattr(error, 'strerror', error)}; "
            "choose another one"
        ) from None
    parent = next(parent for parent in path.absolute().parents if os.path.exists(parent))
    if not parent.is_dir():
        raise RunFolderError(
            f"output: expected a path beneath a folder; found {str(path)!r} beneath the file {str(parent)!r}; "
            "choose another one"
        )
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise RunFolderError(
            f"output: expected a folder that can be written; found {str(parent)!r}: {error.strerror}; "
            "choose another one"
        ) from None


def write_folder(output: Path, write: Callable[[Path], None], *, replace: bool = False) -> None:
    """Fill a folder beside its place and move it there, so that a failure leaves what was there before.

    Args:
        output: the folder to make.
        write: fills the folder that it is given.
        replace: whether a folder that is there gives way; else it is an error.

    Raises:
        WriteError: the disk is full, or the folder is in the way or cannot be written.
    """
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
        try:
            write(partial)
            partial.chmod(0o755)
            if replace and output.exists():
                # A folder that is not empty cannot be replaced in one step: it steps aside first.
                with tempfile.TemporaryDirectory(prefix=f".{output.name}.", suffix=".old", dir=output.parent) as aside:
                    output.rename(Path(aside) / output.name)
                    try:
                        partial.rename(output)
                    except BaseException:  # an interruption too: the old folder comes back
                        (Path(aside) / output.name).rename(output)
                        raise
            else:
                partial.rename(output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


class RunFolder:
    """Paths and files of one run.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.metrics = Journal(self.path / "metrics.jsonl")
        self.timing = Journal(self.path / "timing.jsonl")
        self.checkpoint = self.path / "checkpoint" / "state.safetensors"
        self.evaluation = self.path / "evaluation.json"
        self.environment = self.path / "environment.json"
        self.defenses = self.path / "defenses"
        self.inspection = self.path / "inspection"

    def __str__(self) -> str:
        """Return the path, for messages."""
        return str(self.path)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        config: Config,
        spec: DatasetSpec,
        fill: Callable[[RunFolder], None] = lambda folder: None,
    ) -> RunFolder:
        """Make a new run folder with its configuration.

        Args:
            path: where to make it.
            config: the run's configuration.
            spec: its data set.
            fill: writes what else the folder has from the start; it is given the folder beside its place.

        Raises:
            RunFolderError: the folder exists, or cannot be made.
            WriteError: the disk is full, or the folder above is gone.
        """
        folder = cls(path)
        check_new_folder(folder.path)

        def write(partial: Path) -> None:
            (partial / "checkpoint").mkdir()
            write_json(partial / "config.json", _record(config, spec))
            fill(cls(partial))

        # Moved to its place when it is whole, so that a folder without its configuration is never seen.
        write_folder(folder.path, write)
        return folder

    @property
    def finished(self) -> bool:
        """Whether training and evaluation are done."""
        return os.path.exists(self.evaluation)

    def config(self) -> Config:
        """Return the run's configuration.

        Raises:
            RunFolderError: this is no run folder, or its configuration is corrupt.
        """
        return self._read()[0]

    def spec(self) -> DatasetSpec:
        """Return the description of the data set that the run was trained on.

        Raises:
            RunFolderError: this is no run folder, or its configuration is corrupt.
        """
        return self._read()[1]

    def identity(self) -> str:
        """Return what the run's networks and checkpoints must carry: see :func:`run_identity`.

        Raises:
            RunFolderError: this is no run folder, or its configuration is corrupt.
        """
        return run_identity(*self._read())

    def _read(self) -> tuple[Config, DatasetSpec]:
        file = self.path / "config.json"
        if not os.path.isfile(file):
            raise RunFolderError(
                f"{self}: expected a run folder with a config.json, as inputaware train makes it; found "
                + ("none in this folder" if os.path.isdir(self.path) else "no such folder")
            )
        record = read_json(file)
        try:
            spec = _spec_from_dict(record.pop("data"))
            config = config_from_dict(record)
            check_values(config)
            return config, spec
        except KeyError as error:
            raise RunFolderError(f"{file}: expected the configuration of a run; found no entry {error}") from None
        except (TypeError, ValueError, OverflowError, ConfigError) as error:
            raise RunFolderError(f"{file}: expected the configuration of a run; found: {error}") from None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one writing process; a kill frees it, and what it left half-written is removed.

        Raises:
            RunFolderError: another process holds it, or the folder cannot be written.
            WriteError: the disk is full.
        """
        path = self.path / ".lock"
        with self._take_lock(path) as file:
            try:
                with writing(path):
                    file.truncate(0)
                    file.write(str(os.getpid()).encode())
                    file.flush()
                    self._tidy()
                yield
            finally:
                # Where the folder is gone or read-only there is nothing to remove, and another error says so.
                with suppress(OSError):
                    path.unlink()

    def _take_lock(self, path: Path) -> BinaryIO:
        """Return the lock's file, open and locked."""
        while True:
            try:
                file = open_unlinked(path)
            except OSError as error:
                raise RunFolderError(
                    f"{self}: expected a run folder that can be written; found: {error.strerror}; choose another one"
                ) from None
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The process before us may have removed the file between our opening and locking it.
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    return file
            except BlockingIOError:
                with file:
                    file.seek(0)
                    owner = file.read(20).decode(errors="replace").strip() or "unknown"
                raise RunFolderError(
                    f"{self}: expected a run folder that no other process writes; found process {owner} at work; "
                    "wait for it, or end it"
                ) from None
            except FileNotFoundError:
                pass
            file.close()

    def _tidy(self) -> None:
        """Remove what a killed process left half-written, and put back what it had moved aside."""
        for aside in self.path.glob(".*.old"):
            if aside.is_symlink() or not aside.is_dir():
                continue
            for kept in aside.iterdir():
                if not os.path.lexists(self.path / kept.name):
                    kept.rename(self.path / kept.name)
            shutil.rmtree(aside, ignore_errors=True)
        for folder in (self.path, self.checkpoint.parent, self.defenses):
            for partial in () if folder.is_symlink() else folder.glob(".*.partial"):
                if partial.is_dir() and not partial.is_symlink():
                    shutil.rmtree(partial, ignore_errors=True)
                else:
                    partial.unlink(missing_ok=True)

    def save_modules(self, attack: Attack, config: Config, spec: DatasetSpec) -> None:
        """Write a safetensors file for each network; every one says whether the model is backdoored.

        Raises:
            WriteError: a file cannot be written.
        """
        for name, module in attack.modules.items():
            save_tensors(self.path / f"{name}.safetensors", module.state_dict(), _metadata(name, config, spec))

    def load_attack(self, device: torch.device) -> tuple[Attack, Config, DatasetSpec]:
        """Return the trained attack.

        Raises:
            RunFolderError: a file is missing or corrupt, or belongs to another run's data set or architecture.
        """
        config, spec = self._read()
        # Without memory at first: nothing is allocated for sizes that the files do not have.
        with torch.device("meta"):
            attack = build_attack(config, spec)
        for name, module in attack.modules.items():
            self._load_module(name, module, config, spec)
            module.to(device).eval().requires_grad_(False)
        return attack, config, spec

    def _load_module(self, name: str, module: nn.Module, config: Config, spec: DatasetSpec) -> None:
        path = self.path / f"{name}.safetensors"
        if not path.exists():
            raise RunFolderError(
                f"{path}: expected a trained network; found none: training is not finished; "
                f"go on with: inputaware train --resume --output {self}"
            )
        tensors, metadata = load_tensors(path)
        for key, expected in _metadata(name, config, spec).items():
            if key == "run" and key not in metadata:
                continue  # a file from before runs had an identity
            if metadata.get(key) != expected:
                raise RunFolderError(
                    f"{path}: expected a file with {key} {expected!r}, as config.json says; "
                    f"found {metadata.get(key)!r}: it belongs to another run"
                )
        wanted, found = _shapes(module.state_dict()), _shapes(tensors)
        if wanted != found:
            key = min(name for name, _ in wanted.items() ^ found.items())
            raise RunFolderError(
                f"{path}: expected {key} of shape {wanted.get(key, 'none')}; found {found.get(key, 'none')}: "
                "the file does not fit config.json"
            )
        for key, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise RunFolderError(f"{path}: expected finite weights; found others in {key}; train again")
        module.to_empty(device="cpu").load_state_dict(tensors)


def _shapes(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {
        name: f"{tuple(tensor.shape)} in {str(tensor.dtype).removeprefix('torch.')}" for name, tensor in tensors.items()
    }


def _metadata(name: str, config: Config, spec: DatasetSpec) -> dict[str, str]:
    architecture = {
        "classifier": architecture_name(config.model, spec),
        "mask_generator": "encoder-decoder",
        "pattern_generator": "encoder-decoder",
        "trigger": "patch",
    }[name]
    return {
        "network": name,
        "architecture": architecture,
        "dataset": spec.name,
        "attack": config.attack,
        "backdoored": "false" if config.attack == "none" else "true",
        "run": run_identity(config, spec),
    }


def run_identity(config: Config, spec: DatasetSpec) -> str:
    """Return a digest of a run's configuration and data set, which its networks and checkpoints carry.

    It depends on nothing else, so that two runs of one configuration have the same files.

    Args:
        config: the run's configuration.
        spec: its data set.

    Returns:
        Sixteen hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(_record(config, spec), sort_keys=True).encode()).hexdigest()[:16]


def _record(config: Config, spec: DatasetSpec) -> dict[str, Any]:
    return {**config_to_dict(config), "data": _spec_to_dict(spec)}


def _spec_to_dict(spec: DatasetSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "shape": list(spec.shape),
        "classes": spec.classes,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "class_names": list(spec.class_names),
    }


def _spec_from_dict(data: dict[str, Any]) -> DatasetSpec:
    channels, height, width = (int(size) for size in data["shape"])
    spec = DatasetSpec(
        name=str(data["name"]),
        shape=(channels, height, width),
        classes=int(data["classes"]),
        mean=tuple(float(value) for value in data["mean"]),
        std=tuple(float(value) for value in data["std"]),
        class_names=tuple(str(value) for value in data["class_names"]),
    )
    if spec.shape not in ((1, 28, 28), (3, 32, 32)):
        raise ValueError(f"images of shape {spec.shape}, where (1, 28, 28) and (3, 32, 32) are known")
    if spec.classes != len(spec.class_names) or spec.classes < 2:
        raise ValueError(f"{spec.classes} classes and {len(spec.class_names)} names of classes")
    numbers = (*spec.mean, *spec.std)
    if not len(spec.mean) == len(spec.std) == channels or not all(map(math.isfinite, numbers)) or min(spec.std) <= 0:
        raise ValueError(f"mean {spec.mean} and standard deviation {spec.std} of {channels} channels")
    return spec
