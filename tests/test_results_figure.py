"""The figure of the results: drawn from the files, and stale when they change."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Runner = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("presets", "schedules"))
    return tmp_path


@pytest.fixture
def run(folder: Path, run_script: Runner) -> Runner:
    """Return what draws the figure of the folder's results."""
    arguments = ("--results", str(folder / "results"), "--figure", str(folder / "figure.svg"))
    return lambda *options: run_script(ROOT / "scripts/results-figure", *arguments, *options)


def test_a_changed_result_makes_the_figure_stale(folder: Path, run: Runner) -> None:
    assert run("--check").returncode == 1
    assert not (folder / "figure.svg").exists()
    assert run().stdout == "figure.svg: written\n"
    assert run("--check").stdout == "figure.svg: up to date\n"
    path = folder / "results/mnist-all-to-all-seed-0.json"
    result = json.loads(path.read_text())
    result["evaluation"]["clean_accuracy"] = 0.5
    path.write_text(json.dumps(result))
    found = run("--check")
    assert found.returncode == 1
    assert found.stderr == (
        f"{folder / 'figure.svg'}: the figure of the results is out of date; run scripts/results-figure\n"
    )


def test_settings_are_drawn_apart(folder: Path, run: Runner) -> None:
    rates = runpy.run_path(str(ROOT / "scripts/results-figure"))["rates"]
    before = rates(folder / "results")
    result = json.loads((folder / "results/mnist-all-to-all-seed-0.json").read_text())
    result["config"] |= {"preset": "paper"}
    result["preset"] = "paper"
    (folder / "results/mnist-paper.json").write_text(json.dumps(result))
    after = rates(folder / "results")
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 3
    assert any(name.startswith("mnist, all-to-all, paper, ") for name in after)


def test_a_broken_result_is_named(folder: Path, run: Runner) -> None:
    (folder / "results/other.json").write_text("{}")
    found = run()
    assert found.returncode == 2
    assert found.stderr == "results-figure: expected published results; found: 'attack'; publish the run again\n"
