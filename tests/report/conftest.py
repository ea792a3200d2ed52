"""Small finished runs with everything in their folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from robustness.storage import small_config

from inputaware.api import train
from inputaware.config.fields import AttackName
from inputaware.defenses.settings import (
    DEFENSES,
    AdversarialNeuronPruningSettings,
    DefenseSettings,
    FinePruningSettings,
    ImageRegularizationSettings,
    NeuralCleanseSettings,
    StripSettings,
)

QUICK = DefenseSettings(
    neural_cleanse=NeuralCleanseSettings(rounds=2, success_threshold=0.2, batch_size=72, images_per_round=72),
    strip=StripSettings(overlays=2, images=200),
    fine_pruning=FinePruningSettings(epochs=1),
    image_regularization=ImageRegularizationSettings(kernels=(3,), bits=(1,)),
    adversarial_neuron_pruning=AdversarialNeuronPruningSettings(iterations=2),
)


def make_run(folder: Path, attack: AttackName) -> Path:
    """Train a small run, inspect it and run all defenses on it."""
    run = train(small_config(attack=attack, mask_stage={"epochs": 1, "batch_size": 50}), folder)
    run.inspect()
    run.defend(DEFENSES, QUICK)
    return folder


@pytest.fixture(scope="session")
def whole_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a finished run of each attack; tests do not write in them."""
    folder = tmp_path_factory.mktemp("reported")
    return {attack: make_run(folder / attack, attack) for attack in ("input-aware", "badnets", "none")}


@pytest.fixture
def copy_of(whole_runs: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies a run into a folder of that name, for tests that change it."""

    def copy(attack: str, name: str = "copy") -> Path:
        target = tmp_path / name
        shutil.copytree(whole_runs[attack], target)
        return target

    return copy
