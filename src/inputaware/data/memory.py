"""Whether a data set fits in memory, asked before it is read."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

from inputaware.errors import DataError

__all__ = ["available_memory", "check_memory"]

_COPIES = 3
"""How often a data set is in memory at once while it is read, kept in the cache and cut into splits."""


def available_memory() -> int | None:
    """Return how many bytes of memory a process can still take; none where the system does not tell.

    On Linux the least of what the machine has left and what the limits leave on its container, or on the group of
    processes that it is in, a batch job or a service for two.
    """
    found = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 2**10)
    for mount, controllers, limit, usage, idle in (
        ("/sys/fs/cgroup", "", "memory.max", "memory.current", "inactive_file"),
        ("/sys/fs/cgroup/memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for folder in _groups(mount, controllers):
            numbers = [line for name in (limit, usage) for line in _lines(f"{folder}/{name}") if line.isdecimal()]
            if len(numbers) == 2:
                # Files that were read some time ago count as used, and make room for whoever asks.
                rows = (line.split() for line in _lines(f"{folder}/memory.stat"))
                given_up = sum(int(row[1]) for row in rows if len(row) == 2 and row[0] == idle and row[1].isdecimal())
                found.append(max(0, int(numbers[0]) - max(0, int(numbers[1]) - given_up)))
    if not found and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def check_memory(name: str, images: int, shape: tuple[int, ...]) -> None:
    """Refuse a data set that memory cannot hold.

    Args:
        name: what to call it in the error.
        images: how many images there are.
        shape: channels, height and width of each.

    Raises:
        DataError: it is larger than the memory that is there.
    """
    needed, there = _COPIES * images * math.prod(shape), available_memory()
    if there is not None and needed > there:
        raise DataError(
            f"{name}: expected a data set that fits in memory; found {images} images, which need "
            f"{needed / 2**30:.1f} GiB while they are read, and {there / 2**30:.1f} GiB free; "
            "take fewer images, or a machine with more memory"
        )


def _groups(mount: str, controller: str) -> list[str]:
    """Return the folders of a process's control group and of all above it.

    Args:
        mount: where their hierarchy lies.
        controller: its line in ``/proc/self/cgroup``, which has ``number:controllers:path``; version 2 has none.
    """
    own = "/"
    for line in _lines("/proc/self/cgroup"):
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            own = path
    # Of a group outside of a container's own view the path begins with "..", and nothing lies there.
    return [f"{mount}{parent}".rstrip("/") for parent in (PurePosixPath(own), *PurePosixPath(own).parents)]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
