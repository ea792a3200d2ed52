"""Writing files so that a reader finds the old content or the new, never half of it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inputaware.errors import RunFolderError, WriteError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["read_json", "write_arrays", "write_atomically", "write_json", "write_text", "writing"]

_REMEDIES = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "free space",
    (errno.EROFS, errno.EACCES, errno.EPERM): "make the folder writable",
    (errno.ENOENT, errno.ENOTDIR, errno.ESTALE): "put the folder back",
    (errno.ENOTEMPTY, errno.EEXIST, errno.ENAMETOOLONG, errno.EISDIR): "choose another place",
}
"""What to do about a write that failed, by what the system says of it."""


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Explain what goes wrong while a file or folder is written.

    Args:
        path: what is written.

    Raises:
        WriteError: the disk is full, or the folder is gone or cannot be written.
    """
    try:
        yield
    except OSError as error:
        remedy = next((words for numbers, words in _REMEDIES.items() if error.errno in numbers), "check the disk")
        raise WriteError(
            f"{os.fspath(path)}: expected to write this; found: {error.strerror or error}; {remedy}, and try again"
        ) from error


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file beside its place, flush it to the disk, and move it there in one step.

    Args:
        path: the file to make or replace.
        write: writes the content to the path that it is given.

    Raises:
        WriteError: the disk is full, or the folder is gone or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with writing(path):
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        # Where the folder cannot be written there is nothing to remove, and the error above says more.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def write_json(path: Path, data: object) -> None:
    """Write a JSON file atomically; a number that is not finite is refused, since JSON has none."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write named arrays as an ``.npz`` file atomically; the same arrays give the same bytes."""
    import numpy as np

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **{name: arrays[name] for name in sorted(arrays)})

    write_atomically(path, write)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        RunFolderError: the file is missing, is not JSON, or holds something else than an object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(f"{path}: expected this file of a run folder; found none") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path}: expected JSON; found: {error}; restore the file or train again") from None
    if not isinstance(data, dict):
        raise RunFolderError(f"{path}: expected a JSON object; found {type(data).__name__}")
    return data


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
