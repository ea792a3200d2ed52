"""The time left: running cells go on at their own pace, those that wait at their group's."""

from __future__ import annotations

import pytest

from inputaware.sweeps.progress import CellState, seconds_left


def test_nothing_is_known_at_first_and_nothing_is_left_at_last() -> None:
    assert seconds_left({"a": CellState("g")}, 2) is None
    assert seconds_left({"a": CellState("g", "running", share=0.01, seconds=9)}, 2) is None
    assert seconds_left({"a": CellState("g", "kept"), "b": CellState("g", "broken", seconds=3)}, 2) == 0
    assert seconds_left({"a": CellState("g", "finished", seconds=3)}, 2) == 0


def test_cells_that_wait_take_what_their_group_takes() -> None:
    states = {
        "a": CellState("slow", "finished", seconds=100),
        "b": CellState("quick", "finished", seconds=10),
        "c": CellState("slow"),
        "d": CellState("quick"),
        "e": CellState("quick"),
    }
    assert seconds_left(states, 1) == pytest.approx(120)
    assert seconds_left(states, 4) == pytest.approx(30)
    states["f"] = CellState("unknown")
    assert seconds_left(states, 1) == pytest.approx(120 + 55)


def test_a_running_cell_goes_on_at_its_own_pace() -> None:
    states = {
        "a": CellState("g", "running", share=0.25, seconds=10),
        "b": CellState("g", "running", share=0.5, seconds=10),
    }
    # 30 s and 10 s are left; two at a time, the slower one is the least.
    assert seconds_left(states, 2) == pytest.approx(30)
    assert seconds_left(states, 1) == pytest.approx(40)
    states["c"] = CellState("g")
    # It takes the mean of 40 s and 20 s.
    assert seconds_left(states, 2) == pytest.approx((30 + 10 + 30) / 2)
