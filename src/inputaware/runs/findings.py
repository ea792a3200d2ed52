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

__all__ = ["kept_finding"]

_REMEDY = "replace it with --overwrite of inputaware defend or sweep"


def kept_finding(
    folder: Path, name: str, settings: DataclassInstance, seed: int, *, own: bool, code: str | None
) -> dict[str, Any] | None:
    """Return the result of a defense that is in a run folder already; none where it or its arrays are missing.

    A setting that a result does not name is younger than it, and counts as its default: a new setting's default is
    what the defense did without it.

    Args:
        folder: the run folder's ``defenses``.
        name: of the defense.
        settings: of the defense, a dataclass.
        seed: of its random choices.
        own: whether somebody else wrote the defense, so that its code may have changed since.
        code: a digest of that code; none where it is not known: then no result is taken for the same.

    Raises:
        RunFolderError: it was made with other settings, another seed or other code, or is corrupt.
    """
    path = folder / f"{name}.json"
    whole = path.with_suffix(".npz").exists()
    if not path.exists() or not (whole or own):
        return None
    record = read_json(path)
    if not _is_finding(record):
        raise RunFolderError(
            f"{path}: expected a defense's result with settings, verdict, sentence and scoring; found others; {_REMEDY}"
        )
    if own and (code is None or record.get("code") != code):
        other = "that may have another" if code is None or "code" not in record else "with another"
        raise RunFolderError(
            f"{path}: expected a result of this defense with its present code; found one {other}; "
            "replace it with --overwrite, in Python overwrite=True"
        )
    if not own and "code" in record:
        raise RunFolderError(
            f"{path}: expected a result of the built-in defense; found one of somebody's own that has its name; "
            "replace it with --overwrite, in Python overwrite=True"
        )
    if not whole:
        return None
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
            f"{_REMEDY}, or give the options that it was made with"
        )
    return record


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
