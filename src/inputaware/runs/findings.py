"""What defenses left in a run folder, read back without torch."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inputaware.errors import RunFolderError
from inputaware.runs.files import read_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["check_no_finding", "kept_finding"]


def kept_finding(folder: Path, name: str, settings: DataclassInstance, seed: int) -> dict[str, Any] | None:
    """Return the result of a defense that is in a run folder already; none where it or its arrays are missing.

    A setting that a result does not name is younger than it, and counts as its default: a new setting's default is
    what the defense did without it.

    Args:
        folder: the run folder's ``defenses``.
        name: of the defense.
        settings: of the defense, a dataclass.
        seed: of its random choices.

    Raises:
        RunFolderError: it was made with other settings or another seed, or is corrupt.
    """
    path = folder / f"{name}.json"
    if not path.exists() or not path.with_suffix(".npz").exists():
        return None
    record = read_json(path)
    if not _is_finding(record):
        raise RunFolderError(
            f"{path}: expected a defense's result with settings, verdict, sentence and scoring; found others; "
            "replace it with --overwrite"
        )
    # As a file holds them: lists for tuples.
    asked = json.loads(json.dumps({**asdict(settings), "seed": seed}))
    defaults = {field.name: field.default for field in fields(settings) if field.default is not MISSING}
    found = {**json.loads(json.dumps(defaults)), **record["settings"], "seed": record.get("seed")}
    if different := [
        f"{key} {found.get(key)!r} there, {asked.get(key)!r} here"
        for key in asked | found
        if asked.get(key) != found.get(key)
    ]:
        raise RunFolderError(
            f"{path}: expected a result with the settings that are asked for; found {'; '.join(different)}; "
            "replace it with --overwrite, or give the options that it was made with"
        )
    return record


def check_no_finding(folder: Path, name: str) -> None:
    """Check that a run folder has no result of a defense that was written elsewhere: its code may have changed since.

    Args:
        folder: the run folder's ``defenses``.
        name: of the defense.

    Raises:
        RunFolderError: there is one.
    """
    if (folder / f"{name}.json").exists():
        raise RunFolderError(
            f"{folder / name}.json: expected no result of this defense yet, since its code may have changed; "
            "found one; replace it with --overwrite, in Python overwrite=True"
        )


def _is_finding(record: dict[str, Any]) -> bool:
    """Return whether a record has what is shown of a defense's result."""
    settings, scoring = record.get("settings"), record.get("scoring")
    return (
        isinstance(settings, dict)
        and isinstance(scoring, dict)
        and all(
            isinstance(text, str) for text in (record.get("verdict"), record.get("sentence"), scoring.get("sentence"))
        )
    )
