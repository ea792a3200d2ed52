"""What a container's limit leaves, from the files in which Linux says so."""

from __future__ import annotations

import pytest

from inputaware.data import memory

V2, V1 = "/sys/fs/cgroup", "/sys/fs/cgroup/memory"
MACHINE = {"/proc/meminfo": ["MemTotal: 99 kB", "MemAvailable:      5000 kB"]}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 5000 * 1024),
        ({f"{V2}/memory.max": ["max"], f"{V2}/memory.current": ["4000"]}, 5000 * 1024),
        ({f"{V2}/memory.max": ["5000"], f"{V2}/memory.current": ["4000"]}, 1000),
        # Cached files are given up for whoever asks, but for those in use.
        (
            {
                f"{V2}/memory.max": ["5000"],
                f"{V2}/memory.current": ["4000"],
                f"{V2}/memory.stat": ["anon 900", "inactive_file 2500", "active_file 300", "total_inactive_file 7"],
            },
            3500,
        ),
        (
            {
                f"{V1}/memory.limit_in_bytes": ["5000"],
                f"{V1}/memory.usage_in_bytes": ["4000"],
                f"{V1}/memory.stat": ["inactive_file 7", "total_inactive_file 500", "a line of something else"],
            },
            1500,
        ),
        # Two files that are read one after the other need not agree.
        (
            {
                f"{V2}/memory.max": ["5000"],
                f"{V2}/memory.current": ["400"],
                f"{V2}/memory.stat": ["inactive_file 500"],
            },
            5000,
        ),
        ({f"{V2}/memory.max": ["5000"], f"{V2}/memory.current": ["6000"]}, 0),
        # A job's limit lies on its own group or on one above it.
        (
            {
                "/proc/self/cgroup": ["0::/jobs/job_7/step"],
                f"{V2}/jobs/job_7/memory.max": ["900"],
                f"{V2}/jobs/job_7/memory.current": ["200"],
                f"{V2}/jobs/job_7/step/memory.max": ["max"],
                f"{V2}/jobs/job_7/step/memory.current": ["200"],
            },
            700,
        ),
        (
            {
                "/proc/self/cgroup": ["5:cpu,cpuacct:/elsewhere", "4:memory:/jobs", "0::/"],
                f"{V1}/jobs/memory.limit_in_bytes": ["900"],
                f"{V1}/jobs/memory.usage_in_bytes": ["100"],
                f"{V1}/elsewhere/memory.limit_in_bytes": ["1"],
                f"{V1}/elsewhere/memory.usage_in_bytes": ["1"],
            },
            800,
        ),
        (
            {
                "/proc/self/cgroup": ["0::/../outside"],
                f"{V2}/memory.max": ["900"],
                f"{V2}/memory.current": ["200"],
            },
            700,
        ),
    ],
)
def test_the_limit_of_a_container(files: dict[str, list[str]], expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_lines", lambda path: {**MACHINE, **files}.get(path, []))
    assert memory.available_memory() == expected
