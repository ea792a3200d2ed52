"""Small models of digits, trained once for all tests: one with BadNets' patch, one clean."""

from __future__ import annotations

from pathlib import Path

import pytest

from inputaware.api import Run, train
from inputaware.config.presets import preset_config
from inputaware.config.record import override

# Chosen before any defense was run on them, so that the patch works and the clean accuracy is above 95 %.
BUDGET = {
    "device": "cpu",
    "precision": "32",
    "validation_images": 10,
    "model": {"hidden_units": 128},
    "joint_stage": {"epochs": 12, "averaging": 0.9},
}


@pytest.fixture(scope="session")
def badnets(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory, "badnets")


@pytest.fixture(scope="session")
def clean_model(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory, "none")


def trained(factory: pytest.TempPathFactory, attack: str) -> Run:
    folder: Path = factory.mktemp("runs") / attack
    return train(override(preset_config("fast", dataset="digits", attack=attack), BUDGET), folder)
