"""The example of images of one's own is in the layout that is read, and the same each time."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from inputaware import preset_config
from inputaware.data.sources import read_source

SHAPES = Path(__file__).parents[1] / "examples" / "shapes.py"


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
