"""The run folder: what is in it, how it is made, and how its networks are read back."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import torch
from torch import nn

from inputaware.attacks.base import Attack
from inputaware.attacks.registry import build_attack
from inputaware.config import Config
from inputaware.data.spec import DatasetSpec
from inputaware.errors import RunFolderError
from inputaware.models.registry import architecture_name
from inputaware.runs.checkpoint import load_tensors, save_tensors
from inputaware.runs.description import read_description, write_description
from inputaware.runs.files import check_new_folder
from inputaware.runs.journal import Journal

__all__ = ["RunFolder"]


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
    def create(cls, path: str | os.PathLike[str], config: Config, spec: DatasetSpec) -> RunFolder:
        """Make a new run folder with its configuration.

        Raises:
            RunFolderError: the folder exists, or cannot be made.
        """
        folder = cls(path)
        check_new_folder(folder.path)
        # Made beside its place and moved there, so that a folder without its configuration is never seen.
        partial = folder.path.with_name(f".{folder.path.name}.{os.getpid()}.partial")
        try:
            (partial / "checkpoint").mkdir(parents=True)
            write_description(partial, config, spec)
            partial.rename(folder.path)
        except OSError as error:
            raise RunFolderError(f"output: expected to make {str(path)!r}; found: {error.strerror}") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
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
        return read_description(self.path)[0]

    def spec(self) -> DatasetSpec:
        """Return the description of the data set that the run was trained on.

        Raises:
            RunFolderError: this is no run folder, or its configuration is corrupt.
        """
        return read_description(self.path)[1]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one writing process; a kill frees it.

        Raises:
            RunFolderError: another process holds it, or the folder cannot be written.
        """
        path = self.path / ".lock"
        with self._open_lock(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Another process may have removed the file between our opening and locking it.
                held = os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()), os.stat(path))
            except (BlockingIOError, FileNotFoundError):
                held = False
            if not held:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise RunFolderError(
                    f"{self}: expected a run folder that no other process writes; found process {owner} at work; "
                    "wait for it, or end it"
                )
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def _open_lock(self, path: Path) -> TextIO:
        try:
            return path.open("a+", encoding="utf-8")
        except OSError as error:
            raise RunFolderError(
                f"{self}: expected a run folder that can be written; found: {error.strerror}; choose another one"
            ) from None

    def save_modules(self, attack: Attack, config: Config, spec: DatasetSpec) -> None:
        """Write a safetensors file for each network; every one says whether the model is backdoored.

        Raises:
            RunFolderError: a file cannot be written.
        """
        for name, module in attack.modules.items():
            save_tensors(self.path / f"{name}.safetensors", module.state_dict(), _metadata(name, config, spec))

    def load_attack(self, device: torch.device) -> tuple[Attack, Config, DatasetSpec]:
        """Return the trained attack.

        Raises:
            RunFolderError: a file is missing or corrupt, or belongs to another run's data set or architecture.
        """
        config, spec = read_description(self.path)
        with torch.random.fork_rng(devices=[]):
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
            if metadata.get(key) != expected:
                raise RunFolderError(
                    f"{path}: expected a file with {key} {expected!r}, as config.json says; "
                    f"found {metadata.get(key)!r}: it belongs to another run"
                )
        wanted = module.state_dict()
        shapes = {key: tuple(tensor.shape) for key, tensor in wanted.items()}
        found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        if shapes != found:
            key = min(shapes.items() ^ found.items())[0]
            raise RunFolderError(
                f"{path}: expected {key} of shape {shapes.get(key)}; found {found.get(key)}: "
                "the file does not fit config.json"
            )
        module.load_state_dict(tensors)


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
    }
