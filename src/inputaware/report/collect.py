"""What the folder of a run holds, and the commands that make what it does not hold yet."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from inputaware.config.fields import Config
from inputaware.data.spec import DatasetSpec
from inputaware.defenses.settings import DEFENSES
from inputaware.runs.description import read_description, resume_command
from inputaware.runs.files import read_arrays, read_json
from inputaware.runs.journal import Journal
from inputaware.runs.results import collect_result

__all__ = ["CollectedRun", "Defended", "Inspected", "collect_run"]


@dataclass(frozen=True)
class Inspected:
    """What ``inputaware inspect`` wrote.

    Attributes:
        record: what ``inspection.json`` holds.
        gallery: the arrays of ``gallery.npz``.
        grad_cam: the arrays of ``grad_cam.npz``.
        cross_trigger: the arrays of ``cross_trigger.npz``; none for a clean model.
    """

    record: dict[str, Any]
    gallery: dict[str, NDArray[Any]]
    grad_cam: dict[str, NDArray[Any]]
    cross_trigger: dict[str, NDArray[Any]] | None


@dataclass(frozen=True)
class Defended:
    """What a defense found: the record of ``defenses/NAME.json`` and the arrays of ``NAME.npz``."""

    record: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class CollectedRun:
    """A run folder as it was read.

    Attributes:
        path: the folder, as it was named.
        name: the folder's own name.
        config: its configuration.
        spec: the data set that it was trained on.
        result: what a finished run publishes; none where training is not finished.
        environment: what it ran on; none where training has not begun.
        epochs: the rows of ``metrics.jsonl``.
        timing: the rows of ``timing.jsonl``.
        inspected: what its inspection found; none where there is none, or an old one that lacks arrays.
        defenses: what the defenses found that were run.
        missing: for each part that is not there, and can be, the command that makes it.
    """

    path: Path
    name: str
    config: Config
    spec: DatasetSpec
    result: dict[str, Any] | None
    environment: dict[str, Any] | None
    epochs: list[dict[str, Any]]
    timing: list[dict[str, Any]]
    inspected: Inspected | None
    defenses: dict[str, Defended]
    missing: dict[str, str]


def collect_run(path: str | os.PathLike[str]) -> CollectedRun:
    """Return what a run folder holds.

    Args:
        path: the folder of a run, which need not be finished.

    Raises:
        RunFolderError: this is no run folder, or a file in it is corrupt.
    """
    folder = Path(path)
    config, spec, _ = read_description(folder)
    finished = (folder / "evaluation.json").exists()
    inspected = _inspected(folder / "inspection", backdoored=config.attack != "none") if finished else None
    others = sorted({path.stem for path in (folder / "defenses").glob("*.json")} - set(DEFENSES))
    defenses = {
        name: Defended(
            read_json(folder / "defenses" / f"{name}.json"),
            # Not what the verdict rests on, a whole fine-tuned network for one.
            read_arrays(folder / "defenses" / f"{name}.npz", prefix="scoring_"),
        )
        for name in (*DEFENSES, *others)
        if finished and all((folder / "defenses" / f"{name}.{kind}").exists() for kind in ("json", "npz"))
    }
    shown = shlex.quote(os.fspath(path))
    missing = {}
    if not finished:
        missing["evaluation"] = resume_command(path)
    first = "" if finished else f"{missing['evaluation']} && "
    if inspected is None:
        overwrite = " --overwrite" if (folder / "inspection").exists() else ""
        missing["inspection"] = f"{first}inputaware inspect {shown}{overwrite}"
    if config.hold_out:  # without, there are no images that a defender could be given
        missing |= {name: f"{first}inputaware defend {shown} {name}" for name in DEFENSES if name not in defenses}
    environment = folder / "environment.json"
    return CollectedRun(
        path=folder,
        name=folder.resolve().name,
        config=config,
        spec=spec,
        result=collect_result(folder, config) if finished else None,
        environment=read_json(environment) if environment.exists() else None,
        epochs=Journal(folder / "metrics.jsonl").rows(),
        timing=Journal(folder / "timing.jsonl").rows(),
        inspected=inspected,
        defenses=defenses,
        missing=missing,
    )


def _inspected(folder: Path, *, backdoored: bool) -> Inspected | None:
    """Return the inspection; none where there is none, or one that lacks a file, or arrays that came later."""
    names = ("inspection.json", "gallery.npz", "grad_cam.npz", *(("cross_trigger.npz",) if backdoored else ()))
    if not all((folder / name).exists() for name in names):
        return None
    gallery = read_arrays(folder / "gallery.npz")
    if "clean_probabilities" not in gallery:
        return None
    return Inspected(
        read_json(folder / "inspection.json"),
        gallery,
        read_arrays(folder / "grad_cam.npz"),
        read_arrays(folder / "cross_trigger.npz") if backdoored else None,
    )
