"""``config.json`` of a run folder: what was trained, and on which data. No torch here."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inputaware.config import Config, config_from_dict, config_to_dict
from inputaware.data.spec import DatasetSpec
from inputaware.errors import ConfigError, RunFolderError
from inputaware.runs.files import read_json, write_json

__all__ = ["read_description", "write_description"]


def read_description(folder: Path) -> tuple[Config, DatasetSpec]:
    """Return the configuration of a run and the description of its data set.

    Raises:
        RunFolderError: this is no run folder, or its configuration is corrupt.
    """
    file = folder / "config.json"
    if not os.path.isfile(file):
        raise RunFolderError(
            f"{folder}: expected a run folder with a config.json, as inputaware train makes it; found "
            + ("none in this folder" if os.path.isdir(folder) else "no such folder")
        )
    record = read_json(file)
    try:
        spec = _spec_from_dict(record.pop("data"))
        return config_from_dict(record), spec
    except KeyError as error:
        raise RunFolderError(f"{file}: expected the configuration of a run; found no entry {error}") from None
    except (TypeError, ValueError, OverflowError, ConfigError) as error:
        raise RunFolderError(f"{file}: expected the configuration of a run; found: {error}") from None


def write_description(folder: Path, config: Config, spec: DatasetSpec) -> None:
    """Write ``config.json``.

    Raises:
        RunFolderError: it cannot be written.
    """
    write_json(folder / "config.json", {**config_to_dict(config), "data": asdict(spec)})


def _spec_from_dict(data: dict[str, Any]) -> DatasetSpec:
    channels, height, width = (int(size) for size in data["shape"])
    return DatasetSpec(
        name=str(data["name"]),
        shape=(channels, height, width),
        classes=int(data["classes"]),
        mean=tuple(float(value) for value in data["mean"]),
        std=tuple(float(value) for value in data["std"]),
        class_names=tuple(str(value) for value in data["class_names"]),
    )
