"""Reading a file whole: a plain one, of a size that was expected."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["check_plain_file", "read_plain_file"]


def check_plain_file(path: Path, most_bytes: int) -> None:
    """Check that a path names a plain file that is not too large, before anything waits for it or reads it.

    Args:
        path: the file; links to files are followed.
        most_bytes: the largest size that is taken.

    Raises:
        OSError: it is missing, larger, or something else, such as a pipe, which nobody may ever write to.
    """
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "no plain file", str(path))
    if found.st_size > most_bytes:
        words = f"{found.st_size // 2**20} MiB, more than {most_bytes // 2**20} MiB"
        raise OSError(errno.EFBIG, words, str(path))


def read_plain_file(path: Path, most_bytes: int) -> bytes:
    """Return the content of a file that :func:`check_plain_file` takes.

    Raises:
        OSError: the file is missing, larger, or no plain file.
    """
    check_plain_file(path, most_bytes)
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:  # it has grown since
        raise OSError(errno.EFBIG, f"more than {most_bytes // 2**20} MiB", str(path))
    return content
