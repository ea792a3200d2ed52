"""Times are of the action alone, turns are taken, and threads come back."""

from __future__ import annotations

import time

import pytest
import torch

from inputaware.benchmarking.timing import seconds_of, synchronize, take_turns, threads

CPU = torch.device("cpu")


def test_an_action_is_done_once_and_timed() -> None:
    done = []

    def action() -> None:
        time.sleep(0.02)
        done.append(1)

    assert seconds_of(action, CPU) >= 0.02
    assert done == [1]


@pytest.mark.parametrize(("device", "calls"), [("cpu", []), ("cuda:1", ["cuda:1"]), ("mps", ["mps"])])
def test_a_gpu_is_waited_for(device: str, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: found.append(str(device)))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: found.append("mps"))
    synchronize(torch.device(device))
    assert found == calls
    seconds_of(lambda: found.append("action"), torch.device(device))
    assert found == [*calls, *calls, "action", *calls]


def test_turns_are_taken_and_every_other_round_is_backwards() -> None:
    order: list[str] = []

    def timer(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = take_turns({"a": lambda: timer("a"), "b": lambda: timer("b")}, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}


def test_threads_come_back_also_after_an_error() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before

    def fail() -> None:
        with threads(before + 1):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_num_threads() == before
