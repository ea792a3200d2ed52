"""The machine: which device and precision a run uses, and the record of what it ran on."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from inputaware import __version__
from inputaware.config.fields import PrecisionName
from inputaware.errors import DeviceError

__all__ = [
    "command_line",
    "describe_environment",
    "fingerprint",
    "keep_freed_memory",
    "peak_memory_mib",
    "resolve_device",
    "resolve_precision",
    "seeded",
    "usable_processors",
]

_WORTHWHILE = 1.25
"""How many times as fast bfloat16's products must be for ``auto`` to take them: mixed precision costs conversions."""

_PACKAGES = ("torch", "numpy", "pillow", "pyarrow", "safetensors", "scikit-learn")


def resolve_device(name: str | torch.device) -> torch.device:
    """Return the device of a name; ``auto`` takes a GPU where there is one.

    Args:
        name: auto, cpu, cuda, cuda:N or mps; or a device.

    Raises:
        DeviceError: the name is unknown, or the device is not there.
    """
    name, has_mps = str(name), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    kind, _, index = name.partition(":")
    if not re.fullmatch("cpu|mps|cuda(:(0|[1-9][0-9]*))?", name):
        raise DeviceError(f"device: expected auto, cpu, cuda, cuda:N or mps; found {name!r}")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device: expected one of the {torch.cuda.device_count()} CUDA devices of this machine; "
            f"found {name!r}; take --device cpu or auto"
        )
    if kind == "mps" and not has_mps:
        raise DeviceError("device: expected a machine with Apple's MPS; found none; take --device cpu or auto")
    return torch.device(name)


def resolve_precision(
    name: PrecisionName, device: torch.device, *, begun_in: str | None = None
) -> Literal["32", "bf16"]:
    """Return the precision of a name; ``auto`` takes bfloat16 where it is the faster one.

    On a GPU that is where the hardware computes in it. On a CPU the instructions alone say little: some processors that
    have them multiply slower than in float32. So a product is timed in both where the instructions are there.

    Args:
        name: 32, bf16 or auto.
        device: where to compute.
        begun_in: the precision of a run that goes on; ``auto`` takes it where the hardware computes in it, for times
            differ from one day to the next.

    Raises:
        DeviceError: bfloat16 is asked for on a GPU that has none.
    """
    if name == "auto":
        if begun_in == "32":
            return "32"
        if begun_in == "bf16" and _has_bfloat16(device):
            return "bf16"
        return "bf16" if _has_bfloat16(device) and _pays(device) else "32"
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise DeviceError("precision: expected a GPU with bfloat16; found one without; take --precision 32")
    return name


def _has_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware multiplies in bfloat16 (emulation is slower than float32)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool({"avx512_bf16", "amx_bf16"} & _cpu_flags())


def _pays(device: torch.device) -> bool:
    """Return whether hardware that has bfloat16 is faster in it."""
    return device.type != "cpu" or _bfloat16_gain() >= _WORTHWHILE


@cache
def _bfloat16_gain(side: int = 1024, tries: int = 5) -> float:
    """Return how many times as fast as in float32 the CPU multiplies matrices in bfloat16."""
    factor = torch.linspace(-1, 1, side).outer(torch.linspace(-1, 1, side))
    seconds = {torch.float32: math.inf, torch.bfloat16: math.inf}
    for _ in range(tries):
        for dtype in seconds:
            operand = factor.to(dtype)
            started = time.perf_counter()
            torch.mm(operand, operand)
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - started)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def _cpu_flags() -> set[str]:
    """Return the instruction sets that Linux reports; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    # ARM has another word for them.
    found = (line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features")))
    return set(next(found, ()))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def usable_processors() -> int:
    """Return how many processors this process may use, where the system says so; else how many there are."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


_DRAWING = threading.RLock()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw torch's random numbers from a seed, and leave those of the caller as they were.

    All threads draw from the same ones, so that one of them waits here for another.

    Args:
        seed: where they begin.
        device: whose numbers are kept beside the CPU's.
    """
    with _DRAWING, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def keep_freed_memory() -> None:
    """Let the process keep the memory that it frees, for its next step.

    A step frees what the next one needs again. glibc gives large pieces back to the system, which fills them with
    zeros before it hands them out anew, and that takes a sizeable part of a step on a CPU. Elsewhere nothing happens.
    """
    try:
        change = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    trim_threshold, mmap_threshold = -1, -3  # the names' numbers in malloc.h
    change(mmap_threshold, 32 * 2**20)  # the highest that glibc takes
    change(trim_threshold, 2**31 - 1)


def peak_memory_mib(device: torch.device) -> int:
    """Return the peak memory of the process, or of its share of a GPU, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    # What getrusage says starts, on Linux, with the memory of the process that started this one.
    with suppress(OSError), open("/proc/self/status", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("VmHWM:"):  # in KiB
                return int(line.split()[1]) // 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 2**20 if sys.platform == "darwin" else peak // 2**10


def fingerprint(device: torch.device, precision: str, processes: int = 1) -> dict[str, str]:
    """Return what a seed's bits depend on besides the configuration: compared when a run is resumed.

    Several processes that train a run together are counted; one that is alone is not mentioned.
    """
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "precision": precision,
        **({"processes": str(processes)} if processes > 1 else {}),
    }


def describe_environment(device: torch.device, precision: str, processes: int = 1) -> dict[str, Any]:
    """Return the record of ``environment.json``: versions, device, threads, commit, command and date."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    features = sorted(_cpu_flags() & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "fma", "asimd", "bf16"})
    return {
        "inputaware": __version__,
        "commit": _commit(),
        "command": command_line(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": versions,
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cpu_features": features,
        **fingerprint(device, precision, processes),
    }


def command_line() -> str | None:
    """Return the command line as a shell takes it; none where the package was called from a program."""
    program = Path(sys.argv[0])
    if program.name == "inputaware" or program.parts[-2:] == ("inputaware", "__main__.py"):
        return shlex.join(["inputaware", *sys.argv[1:]])
    return None


def _commit() -> str | None:
    """Return the commit of the package's own checkout, marked when it has changes; none outside of one.

    Its own is the repository with the package in its ``src``. One further above is a user's, who installed the package
    inside of a project.
    """
    source = Path(__file__).resolve().parent.parent.parent
    root = source.parent
    if source.name != "src" or not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            # Where .git is damaged, git would look further above.
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(root.parent)},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
