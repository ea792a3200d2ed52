"""Estimates are in proportion to the images that pass through the networks."""

from __future__ import annotations

import pytest
import torch

from inputaware.config.presets import preset_config
from inputaware.reproduction.estimate import seconds_of_work, seconds_per_image

RATES = {"mask": 2e-3, "joint": 1e-3}


def test_a_training_takes_what_its_epochs_do() -> None:
    usual = preset_config(dataset="digits")
    longer = preset_config(dataset="digits", joint_stage={"epochs": usual.joint_stage.epochs + 10})
    assert seconds_of_work("train", longer, RATES) - seconds_of_work("train", usual, RATES) == pytest.approx(
        10 * 1149 * 1e-3
    )
    control = preset_config(dataset="digits", attack="none")
    mask_stage = seconds_of_work("train", usual, RATES) - seconds_of_work("train", control, RATES)
    assert mask_stage == pytest.approx(usual.mask_stage.epochs * 1149 * 2e-3)


def test_neural_cleanse_takes_longer_with_more_classes() -> None:
    of_ten, of_many = (
        seconds_of_work("neural-cleanse", preset_config(dataset=name), RATES) for name in ("cifar10", "gtsrb")
    )
    assert of_many == pytest.approx(4.3 * of_ten)
    # Ten classes, a hundred rounds of a thousand images: a little under half of what a training would take.
    assert of_ten == pytest.approx(0.45 * 1e6 * 1e-3)


def test_a_step_is_timed_for_each_stage() -> None:
    found = seconds_per_image("digits", torch.device("cpu"), "32")
    assert found.keys() == {"mask", "joint"}
    assert all(0 < seconds < 1 for seconds in found.values())
