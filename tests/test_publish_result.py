"""What is published of a sweep, by calling a copy of the script as a person does."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inputaware import preset_config, train
from inputaware.runs.files import read_json, write_json

Runner = Callable[..., subprocess.CompletedProcess[str]]

SCRIPT = Path(__file__).parents[1] / "scripts" / "publish-result"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a made-up project with the script, since it writes beside itself."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    (tmp_path / "sweep").mkdir()
    return tmp_path


@pytest.fixture
def publish(project: Path, run_script: Runner) -> Runner:
    """Return what publishes a folder of the project."""

    def run(*more: str, folder: str = "sweep") -> subprocess.CompletedProcess[str]:
        return run_script(project / "scripts/publish-result", str(project / folder), "name", *more)

    return run


def test_a_whole_sweep_is_published(project: Path, publish: Runner) -> None:
    summary = {"cells": {"finished": 3, "broken": 0, "left": 0}, "configurations": []}
    write_json(project / "sweep/summary.json", summary)
    found = publish()
    assert (found.returncode, found.stdout) == (0, f"{project}/results/name.json\n")
    assert read_json(project / "results/name.json") == summary
    assert json.loads((project / "results/name.json").read_text())["cells"] == summary["cells"]


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"finished": 2, "broken": 0, "left": 1}, "1 left and 0 broken"),
        ({"finished": 2, "broken": 1, "left": 0}, "0 left and 1 broken"),
        ([], "no number left and no number broken"),
    ],
)
def test_a_sweep_that_is_not_whole_is_not_published(cells: Any, words: str, project: Path, publish: Runner) -> None:
    write_json(project / "sweep/summary.json", {"cells": cells, "configurations": []})
    found = publish()
    assert (found.returncode, found.stderr) == (
        2,
        f"publish-result: {project}/sweep/summary.json: expected a sweep with 0 cells left and 0 broken; "
        f"found {words}; go on with the same inputaware sweep\n",
    )
    assert not (project / "results/name.json").exists()


def test_runs_that_shared_a_gpu_say_so_and_no_others(project: Path, publish: Runner) -> None:
    config = preset_config(
        "fast", dataset="digits", attack="none", train_images=60, joint_stage={"epochs": 1, "batch_size": 30}
    )
    train(config, project / "run")
    write_json(project / "sweep/summary.json", {"cells": {"finished": 3, "broken": 0, "left": 0}})
    for folder, count, words in (
        ("run", "1", "expected a run that was trained on a GPU; found none; leave it out"),
        ("run", "-1", "expected a number of at least 0; found -1"),
        ("sweep", "1", "expected the folder of one run; found that of a sweep; leave it out"),
    ):
        found = publish(f"--beside={count}", folder=folder)
        assert found.returncode == 2
        assert found.stderr.endswith(f"error: --beside: {words}\n")
        assert not (project / "results/name.json").exists()
    environment = read_json(project / "run/environment.json")
    write_json(project / "run/environment.json", {**environment, "device": "Some GPU"})
    assert publish("--beside", "2", folder="run").returncode == 0
    assert read_json(project / "results/name.json")["beside"] == 2
    assert publish(folder="run").returncode == 0
    assert "beside" not in read_json(project / "results/name.json")
    for file in (project / "run/evaluation.json", project / "results/name.json"):
        file.unlink()
    found = publish(folder="run")
    assert found.returncode == 2
    assert "expected a finished run with an evaluation.json; found none" in found.stderr
    assert not (project / "results/name.json").exists()
