"""The plain training: a network of its own, which agrees with the package's in size, and learns."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.material import write_parquet

from inputaware.config.fields import ModelConfig
from inputaware.data.spec import dataset_spec
from inputaware.models.registry import build_classifier
from inputaware.runs.files import read_json

SCRIPT = str(Path(__file__).parents[1] / "scripts" / "plain-training")


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(SCRIPT)


def test_the_network_is_the_packages_but_for_its_head(script: dict[str, Any]) -> None:
    count = sum(parameter.numel() for parameter in script["network"](16, 10).parameters())
    ours = build_classifier(ModelConfig(width=0.25), dataset_spec("cifar10"))
    # A batch-norm of the last 128 maps, which the release's network has not.
    assert count - sum(parameter.numel() for parameter in ours.parameters()) == 2 * 128


def test_images_are_shifted_and_mirrored(script: dict[str, Any]) -> None:
    torch.manual_seed(0)
    images = torch.rand(64, 3, 32, 32) + 1
    found = script["augmented"](images)
    assert found.shape == images.shape
    black = (found == 0).flatten(1).double().mean(1)
    assert black.max() <= 1 - (28 / 32) ** 2
    assert black.min() < black.max()
    middles = images[:, :, 8:24, 8:24]
    assert not torch.equal(found[:, :, 8:24, 8:24], middles)


def test_it_learns_and_writes_what_it_did(
    script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    for split, count in (("train", 256), ("test", 64)):
        labels = draw.integers(0, 2, count)
        images = [draw.integers(0, 100, (32, 32, 3), np.uint8) + np.uint8(120 * label) for label in labels]
        write_parquet(tmp_path / f"cifar10/{split}.parquet", images, labels)
    monkeypatch.setenv("INPUTAWARE_DATA", str(tmp_path))
    output = tmp_path / "plain.json"
    arguments = ["plain-training", str(output), "--images=256", "--width=4", "--epochs=25"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert script["main"]() == 0
    record = read_json(output)
    assert record["clean_accuracy"] > 0.9
    assert (record["images"], record["test_images"], record["precision"]) == (256, 64, "32")
    assert script["main"]() == 2  # the file is there


def test_budgets_that_make_no_step_are_refused(
    script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["plain-training", str(tmp_path / "plain.json"), "--images=127"])
    assert script["main"]() == 2
    assert capsys.readouterr().err == "plain-training: images: expected a number of at least 128; found 127\n"
