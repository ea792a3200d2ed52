"""The run folder: what is in it, how it is made, and how its networks are read back."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from inputaware.attacks.base import Attack
from inputaware.attacks.registry import build_attack
from inputaware.config.fields import Config
from inputaware.data.spec import DatasetSpec
from inputaware.errors import RunFolderError
from inputaware.models.registry import architecture_name
from inputaware.runs.checkpoint import load_tensors, save_tensors
from inputaware.runs.description import read_description, resume_command, run_identity, write_description
from inputaware.runs.environment import peak_memory_mib
from inputaware.runs.files import check_new_folder, open_unlinked, write_folder, writing
from inputaware.runs.journal import Journal

__all__ = ["RunFolder"]


class RunFolder:
    """Paths and files of one run.

    Args:
        path: the folder.

    Raises:
        RunFolderError: its name is no UTF-8, which alone safetensors' reader takes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            str(self.path).encode()
        except UnicodeEncodeError:
            raise RunFolderError(
                f"output: expected a name in UTF-8; found {str(path)!r}; choose another one, or rename it"
            ) from None
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
        *,
        digests: dict[str, str] | None = None,
    ) -> RunFolder:
        """Make a new run folder with its configuration.

        Args:
            path: where to make it.
            config: the run's configuration.
            spec: its data set.
            fill: writes what else the folder has from the start; it is given the folder beside its place.
            digests: of the data, by split; none where the run is made without them.

        Raises:
            RunFolderError: the folder exists, or cannot be made.
            WriteError: the disk is full, or the folder above is gone.
        """
        folder = cls(path)
        check_new_folder(folder.path)

        def write(partial: Path) -> None:
            (partial / "checkpoint").mkdir()
            write_description(partial, config, spec, digests or {})
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
        return read_description(self.path)[0]

    def spec(self) -> DatasetSpec:
        """Return the description of the data set that the run was trained on.

        Raises:
            RunFolderError: this is no run folder, or its configuration is corrupt.
        """
        return read_description(self.path)[1]

    def digests(self) -> dict[str, str]:
        """Return the digests of the data that the run was made with, by split; of one that recorded none, none.

        Raises:
            RunFolderError: this is no run folder, or its configuration is corrupt.
        """
        return read_description(self.path)[2]

    def identity(self) -> str:
        """Return what the run's networks and checkpoints must carry.

        Raises:
            RunFolderError: this is no run folder, or its configuration is corrupt.
        """
        config, spec, _ = read_description(self.path)
        return run_identity(config, spec)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one writing process; a kill frees it, and what it left half-written is removed.

        Raises:
            RunFolderError: another process holds it, the folder cannot be written, or a folder in it is a link.
            WriteError: the disk is full.
        """
        self._check_links()
        path = self.path / ".lock"
        with self._take_lock(path) as file:
            try:
                with writing(path):
                    file.truncate(0)
                    # Past the file's own buffer, which would try a full disk again when it is closed.
                    os.write(file.fileno(), str(os.getpid()).encode())
                    self._tidy()
                yield
            finally:
                # Where the folder is gone or read-only there is nothing to remove, and another error says so.
                with suppress(OSError):
                    path.unlink()

    def _check_links(self) -> None:
        """Refuse folders that are links: what is written beneath one changes what a stranger chose to link to."""
        for folder in (self.checkpoint.parent, self.defenses, self.inspection):
            if os.path.islink(folder):
                raise RunFolderError(
                    f"{folder}: expected a folder of the run's own; found a link to {os.readlink(folder)!r}, which is "
                    "not written through; put a folder in its place, or remove it"
                )

    def _take_lock(self, path: Path) -> BinaryIO:
        """Return the lock's file, open and locked."""
        while True:
            try:
                file = open_unlinked(path)
            except OSError as error:
                remedy = (
                    "put it back" if isinstance(error, FileNotFoundError) else "make it writable, or work on a copy"
                )
                raise RunFolderError(
                    f"{self}: expected a run folder that can be written; found: {error.strerror}; {remedy}"
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

    def note_time(
        self,
        part: str,
        seconds: float,
        device: torch.device,
        *,
        epoch: int | None = None,
        images_per_second: float | None = None,
    ) -> None:
        """Add what a part of the work cost to ``timing.jsonl``.

        Args:
            part: what was done: a stage's name, or another part of the work.
            seconds: how long it took.
            device: where; its highest use of memory so far is noted too.
            epoch: which one of the stage, from 1; none for what has no epochs.
            images_per_second: training throughput; none for what does not train.

        Raises:
            WriteError: the disk is full, or the folder is gone or cannot be written.
        """
        self.timing.append(
            {
                "part": part,
                "epoch": epoch,
                "seconds": round(seconds, 4),
                "images_per_second": None if images_per_second is None else round(images_per_second, 1),
                "peak_memory_mib": peak_memory_mib(device),
            }
        )

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
        config, spec, _ = read_description(self.path)
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
            if self.finished:  # --resume would find nothing to do
                raise RunFolderError(
                    f"{path}: expected a network of a finished run; found none; "
                    "restore the file from a copy, or train again into another folder"
                )
            raise RunFolderError(
                f"{path}: expected a trained network; found none: training is not finished; "
                f"go on with: {resume_command(self.path)}"
            )
        tensors, metadata = load_tensors(path)
        for key, expected in _metadata(name, config, spec).items():
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
        # In the layout that the network was built with. Module.to_empty would import a computer algebra system for it.
        laid_out = {
            key: torch.empty_strided(meta.shape, meta.stride(), dtype=meta.dtype).copy_(tensors[key])
            for key, meta in module.state_dict().items()
        }
        module.load_state_dict(laid_out, assign=True)


def _shapes(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {
        name: f"{tuple(tensor.shape)} in {str(tensor.dtype).removeprefix('torch.')}" for name, tensor in tensors.items()
    }


def _metadata(name: str, config: Config, spec: DatasetSpec) -> dict[str, str]:
    architectures = {
        "classifier": architecture_name(config.model, spec),
        "mask_generator": "encoder-decoder",
        "pattern_generator": "encoder-decoder",
        "trigger": "patch",
    }
    return {
        "network": name,
        "architecture": architectures.get(name, "own"),
        "dataset": spec.name,
        "attack": config.attack,
        "backdoored": "false" if config.attack == "none" else "true",
        "run": run_identity(config, spec),
    }
