"""The figure of the results: drawn from the files, and stale when they change."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    arguments = ["--results", str(folder / "results"), "--figure", str(folder / "figure.svg"), *options]
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/results-figure"), *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("presets", "schedules"))
    return tmp_path


def test_a_changed_result_makes_the_figure_stale(folder: Path) -> None:
    assert run(folder, "--check").returncode == 1
    assert not (folder / "figure.svg").exists()
    assert run(folder).stdout == "figure.svg: written\n"
    assert run(folder, "--check").stdout == "figure.svg: up to date\n"
    path = folder / "results/mnist-all-to-all-seed-0.json"
    result = json.loads(path.read_text())
    result["evaluation"]["clean_accuracy"] = 0.5
    path.write_text(json.dumps(result))
    found = run(folder, "--check")
    assert found.returncode == 1
    assert found.stderr == (
        f"{folder / 'figure.svg'}: the figure of the results is out of date; run scripts/results-figure\n"
    )


def test_a_broken_result_is_named(folder: Path) -> None:
    (folder / "results/other.json").write_text("{}")
    found = run(folder)
    assert found.returncode == 2
    assert found.stderr == "results-figure: expected published results; found: 'attack'; publish the run again\n"
