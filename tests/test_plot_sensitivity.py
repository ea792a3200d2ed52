"""The figure of what settings do: drawn of a summary, the same each time, and refused of anything else."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Runner = Callable[..., subprocess.CompletedProcess[str]]

SCRIPT = Path(__file__).parents[1] / "scripts" / "plot-sensitivity"


def summary() -> dict[str, Any]:
    """Return means and intervals of the preset and of one departure in each field."""

    def record(changes: dict[str, Any]) -> dict[str, Any]:
        measure = {"mean": 0.9, "t_interval": [0.8, 0.95]}
        rates = ("clean_accuracy", "attack_success_rate", "cross_accuracy")
        return {"changes": changes, "measures": dict.fromkeys(rates, measure)}

    fields = ("joint_stage.attack_probability", "joint_stage.cross_probability", "joint_stage.lambda_div")
    departures = [record({field: 0.2}) for field in (*fields, "mask_stage.density")]
    # At the end it is the preset's own.
    departures.append(record({"joint_stage.initial_cross_probability": 0.7}))
    return {"configurations": [record({}), *departures]}


@pytest.fixture
def plot(
    run_script: Runner,
) -> Runner:
    """Return what draws a summary."""
    return lambda *arguments: run_script(SCRIPT, *arguments)


def test_the_same_summary_gives_the_same_picture(tmp_path: Path, plot: Runner) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(summary()))
    for name in ("one.svg", "two.svg"):
        found = plot(str(tmp_path / "summary.json"), str(tmp_path / name))
        assert (found.returncode, found.stderr) == (0, "")
    drawn = (tmp_path / "one.svg").read_bytes()
    assert drawn == (tmp_path / "two.svg").read_bytes()
    for words in (
        b"attack probability",
        b"cross probability",
        b"diversity weight",
        b"mask density",
        b"preset",
        b"0.2",
        b"0.7",
    ):
        assert b"<!-- " + words in drawn


def test_what_is_no_such_summary_is_refused(tmp_path: Path, plot: Runner) -> None:
    file = tmp_path / "summary.json"
    for content in (None, "{", "[]", json.dumps({"configurations": []})):
        if content is not None:
            file.write_text(content)
        found = plot(str(file), str(tmp_path / "picture.png"))
        assert found.returncode == 2
        assert found.stderr.startswith(f"plot-sensitivity: {file}: expected the summary of examples/sweep-sensitivity")
    file.write_text(json.dumps(summary()))
    found = plot(str(file), str(tmp_path / "nowhere" / "picture.png"))
    assert found.returncode == 2
    assert "expected a picture's path" in found.stderr
    found = plot(str(file), str(tmp_path / "picture.gif"))
    assert found.returncode == 2
    assert found.stderr.endswith("picture.gif: expected a picture that ends in .svg or .png\n")
    assert plot().returncode == 2
