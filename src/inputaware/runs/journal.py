"""``metrics.jsonl`` and ``timing.jsonl``: a row an epoch, appended as training goes; each ends with its own digest."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from inputaware.data.reading import read_plain_file
from inputaware.errors import RunFolderError
from inputaware.runs.files import open_unlinked, parse_json, seal, unseal, write_text, writing

__all__ = ["Journal", "last_of_each"]

_MOST_BYTES = 2**28
"""Largest journal that is read; one of a million epochs is smaller."""


class Journal:
    """A file with one JSON object a line.

    Args:
        path: the file; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: list[str] = []

    def append(self, row: dict[str, Any], *, after: int | None = None) -> None:
        """Add a row and flush it to the disk; a line that a kill left torn gives way to it.

        Args:
            row: an object of JSON.
            after: how many rows must be there already; none: any number.

        Raises:
            RunFolderError: another number of rows is there.
            WriteError: the disk is full, or the folder is gone or cannot be written.
        """
        with writing(self.path), open_unlinked(self.path) as file:
            file.seek(0)
            content = file.read()
            there = content.count(b"\n")
            if after not in (None, there):
                raise RunFolderError(
                    f"{self.path}: expected {after} rows, as were written; found {there}; "
                    "the file was changed while training went on: restore it or train again"
                )
            file.truncate(content.rfind(b"\n") + 1)
            file.seek(0, os.SEEK_END)
            line = json.dumps(seal(row), allow_nan=False)
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._kept.append(line)

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows.

        Raises:
            RunFolderError: a line is not a JSON object or was changed, or the file cannot be read.
        """
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(self._lines(), 1):
            place = f"{self.path}, line {number}"
            try:
                row = parse_json(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise RunFolderError(f"{place}: expected a JSON object; found {line[:60]!r}")
            try:
                found = unseal(row)
                if found == row:
                    raise ValueError("one without a digest")
                rows.append(found)
            except ValueError as error:
                raise RunFolderError(f"{place}: expected the row that was written; found {error}; restore it") from None
        return rows

    def mend(self) -> None:
        """Write the file again where it does not hold what this object wrote, and what was there when it was cut.

        Raises:
            RunFolderError: the file cannot be read.
            WriteError: it cannot be written.
        """
        if self._lines() != self._kept:
            write_text(self.path, "".join(line + "\n" for line in self._kept))

    def cut(self, count: int) -> None:
        """Keep the first rows and drop what was written after the checkpoint that knows of them.

        Raises:
            RunFolderError: there are fewer rows than that.
        """
        lines = self._lines()
        if len(lines) < count:
            raise RunFolderError(
                f"{self.path}: expected {count} rows, as the checkpoint says; found {len(lines)}; "
                "the folder was changed: train again into another one"
            )
        if len(lines) > count or not self.path.exists():
            write_text(self.path, "".join(line + "\n" for line in lines[:count]))
        self._kept = lines[:count]

    def _lines(self) -> list[str]:
        """Return the complete lines; a kill can leave the last one torn, without its newline."""
        try:
            return read_plain_file(self.path, _MOST_BYTES).decode(errors="replace").split("\n")[:-1]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunFolderError(f"{self.path}: expected to read this file; found: {error.strerror or error}") from None


def last_of_each(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the last row of each part and epoch: what was done twice, since a run was resumed, counts once.

    Args:
        rows: of ``timing.jsonl``.

    Raises:
        KeyError: a row names no part or no epoch.
    """
    return list({(row["part"], row["epoch"]): row for row in rows}.values())
