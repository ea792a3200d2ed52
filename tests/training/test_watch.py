"""Losses as numbers: on a CPU at once; with a stand-in for a GPU's events, one look late."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from inputaware.training.watch import LossWatch


def losses(value: float) -> dict[str, torch.Tensor]:
    return {"total": torch.tensor(value, requires_grad=True), "part": torch.tensor(2 * value)}


def test_a_cpu_answers_at_once() -> None:
    watch = LossWatch(torch.device("cpu"))
    assert watch.look(3, losses(1.5), now=False) == (3, {"total": 1.5, "part": 3.0})


def test_a_gpu_answers_at_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    event = SimpleNamespace(
        record=lambda stream: events.append(f"asked {stream}"), synchronize=lambda: events.append("taken")
    )
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"on {device}")
    pinned = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda values, *, device, pin_memory: pinned(values, device=device))
    watch = LossWatch(torch.device("cuda:1"))
    assert watch.look(10, losses(1.0), now=False) is None
    assert watch.look(20, losses(2.0), now=False) == (10, {"total": 1.0, "part": 2.0})
    assert events == ["asked on cuda:1", "asked on cuda:1", "taken"]
    # What must be known now is waited for, and what was asked for before is forgotten.
    assert watch.look(30, losses(3.0), now=True) == (30, {"total": 3.0, "part": 6.0})
    assert watch.look(40, losses(4.0), now=False) is None
