"""Files of a run folder: written so that a reader finds the old content or the new, and read as a stranger's."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from inputaware.data.reading import check_plain_file, read_plain_file
from inputaware.errors import RunFolderError, WriteError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "check_new_folder",
    "check_output_file",
    "check_place",
    "make_folder_for",
    "open_unlinked",
    "parse_json",
    "read_arrays",
    "read_json",
    "seal",
    "unseal",
    "write_arrays",
    "write_atomically",
    "write_bytes",
    "write_folder",
    "write_json",
    "write_text",
    "writing",
]

_DIGEST = "sha256"

_MOST_BYTES = 2**28
"""Largest JSON file that is read; a run's own are far smaller."""

_MOST_BYTES_OF_ARRAYS = 2**31
"""Largest file of arrays that is read."""

_REMEDIES = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "free space",
    (errno.EROFS, errno.EACCES, errno.EPERM): "make the folder writable",
    (errno.ENOENT, errno.ENOTDIR, errno.ESTALE): "put the folder back",
    (errno.ENOTEMPTY, errno.EEXIST, errno.ENAMETOOLONG, errno.EISDIR, errno.ELOOP): "choose another place",
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


def open_unlinked(path: Path) -> BinaryIO:
    """Open a file to read and change it in place, made if it is not there; a link is refused.

    What a folder from a stranger links to must not be changed.

    Raises:
        OSError: the file is a link or no plain file, or cannot be opened.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "no plain file", str(path))
    return open(handle, "rb+")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        WriteError: the disk is full, or the folder is gone or cannot be written.
    """

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomically(path, write)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8; what UTF-8 does not have, bytes of a path for one, as escapes.

    Raises:
        WriteError: the disk is full, or the folder is gone or cannot be written.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write an object as a JSON file atomically, with a digest of itself as its last entry.

    A number that is not finite is refused, since JSON has none.
    """
    text = json.dumps(seal(data), indent=2, ensure_ascii=False, allow_nan=False)
    # Bytes of a path that are no UTF-8 are lone surrogates in Python: JSON can hold them only as escapes.
    write_text(path, re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def seal(data: dict[str, Any]) -> dict[str, Any]:
    """Return an object of JSON with a digest of its entries as the last one, ``sha256``, in place of an old one."""
    others = {name: value for name, value in data.items() if name != _DIGEST}
    return {**others, _DIGEST: _digest(others)}


def unseal(data: dict[str, Any]) -> dict[str, Any]:
    """Return what :func:`seal` was given; an object without a digest is returned as it is.

    An object whose last entry has the name of a digest, or a text with a piece of one, counts as one with a digest, so
    that damage to either does not go unnoticed.

    Raises:
        ValueError: the digest is not that of the other entries.
    """
    name = next(reversed(data), "")
    value = data.get(name)
    if name != _DIGEST and not (isinstance(value, str) and re.search("[0-9a-f]{8}", value)):
        return data
    others = {key: value for key, value in data.items() if key != name}
    if name != _DIGEST or data[name] != _digest(others):
        raise ValueError("other entries than those whose digest was recorded: the file is corrupt or was changed")
    return others


def _digest(data: dict[str, Any]) -> str:
    # As they come back from a file: names are text, and tuples are lists.
    plain = json.loads(json.dumps(data, allow_nan=False))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write named arrays as an ``.npz`` file atomically; the same arrays give the same bytes."""
    import numpy as np

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **{name: arrays[name] for name in sorted(arrays)})

    write_atomically(path, write)


