"""A short version of ``scripts/fault-tests kills``: a kill in each stage of training."""

from __future__ import annotations

from pathlib import Path

from robustness.kills import kill_and_compare


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    found = kill_and_compare(tmp_path, 2, seed=1)
    assert found.lost == []
    assert sum(found.survived.values()) == 2
