"""The way of small tensors to the device."""

from __future__ import annotations

import pytest
import torch

from inputaware.data.transfer import send


def test_on_a_cpu_nothing_moves() -> None:
    values = torch.arange(3)
    assert send(values, torch.device("cpu")) is values


def test_to_a_gpu_goes_pinned_memory_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda values: told.append("pinned") or values)
    monkeypatch.setattr(torch.Tensor, "to", lambda values, *where, **how: told.append((where, how)) or values)
    send(torch.arange(3), torch.device("cuda"))
    assert told == ["pinned", ((torch.device("cuda"),), {"non_blocking": True})]