def read_arrays(path: Path, prefix: str = "") -> dict[str, NDArray[Any]]:
    """Return the named arrays of an ``.npz`` file; nothing in it is unpickled.

    Args:
        path: the file.
        prefix: how the names of those begin that are read.

    Raises:
        RunFolderError: the file is missing, too large, no plain file, or holds something else than arrays.
    """
    import numpy as np

    try:
        check_plain_file(path, _MOST_BYTES_OF_ARRAYS)
        # Opened here, since numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name.startswith(prefix)}
        if other := [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]:
            raise ValueError(f"{other[0]}, which is none")
        return arrays
    except FileNotFoundError:
        raise RunFolderError(
            f"{path}: expected this file of a run folder; found none; restore the file or make it again"
        ) from None
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise RunFolderError(f"{path}: expected arrays; found: {error}; restore the file or make it again") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a run folder, without its digest.

    Raises:
        RunFolderError: the file is missing, is not JSON, holds something else than an object, or was changed.
    """
    try:
        data = parse_json(read_plain_file(path, _MOST_BYTES).decode())
        if isinstance(data, dict):
            return unseal(data)
    except FileNotFoundError:
        raise RunFolderError(
            f"{path}: expected this file of a run folder; found none; restore the file or train again"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path}: expected JSON; found: {error}; restore the file or train again") from None
    raise RunFolderError(f"{path}: expected a JSON object; found {type(data).__name__}")


def parse_json(text: str) -> Any:
    """Return what JSON says, strictly: no name twice, no NaN, no infinity.

    Raises:
        ValueError: the text is no such JSON.
        RecursionError: it is nested too deeply.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"the name {name[:60]!r} twice")
            found[name] = value
        return found

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant}, which JSON does not have")

    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)


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
    check_place(path)


def check_output_file(path: Path, *, option: str = "output", overwrite: bool | None = None) -> None:
    """Check that a file can be made: nothing is in its place, or a file that may be replaced.

    Args:
        path: the file.
        option: the option that names it.
        overwrite: whether a file that is there may be replaced; none: it never may.

    Raises:
        RunFolderError: something is in its place, or it cannot be made.
    """
    regular = os.path.isfile(path) or not os.path.lexists(path)
    if not regular or (os.path.lexists(path) and not overwrite):
        # A device or a pipe would become a file, for what is written takes its place.
        kind = "folder" if os.path.isdir(path) else "file" if regular else "device, pipe or broken link"
        remedy = "remove it first" if overwrite is None else "replace it with --overwrite"
        raise RunFolderError(
            f"{option}: expected a file that does not exist yet; found the {kind} {str(path)!r}; "
            f"choose another one{f', or {remedy}' if regular else ''}"
        )
    check_place(path, option)


def check_place(path: Path, option: str = "output") -> None:
    """Check that there is a folder for a path, or that one can be made.

    Args:
        path: of what is to be made.
        option: the option that names it.

    Raises:
        RunFolderError: the name is none that the disk takes, a file stands in the way, or the folder is read-only.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # the first is right; of the others more is said below
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{option}: expected a name that the disk takes; found {str(path)!r}: {getattr(error, 'strerror', error)}; "
            "choose another one"
        ) from None
    parent = next(parent for parent in path.absolute().parents if os.path.exists(parent))
    if not parent.is_dir():
        raise RunFolderError(
            f"{option}: expected a path beneath a folder; found {str(path)!r} beneath the file {str(parent)!r}; "
            "choose another one"
        )
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise RunFolderError(
            f"{option}: expected a folder that can be written; found {str(parent)!r}: {error.strerror}; "
            "choose another one"
        ) from None


def make_folder_for(path: Path) -> None:
    """Make the folder that a file is to lie in, where there is none.

    Raises:
        WriteError: it cannot be made.
    """
    with writing(path):
        path.absolute().parent.mkdir(parents=True, exist_ok=True)


def write_folder(output: Path, write: Callable[[Path], None], *, replace: bool = False) -> None:
    """Fill a folder beside its place and move it there, so that a failure leaves what was there before.

    Args:
        output: the folder to make.
        write: fills the folder that it is given.
        replace: whether a folder that is there gives way; else it is an error.

    Raises:
        RunFolderError: another process has made it in the meantime.
        WriteError: the disk is full, or the folder is in the way or cannot be written.
    """
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
        try:
            write(partial)
            partial.chmod(0o755)
            if replace and output.exists():
                # A folder that is not empty cannot be replaced in one step: it steps aside first.
                with tempfile.TemporaryDirectory(prefix=f".{output.name}.", suffix=".old", dir=output.parent) as aside:
                    output.rename(Path(aside) / output.name)
                    try:
                        partial.rename(output)
                    except BaseException:  # an interruption too: the old folder comes back
                        (Path(aside) / output.name).rename(output)
                        raise
            else:
                try:
                    partial.rename(output)
                except OSError:
                    check_new_folder(output)  # somebody else has made it since
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
