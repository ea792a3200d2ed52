"""``config.json`` of a run folder: what was trained, and on which data. No torch here."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inputaware.config.checks import check_values
from inputaware.config.fields import Config
from inputaware.config.record import config_from_dict, config_identity, config_to_dict
from inputaware.data.spec import DatasetSpec
from inputaware.errors import ConfigError, RunFolderError
from inputaware.runs.files import read_json, write_json

__all__ = ["read_description", "resume_command", "run_identity", "write_description"]


def read_description(folder: Path) -> tuple[Config, DatasetSpec, dict[str, str]]:
    """Return a run's configuration, its data set, and the digests of its data by split; of one that has none, none.

    Raises:
        RunFolderError: this is no run folder, or its configuration is corrupt.
    """
    file = folder / "config.json"
    if not os.path.isfile(file):
        found = "none in this folder" if os.path.isdir(folder) else "no such folder"
        if os.path.isdir(folder / "runs"):
            found += f"; those of a sweep are in {folder / 'runs'}"
        raise RunFolderError(
            f"{folder}: expected a run folder with a config.json, as inputaware train makes it; found {found}"
        )
    record = read_json(file)
    try:
        data = record.pop("data")
        spec = _spec_from_dict(data)
        digests = {str(split): str(digest) for split, digest in dict(data.get("digests", {})).items()}
        config = config_from_dict(record)
        check_values(config)
        return config, spec, digests
    except KeyError as error:
        raise RunFolderError(f"{file}: expected the configuration of a run; found no entry {error}") from None
    except (TypeError, ValueError, OverflowError, ConfigError) as error:
        raise RunFolderError(f"{file}: expected the configuration of a run; found: {error}") from None


def write_description(folder: Path, config: Config, spec: DatasetSpec, digests: dict[str, str]) -> None:
    """Write ``config.json``.

    Args:
        folder: where to write it.
        config: the run's configuration.
        spec: its data set.
        digests: of the data, by split; none where they were not at hand. They are no part of the run's identity.

    Raises:
        WriteError: it cannot be written.
    """
    data = {**asdict(spec), **({"digests": digests} if digests else {})}
    write_json(folder / "config.json", {**config_to_dict(config), "data": data})


def run_identity(config: Config, spec: DatasetSpec) -> str:
    """Return a digest of a run's configuration and data set, which its networks and checkpoints carry.

    It depends on nothing else, so that two runs of one configuration have the same files.

    Args:
        config: the run's configuration.
        spec: its data set.

    Returns:
        Sixteen hexadecimal digits.
    """
    record = {**config_identity(config), "data": asdict(spec)}
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def resume_command(folder: str | os.PathLike[str], options: Sequence[str] = ()) -> str:
    """Return the command that goes on with a run.

    Args:
        folder: the run's.
        options: what else it was started with and the folder does not know.
    """
    return shlex.join(["inputaware", "train", "--resume", *options, "--output", os.fspath(folder)])


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
