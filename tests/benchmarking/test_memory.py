"""Peak memory is that of a process of its own."""

from __future__ import annotations

import subprocess

import pytest
import torch

from inputaware.benchmarking import memory
from inputaware.benchmarking.memory import peak_memory
from inputaware.errors import InputAwareError

CPU = torch.device("cpu")


def test_the_memory_of_another_process() -> None:
    # This one's memory must not count: it is much larger than what the other one needs.
    held = torch.ones(2**27)
    found = peak_memory("digits", "mask", "plain", images=16, batch_size=8, device=CPU, precision="32")
    assert 50 < found["before_mib"] <= found["peak_mib"] < held.numel() * 4 / 2**20


def test_a_process_that_fails_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], -9, stdout="", stderr="Traceback\nMemoryError: no room\n")
    monkeypatch.setattr(memory.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(InputAwareError) as caught:
        peak_memory("digits", "joint", "product", images=16, batch_size=8, device=CPU, precision="32")
    assert str(caught.value) == (
        "memory: expected 3 product steps of the joint stage in a process of their own; found exit code -9: "
        "MemoryError: no room; free memory, or leave the part out"
    )
