"""The examples run, and the code of the page beside one of them: images and a classifier of one's own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from inputaware import preset_config
from inputaware.data.sources import read_source
from inputaware.runs.files import read_json

ROOT = Path(__file__).parents[1]
SHAPES = ROOT / "examples" / "shapes.py"
OWN_CLASSIFIER = ROOT / "examples" / "own_classifier.py"


def test_the_shapes_are_read_and_the_same_each_time(
    tmp_path: Path, run_script: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        found = run_script(SHAPES, str(folder))
        assert (found.returncode, found.stdout) == (0, f"{folder}\n")
    first, second = (read_source(str(folder), "train") for folder in folders)
    assert np.array_equal(first.images, second.images)
    assert first.images.shape == (360, 3, 32, 32)
    assert first.spec.class_names == ("disc", "frame", "line", "ring", "square", "triangle")
    assert len(read_source(str(folders[0]), "test").labels) == 240
    assert preset_config("fast", dataset=str(folders[0])).joint_stage.epochs == 450


def test_shapes_overwrite_nothing(tmp_path: Path, run_script: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    found = run_script(SHAPES, str(tmp_path))
    assert (found.returncode, found.stderr) == (
        2,
        f"shapes: expected a folder that does not exist yet; found {str(tmp_path)!r}; choose another one\n",
    )
    assert run_script(SHAPES).returncode == 2


def test_a_classifier_of_ones_own_is_examined(
    tmp_path: Path, run_script: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    found = run_script(OWN_CLASSIFIER, str(tmp_path))
    assert (found.returncode, found.stderr) == (0, "")
    names = ["fine-pruning", "image-regularization", "neural-cleanse", "strip"]
    for model in ("clean", "patched"):
        assert re.search(f"^{model} *$", found.stdout, re.M)
        assert sorted(path.name for path in (tmp_path / model).iterdir()) == [
            f"{name}.{kind}" for name in names for kind in ("json", "npz")
        ]
    assert all(found.stdout.count(name) >= 2 for name in names)
    scores = read_json(tmp_path / "patched" / "strip.json")["scoring"]["scores"]
    assert scores["auroc"] > 0.95  # the patch was learned, and works on every image
    original = read_json(tmp_path / "clean" / "fine-pruning.json")["scoring"]["scores"]["original"]
    assert original["clean_accuracy"] > 0.95
    assert original["attack"] is None


def test_results_of_a_classifier_of_ones_own_are_not_overwritten(
    tmp_path: Path, run_script: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "clean").mkdir()
    found = run_script(OWN_CLASSIFIER, str(tmp_path))
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == (
        "own_classifier: output: expected a folder that does not exist yet; "
        f"found {str(tmp_path / 'clean')!r}; choose another one, or remove it first\n"
    )


def test_the_code_of_its_page_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    load_script: Callable[[Path], ModuleType],
) -> None:
    page = (ROOT / "docs/guide/own-classifier.md").read_text(encoding="utf-8")
    random = np.random.default_rng(0)
    names: dict[str, Any] = {"network": load_script(OWN_CLASSIFIER).Network(), "__name__": "page"}
    for split, count in (("", 120), ("test_", 40)):
        names[f"{split}images"] = random.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
        names[f"{split}labels"] = np.arange(count) % 10
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    assert len(blocks) == 6
    for block in blocks:
        exec(block, names)
    out = capsys.readouterr().out
    assert "our classifier" in out
    # The network has learned nothing: what the page prints of it are numbers all the same, and no cross test.
    assert re.search(r"^attack_success_rate_excluding_target [01]\.\d+\ncross_accuracy None$", out, re.M)
    assert names["rates"]["trigger"]["mask_area"] == 1.0
    assert names["rates"]["reuse"] is names["rates"]["cross_accuracy"] is None
    assert names["records"]["strip"]["scoring"]["model"]["doubts"]
    assert read_json(tmp_path / "examined/strip.json") == names["records"]["strip"]
