"""Device, precision and the record of the machine, here and on machines that are made up."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from inputaware import __version__
from inputaware.errors import DeviceError
from inputaware.runs import environment
from inputaware.runs.environment import (
    describe_environment,
    fingerprint,
    keep_freed_memory,
    resolve_device,
    resolve_precision,
    seeded,
    usable_processors,
)

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without accelerators; tests add what they need."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "gpus", "mps", "expected"),
    [
        ("auto", 0, False, "cpu"),
        ("auto", 2, False, "cuda"),
        ("auto", 0, True, "mps"),
        ("auto", 1, True, "cuda"),
        ("cpu", 1, True, "cpu"),
        ("cuda", 1, False, "cuda"),
        ("cuda:1", 2, False, "cuda:1"),
        ("mps", 0, True, "mps"),
    ],
)
def test_devices(machine: pytest.MonkeyPatch, name: str, gpus: int, mps: bool, expected: str) -> None:
    machine.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    machine.setattr(torch.cuda, "device_count", lambda: gpus)
    machine.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device(name) == torch.device(expected)


UNKNOWN = "device: expected auto, cpu, cuda, cuda:N or mps; found {!r}"


@pytest.mark.parametrize(
    ("name", "gpus", "message"),
    [
        *(
            (name, 9, UNKNOWN.format(name))
            for name in ("gpu", "", "CPU", "cpu:", "cpu:0", "mps:0", "cuda:", "cuda:x", "cuda:-1", "cuda:01", "cuda:٣")
        ),
        (
            "cuda",
            0,
            "device: expected one of the 0 CUDA devices of this machine; found 'cuda'; take --device cpu or auto",
        ),
        (
            "cuda:2",
            2,
            "device: expected one of the 2 CUDA devices of this machine; found 'cuda:2'; take --device cpu or auto",
        ),
        ("mps", 9, "device: expected a machine with Apple's MPS; found none; take --device cpu or auto"),
    ],
)
def test_a_device_that_is_not_there_is_refused(machine: pytest.MonkeyPatch, name: str, gpus: int, message: str) -> None:
    machine.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(DeviceError) as caught:
        resolve_device(name)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "device", "flags", "gpu_computes", "expected"),
    [
        ("auto", CPU, {"avx2"}, False, "32"),
        ("auto", CPU, {"avx2", "avx512_bf16"}, False, "bf16"),
        ("auto", CPU, {"amx_bf16"}, False, "bf16"),
        ("auto", CUDA, {"amx_bf16"}, False, "32"),
        ("auto", CUDA, set(), True, "bf16"),
        ("auto", torch.device("mps"), {"amx_bf16"}, True, "32"),
        ("32", CPU, {"amx_bf16"}, True, "32"),
        ("bf16", CPU, set(), False, "bf16"),
        ("bf16", CUDA, set(), True, "bf16"),
    ],
)
def test_precisions(
    machine: pytest.MonkeyPatch, name: Any, device: torch.device, flags: set[str], gpu_computes: bool, expected: str
) -> None:
    machine.setattr(environment, "_cpu_flags", lambda: flags)
    machine.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: gpu_computes)
    machine.setattr(environment, "_bfloat16_gain", lambda: 1.3)
    assert resolve_precision(name, device) == expected


def test_a_processor_that_is_slower_in_bfloat16_takes_float32(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(environment, "_cpu_flags", lambda: {"avx512_bf16"})
    machine.setattr(environment, "_bfloat16_gain", lambda: 1.2)
    assert resolve_precision("auto", CPU) == "32"
    assert resolve_precision("bf16", CPU) == "bf16"


@pytest.mark.parametrize(
    ("begun_in", "flags", "gain", "expected"),
    [
        ("bf16", {"amx_bf16"}, 1.0, "bf16"),
        ("32", {"amx_bf16"}, 2.0, "32"),
        # What the hardware does not have is not taken from a run, and neither is what no run has.
        ("bf16", set(), 2.0, "32"),
        ("fp8", {"amx_bf16"}, 2.0, "bf16"),
        (None, {"amx_bf16"}, 2.0, "bf16"),
    ],
)
def test_a_run_that_goes_on_keeps_its_precision(
    machine: pytest.MonkeyPatch, begun_in: str | None, flags: set[str], gain: float, expected: str
) -> None:
    machine.setattr(environment, "_cpu_flags", lambda: flags)
    machine.setattr(environment, "_bfloat16_gain", lambda: gain)
    assert resolve_precision("auto", CPU, begun_in=begun_in) == expected
    # What was asked for counts.
    assert resolve_precision("32", CPU, begun_in=begun_in) == "32"


def test_the_gain_of_bfloat16_is_a_ratio_of_times(machine: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 3.0, 10.0, 12.0, 20.0, 26.0, 30.0, 31.0])  # float32: 3 and 6 s; bfloat16: 2 and 1 s
    machine.setattr(environment.time, "perf_counter", lambda: next(ticks))
    assert environment._bfloat16_gain.__wrapped__(side=2, tries=2) == 3.0


def test_a_gpu_that_only_emulates_bfloat16_does_not_take_it_by_itself(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert resolve_precision("auto", CUDA) == "32"
    assert resolve_precision("bf16", CUDA) == "bf16"


def test_bfloat16_is_refused_on_a_gpu_without_it(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    with pytest.raises(DeviceError) as caught:
        resolve_precision("bf16", CUDA)
    assert str(caught.value) == ("precision: expected a GPU with bfloat16; found one without; take --precision 32")


def test_the_fingerprint_names_what_the_bits_depend_on() -> None:
    assert fingerprint(CPU, "bf16") == {
        "torch": torch.__version__,
        "device": "cpu",
        "cpu_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "precision": "bf16",
    }


def test_the_fingerprint_follows_the_threads() -> None:
    threads = torch.get_num_threads()
    before = fingerprint(CPU, "32")
    try:
        torch.set_num_threads(threads + 1)
        after = fingerprint(CPU, "32")
    finally:
        torch.set_num_threads(threads)
    assert {key for key in before if before[key] != after[key]} == {"threads"}


def test_a_gpu_is_named(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(torch.cuda, "get_device_name", lambda device: f"Model T at {device}")
    assert fingerprint(torch.device("cuda:1"), "32")["device"] == "Model T at cuda:1"


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["/usr/bin/inputaware", "train", "--seed", "3"], "inputaware train --seed 3"),
        (["/x/inputaware/__main__.py", "train", "--output", "my run"], "inputaware train --output 'my run'"),
        (["job.py", "--x"], None),
        ([""], None),
    ],
)
def test_the_record_of_the_machine(monkeypatch: pytest.MonkeyPatch, arguments: list[str], command: str | None) -> None:
    monkeypatch.setattr("sys.argv", arguments)
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    record = describe_environment(CPU, "32")
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["inputaware"] == __version__
    assert record["command"] == command
    assert record["python"] == platform.python_version()
    assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(record["versions"]) == {"torch", "numpy", "pillow", "pyarrow", "safetensors", "scikit-learn"}
    assert record["cores"] >= 1
    assert before <= datetime.datetime.fromisoformat(record["started"]) <= datetime.datetime.now(datetime.UTC)
    assert fingerprint(CPU, "32").items() <= record.items()


def test_a_package_that_is_missing_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_PACKAGES", ("numpy", "no-such-package"))
    assert describe_environment(CPU, "32")["versions"]["no-such-package"] == "not installed"


def test_there_is_no_commit_outside_of_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "environment.py"))
    assert describe_environment(CPU, "32")["commit"] is None


@pytest.mark.parametrize(
    ("place", "own"),
    [
        ("src/inputaware/runs", True),
        (".venv/lib/python3/site-packages/inputaware/runs", False),
        ("parts/inputaware/src/inputaware/runs", False),
        ("lib/inputaware/runs", False),
    ],
)
def test_only_the_packages_own_commit_is_recorded(
    place: str, own: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message=a")
    (tmp_path / place).mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / place / "environment.py"))
    assert environment._commit() == (git("rev-parse", "--short=12", "HEAD") if own else None)


def test_a_damaged_checkout_does_not_give_the_commit_of_one_above(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*command, "init", "--quiet"], check=True)
    subprocess.run([*command, "commit", "--quiet", "--allow-empty", "--message=a"], check=True)
    folder = tmp_path / "parts" / "src" / "inputaware" / "runs"
    folder.mkdir(parents=True)
    (tmp_path / "parts" / ".git").mkdir()
    monkeypatch.setattr(environment, "__file__", str(folder / "environment.py"))
    assert environment._commit() is None


def test_a_machine_that_tells_nothing_of_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: Path, encoding: str | None = None) -> str:
        raise FileNotFoundError(str(self))

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr(environment, "_commit", lambda: None)
    record = describe_environment(CPU, "32")
    assert record["cpu_features"] == []
    assert record["processor"] == platform.processor()


@pytest.mark.parametrize("word", ["flags\t\t", "Features\t"])
def test_instruction_sets_are_recorded_on_intel_and_arm(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"processor\t: 0\n{word}: fp asimd avx2 bf16\n"
    monkeypatch.setattr(Path, "read_text", lambda self, encoding=None: text)
    monkeypatch.setattr(environment, "_commit", lambda: None)
    assert describe_environment(CPU, "32")["cpu_features"] == ["asimd", "avx2", "bf16"]


def test_processors_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3}, raising=False)
    assert usable_processors() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_processors() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_processors() == 1


def test_threads_take_turns_with_what_is_seeded() -> None:
    def draw(_: int) -> list[float]:
        with seeded(5, CPU):
            numbers = []
            for _ in range(3):
                numbers.append(float(torch.rand(())))
                time.sleep(0.02)
        return numbers

    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(draw, range(3))
    assert others == [first, first]


def test_a_device_is_as_good_as_its_name() -> None:
    assert resolve_device(CPU) == CPU


def test_what_is_seeded_repeats_and_disturbs_nobody() -> None:
    before = torch.get_rng_state()
    drawn = []
    for seed in (3, 3, 4):
        with seeded(seed, torch.device("cpu")):
            drawn.append(torch.rand(4))
    assert torch.equal(drawn[0], torch.rand(4, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept() -> None:
    # In a process of its own: what it changes lasts.
    lines = """
import resource, sys, torch
from inputaware.runs.environment import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def step():
    parts = [torch.ones(2**20) for _ in range(20)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {}
    # Left alone, glibc gives back what happens to lie at the end of its memory: with this it always gives back.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**21)}
    for word in ("keep", "give"):
        command = [sys.executable, "-c", lines, word]
        found = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        faults[word] = int(found.stdout)
    assert faults["keep"] < faults["give"] / 10


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    keep_freed_memory()
