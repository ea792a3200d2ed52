"""Writing files so that a reader finds the old content or the new, never half of it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inputaware.errors import RunFolderError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "check_new_folder",
    "check_output_file",
    "read_arrays",
    "read_json",
    "write_arrays",
    "write_atomically",
    "write_folder",
    "write_json",
    "write_text",
]


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file beside its place, flush it to the disk, and move it there in one step.

    Args:
        path: the file to make or replace.
        write: writes the content to the path that it is given.

    Raises:
        RunFolderError: the disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise RunFolderError(
            f"{path}: expected to write this file; found: {error.strerror or error}; "
            "free space or choose another folder, and try again"
        ) from error
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


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the named arrays of an ``.npz`` file; nothing in it is unpickled.

    Raises:
        RunFolderError: the file is missing, or holds something else than arrays.
    """
    import numpy as np

    try:
        # Opened here, since numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        raise RunFolderError(f"{path}: expected this file of a run folder; found none") from None
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise RunFolderError(f"{path}: expected arrays; found: {error}; restore the file or make it again") from None


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
    _check_place(path)


def check_output_file(path: Path, *, overwrite: bool) -> None:
    """Check that a file can be made: nothing is in its place, or a file that may be replaced.

    Args:
        path: the file.
        overwrite: whether a file that is there may be replaced.

    Raises:
        RunFolderError: something is in its place, or it cannot be made.
    """
    if os.path.isdir(path) or (os.path.lexists(path) and not overwrite):
        kind, advice = ("folder", "") if os.path.isdir(path) else ("file", ", or replace it with --overwrite")
        raise RunFolderError(
            f"output: expected a file that does not exist yet; found the {kind} {str(path)!r}; "
            f"choose another one{advice}"
        )
    _check_place(path)


def _check_place(path: Path) -> None:
    """Check that there is a folder for a path, or that one can be made."""
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


def write_folder(output: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder beside its place and move it there, so that a failure leaves what was there before.

    Args:
        output: the folder to make or replace.
        write: fills the folder that it is given.

    Raises:
        RunFolderError: the disk is full, or the folder cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
        try:
            write(partial)
            partial.chmod(0o755)
            if output.exists():
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
    except OSError as error:
        raise RunFolderError(
            f"output: expected to write {str(output)!r}; found: {error.strerror or error}; "
            "free space or choose another folder"
        ) from error


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
