"""The configuration: presets, changes, ranges, and the record in JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Optional

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputaware.config import (
    DATASETS,
    IMAGE_COUNTS,
    PRESETS,
    AugmentationConfig,
    PresetName,
    TargetName,
    check_config,
    config_differences,
    config_from_dict,
    config_identity,
    config_to_dict,
    images_in_batch,
    override,
    preset_config,
)
from inputaware.errors import ConfigError

OPTIONS = (
    "dataset, attack, target, target_class, patch, preset, seed, device, precision, train_images, validation_images, "
    "counted_images, partners, augmentation, model, mask_stage, joint_stage"
)
each_preset = pytest.mark.parametrize("preset", PRESETS)
each_dataset = pytest.mark.parametrize("dataset", DATASETS)


def nested(name: str, value: object) -> dict[str, Any]:
    """Return a change of one option, by its dotted name."""
    for part in reversed(name.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


unchecked_types = pytest.mark.usefixtures("unchecked")


# Presets


@each_dataset
@each_preset
def test_every_preset_passes_its_own_checks(preset: PresetName, dataset: str) -> None:
    config = preset_config(preset, dataset=dataset)
    check_config(config)
    assert (config.preset, config.dataset) == (preset, dataset)


@each_dataset
@each_preset
def test_a_configuration_survives_json(preset: PresetName, dataset: str) -> None:
    config = preset_config(preset, dataset=dataset)
    text = json.dumps(config_to_dict(config), allow_nan=False)
    assert config_from_dict(json.loads(text)) == config


@pytest.mark.parametrize(
    ("preset", "option", "value"),
    [
        ("official", "partners", "second-order"),
        ("official", "model.hidden_units", 512),
        ("official", "model.dropout", 0.1),
        ("official", "mask_stage.epochs", 25),
        ("official", "mask_stage.lambda_div_twice", True),
        ("official", "mask_stage.optimizer.accumulate_gradients", False),
        ("official", "joint_stage.epochs", 575),
        ("official", "joint_stage.generator.accumulate_gradients", True),
        ("official", "joint_stage.classifier.accumulate_gradients", False),
        ("official", "joint_stage.classifier.milestones", [100, 200, 300, 400]),
        ("official", "joint_stage.generator.milestones", [200, 300, 400, 500]),
        ("paper", "partners", "distinct-order"),
        ("paper", "model.hidden_units", 1024),
        ("paper", "model.dropout", 0.1),
        ("paper", "validation_images", None),
        ("paper", "mask_stage.epochs", 25),
        ("paper", "mask_stage.batch_size", 128),
        ("paper", "mask_stage.density", 0.032),
        ("paper", "mask_stage.lambda_norm", 100.0),
        ("paper", "mask_stage.lambda_div", 1.0),
        ("paper", "mask_stage.lambda_div_twice", False),
        ("paper", "mask_stage.optimizer.name", "adam"),
        ("paper", "mask_stage.optimizer.learning_rate", 0.01),
        ("paper", "mask_stage.optimizer.betas", [0.5, 0.9]),
        ("paper", "mask_stage.optimizer.milestones", [10, 20]),
        ("paper", "joint_stage.epochs", 600),
        ("paper", "joint_stage.batch_size", 128),
        ("paper", "joint_stage.attack_probability", 0.1),
        ("paper", "joint_stage.cross_probability", 0.1),
        ("paper", "joint_stage.classifier.name", "sgd"),
        ("paper", "joint_stage.classifier.learning_rate", 0.01),
        ("paper", "joint_stage.classifier.momentum", 0.9),
        ("paper", "joint_stage.classifier.nesterov", False),
        ("paper", "joint_stage.classifier.weight_decay", 5e-4),
        ("paper", "joint_stage.classifier.schedule", "step"),
        ("paper", "joint_stage.classifier.milestones", [100, 200, 300, 400, 500]),
        ("paper", "joint_stage.generator.name", "adam"),
        ("paper", "joint_stage.generator.learning_rate", 0.01),
        ("paper", "joint_stage.generator.betas", [0.5, 0.9]),
        ("paper", "joint_stage.generator.milestones", [200, 300, 400, 500]),
        ("paper", "joint_stage.generator.accumulate_gradients", False),
        ("fast", "partners", "derangement"),
        ("fast", "joint_stage.classifier.schedule", "one-cycle"),
        ("fast", "joint_stage.classifier.name", "adam"),
        ("fast", "joint_stage.attack_probability", 0.1),
        ("fast", "joint_stage.cross_probability", 0.1),
        ("fast", "joint_stage.generator.schedule", "one-cycle"),
        ("fast", "mask_stage.optimizer.schedule", "one-cycle"),
        ("fast", "mask_stage.lambda_div_twice", False),
    ],
)
def test_presets_hold_what_they_stand_for(preset: PresetName, option: str, value: object) -> None:
    found: Any = config_to_dict(preset_config(preset, dataset="mnist"))
    for part in option.split("."):
        found = found[part]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("target", "shares"), [("all-to-one", (0.17, 0.33)), ("all-to-all", (0.25, 0.2))])
def test_fast_starts_with_shares_that_depend_on_the_target(target: TargetName, shares: tuple[float, float]) -> None:
    joint = preset_config("fast", dataset="mnist", target=target).joint_stage
    assert (joint.initial_attack_probability, joint.initial_cross_probability) == shares
    paper = preset_config("paper", dataset="mnist", target=target).joint_stage
    assert (paper.initial_attack_probability, paper.initial_cross_probability) == (None, None)


@pytest.mark.parametrize(
    ("images", "mask_epochs", "joint_epochs", "batch_size", "width"),
    [
        (3, 450, 1800, 1, 0.25),
        (50, 450, 1800, 40, 0.25),
        (360, 113, 450, 64, 0.25),
        (4_990, 8, 40, 64, 0.25),
        (4_999, 15, 59, 128, 1.0),
        (50_000, 5, 40, 128, 1.0),
    ],
)
def test_fast_takes_as_many_epochs_as_few_images_need(
    images: int, mask_epochs: int, joint_epochs: int, batch_size: int, width: float, tmp_path: Path
) -> None:
    (tmp_path / "parquet").mkdir()
    pq.write_table(pa.table({"label": [0] * images}), tmp_path / "parquet" / "train.parquet")
    config = preset_config("fast", dataset=str(tmp_path / "parquet"))
    assert (config.mask_stage.epochs, config.joint_stage.epochs) == (mask_epochs, joint_epochs)
    assert (config.mask_stage.batch_size, config.joint_stage.batch_size) == (batch_size, batch_size)
    assert config.model.width == width
    if images <= 1000:
        for number in range(images):
            file = tmp_path / "folders" / "train" / f"class-{number % 2}" / f"{number}.PNG"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        (file.parent / "notes.txt").touch()
        (file.parent / "._0.PNG").touch()
        folders = preset_config("fast", dataset=str(tmp_path / "folders"))
        if images > 10:  # of fewer, one of each class is held out, and a Parquet file does not say how many these are
            assert folders == dataclasses.replace(config, dataset=folders.dataset)


def test_what_was_counted_is_recorded_and_gives_the_same_schedule_without_the_folder(tmp_path: Path) -> None:
    for kind in range(40):
        for number in range(4):
            file = tmp_path / "train" / f"{kind}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    config = preset_config("fast", dataset=str(tmp_path))
    assert config.counted_images == 80  # one of each class is held out twice
    assert config.joint_stage.epochs == 1800
    gone = preset_config("fast", dataset="gone", counted_images=80)
    assert gone == dataclasses.replace(config, dataset="gone")
    assert config_identity(config)["counted_images"] == 80
    assert "counted_images" not in config_identity(preset_config("fast", dataset="digits"))
    assert preset_config("fast", dataset="digits", counted_images=80).joint_stage.epochs == 100
    with pytest.raises(ConfigError) as error:
        check_config(preset_config("fast", dataset=str(tmp_path), counted_images=0))
    assert str(error.value) == "counted_images: expected a number of at least 1; found 0"


@pytest.mark.parametrize("damage", ["gone", "empty", "no parquet"])
def test_a_folder_that_tells_nothing_has_the_schedule_of_a_large_one(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    if damage != "gone":
        (folder / "train").mkdir(parents=True)
    if damage == "no parquet":
        (folder / "train.parquet").write_bytes(b"PAR1")
    config = preset_config("fast", dataset=str(folder))
    assert (config.mask_stage.epochs, config.joint_stage.epochs, config.model.width) == (5, 40, 1.0)


@each_preset
@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("digits", AugmentationConfig(crop_padding=5, rotation_degrees=0.0, horizontal_flip=False)),
        ("mnist", AugmentationConfig(crop_padding=5, rotation_degrees=0.0, horizontal_flip=False)),
        ("cifar10", AugmentationConfig(crop_padding=5, rotation_degrees=10.0, horizontal_flip=True)),
        ("gtsrb", AugmentationConfig(crop_padding=5, rotation_degrees=10.0, horizontal_flip=False)),
        (".", AugmentationConfig(crop_padding=5, rotation_degrees=0.0, horizontal_flip=False)),
    ],
)
def test_augmentation_fits_the_images(preset: PresetName, dataset: str, expected: AugmentationConfig) -> None:
    if preset == "fast" and dataset in ("digits", "mnist"):
        expected = dataclasses.replace(expected, crop_padding={"digits": 1, "mnist": 2}[dataset])
    assert preset_config(preset, dataset=dataset).augmentation == expected


@each_preset
def test_the_patch_is_white_but_on_black_borders(preset: PresetName) -> None:
    patches = {dataset: preset_config(preset, dataset=dataset).patch for dataset in (*DATASETS, ".")}
    assert {dataset for dataset, patch in patches.items() if patch == "white"} == {"cifar10", "gtsrb", "."}
    assert preset_config(preset, dataset="cifar10", patch="checkerboard").patch == "checkerboard"


def test_a_configuration_of_before_there_was_a_choice_has_the_checkerboard() -> None:
    stored = config_to_dict(preset_config("fast", dataset="cifar10", attack="badnets"))
    del stored["patch"]
    assert config_from_dict(stored).patch == "checkerboard"


def test_the_learning_rates_of_the_published_presets_differ_only_as_the_sources_do() -> None:
    differences = config_differences(
        preset_config("paper", dataset="mnist"), preset_config("official", dataset="mnist")
    )
    assert differences == {
        "preset": ("paper", "official"),
        "partners": ("distinct-order", "second-order"),
        "model.hidden_units": (1024, 512),
        "mask_stage.lambda_div_twice": (False, True),
        "joint_stage.epochs": (600, 575),
        "joint_stage.classifier.milestones": ([100, 200, 300, 400, 500], [100, 200, 300, 400]),
        "joint_stage.generator.accumulate_gradients": (False, True),
    }


def test_options_of_a_preset_replace_its_values() -> None:
    config = preset_config("paper", dataset="mnist", seed=7, joint_stage={"epochs": 3, "generator": {"momentum": 0}})
    plain = preset_config("paper", dataset="mnist")
    assert config_differences(plain, config) == {
        "seed": (0, 7),
        "joint_stage.epochs": (600, 3),
        "joint_stage.generator.momentum": (0.9, 0.0),
    }


@unchecked_types
def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        preset_config("quick", dataset="mnist")  # type: ignore[arg-type]
    assert str(caught.value) == "preset: expected one of fast, paper, official; found 'quick'"


# Changes and types


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("attack", "zz", "attack: expected one of input-aware, badnets, none; found 'zz'"),
        ("attack", None, "attack: expected one of input-aware, badnets, none; found None"),
        ("target", "all", "target: expected one of all-to-one, all-to-all; found 'all'"),
        ("preset", "quick", "preset: expected one of fast, paper, official; found 'quick'"),
        ("precision", "16", "precision: expected one of auto, 32, bf16; found '16'"),
        ("precision", 32, "precision: expected one of auto, 32, bf16; found 32"),
        ("patch", "black", "patch: expected one of checkerboard, white; found 'black'"),
        ("partners", "any", "partners: expected one of derangement, distinct-order, second-order; found 'any'"),
        (
            "model.architecture",
            "vgg",
            "model.architecture: expected one of auto, mnist-cnn, preact-resnet18; found 'vgg'",
        ),
        ("mask_stage.optimizer.name", "lion", "mask_stage.optimizer.name: expected one of adam, sgd; found 'lion'"),
        (
            "joint_stage.generator.schedule",
            "flat",
            "joint_stage.generator.schedule: expected one of step, one-cycle; found 'flat'",
        ),
        ("seed", 1.5, "seed: expected a whole number; found 1.5"),
        ("seed", 1.0, "seed: expected a whole number; found 1.0"),
        ("seed", True, "seed: expected a whole number; found True"),
        ("seed", "1", "seed: expected a whole number; found '1'"),
        ("seed", None, "seed: expected a whole number; found None"),
        ("train_images", 0.5, "train_images: expected a whole number or none; found 0.5"),
        ("validation_images", False, "validation_images: expected a whole number or none; found False"),
        ("device", 0, "device: expected text; found 0"),
        ("dataset", None, "dataset: expected text; found None"),
        ("model.dropout", "0.1", "model.dropout: expected a number; found '0.1'"),
        ("model.dropout", True, "model.dropout: expected a number; found True"),
        (
            "joint_stage.initial_attack_probability",
            "half",
            "joint_stage.initial_attack_probability: expected a number or none; found 'half'",
        ),
        (
            "augmentation.horizontal_flip",
            1,
            "augmentation.horizontal_flip: expected true or false; found 1",
        ),
        (
            "joint_stage.classifier.milestones",
            3,
            "joint_stage.classifier.milestones: expected a list of numbers; found 3",
        ),
        (
            "joint_stage.classifier.milestones",
            "12",
            "joint_stage.classifier.milestones: expected a list of numbers; found '12'",
        ),
        (
            "joint_stage.classifier.milestones",
            [1, 2.5],
            "joint_stage.classifier.milestones: expected a whole number; found 2.5",
        ),
        (
            "joint_stage.generator.betas",
            [0.5],
            "joint_stage.generator.betas: expected a list of 2 numbers; found [0.5]",
        ),
        (
            "joint_stage.generator.betas",
            [0.5, True],
            "joint_stage.generator.betas: expected a number; found True",
        ),
        ("mask_stage", 3, "mask_stage: expected options by name; found 3"),
        ("mask_stage.optimizer", None, "mask_stage.optimizer: expected options by name; found None"),
        ("epochs", 3, f"epochs: unknown option; expected one of {OPTIONS}"),
        (
            "model.depth",
            3,
            "model.depth: unknown option; expected one of architecture, hidden_units, dropout, width",
        ),
        (
            "augmentation.zz",
            {},
            "augmentation.zz: unknown option; expected one of crop_padding, rotation_degrees, horizontal_flip",
        ),
    ],
)
def test_a_change_of_the_wrong_kind_is_refused(option: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(preset_config("fast", dataset="mnist"), nested(option, value))
    assert str(caught.value) == message


def test_all_wrong_values_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        preset_config("fast", dataset="mnist", seed="x", device=3)
    assert str(caught.value) == "seed: expected a whole number; found 'x'; device: expected text; found 3"


@unchecked_types
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {},
            "dataset: expected a value; found none; mask_stage: expected a value; found none; "
            "joint_stage: expected a value; found none",
        ),
        ([], "configuration: expected options by name; found []"),
        (
            {**config_to_dict(preset_config("fast", dataset="mnist")), "b": 1, "a": 2},
            f"configuration: unknown option a, b; expected one of {OPTIONS}",
        ),
        (
            {**config_to_dict(preset_config("fast", dataset="mnist")), "model": {"a": 2}},
            "model: unknown option a; expected one of architecture, hidden_units, dropout, width",
        ),
        (
            {**config_to_dict(preset_config("fast", dataset="mnist")), "mask_stage": 3},
            "mask_stage: expected options by name; found 3",
        ),
    ],
)
def test_a_record_that_is_no_configuration_is_refused(data: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_dict(data)
    assert str(caught.value) == message


def test_a_whole_number_serves_where_a_number_is_expected() -> None:
    config = preset_config("fast", dataset="mnist", joint_stage={"lambda_div": 2, "initial_attack_probability": 1})
    assert isinstance(config.joint_stage.lambda_div, float)
    assert isinstance(config.joint_stage.initial_attack_probability, float)
    assert config.joint_stage.lambda_div == 2


def test_a_part_may_be_given_as_its_dataclass() -> None:
    part = AugmentationConfig(crop_padding=2, rotation_degrees=3.0, horizontal_flip=True)
    assert preset_config("fast", dataset="mnist", augmentation=part).augmentation == part


def test_override_leaves_the_original_alone() -> None:
    config = preset_config("fast", dataset="mnist")
    before = config_to_dict(config)
    override(config, {"joint_stage": {"classifier": {"milestones": [3]}}})
    assert config_to_dict(config) == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]


# Ranges


LOW = "a number of at least"
OUT_OF_RANGE: list[tuple[dict[str, Any], str]] = [
    (nested("target_class", -1), f"target_class: expected {LOW} 0; found -1"),
    (nested("seed", -1), "seed: expected a whole number from 0 to 9223372036854775807; found -1"),
    (nested("seed", 2**63), f"seed: expected a whole number from 0 to 9223372036854775807; found {2**63}"),
    (nested("seed", 10**400), f"seed: expected a whole number from 0 to 9223372036854775807; found {10**400}"),
    (nested("train_images", 0), f"train_images: expected {LOW} 1; found 0"),
    (nested("validation_images", -5), f"validation_images: expected {LOW} 1; found -5"),
    (nested("augmentation.crop_padding", -1), f"augmentation.crop_padding: expected {LOW} 0 and at most 32; found -1"),
    (
        nested("augmentation.rotation_degrees", 181),
        f"augmentation.rotation_degrees: expected {LOW} 0 and at most 180; found 181.0",
    ),
    (nested("model.hidden_units", 0), f"model.hidden_units: expected {LOW} 1 and at most 65536; found 0"),
    (nested("model.dropout", 1), f"model.dropout: expected {LOW} 0 and at most 0.99; found 1.0"),
    (nested("model.dropout", math.nan), f"model.dropout: expected {LOW} 0 and at most 0.99; found nan"),
    (nested("model.width", 0), "model.width: expected a number above 0 and at most 16; found 0.0"),
    (nested("model.width", math.inf), "model.width: expected a number above 0 and at most 16; found inf"),
    (nested("mask_stage.epochs", 0), f"mask_stage.epochs: expected {LOW} 1; found 0"),
    (nested("joint_stage.epochs", -3), f"joint_stage.epochs: expected {LOW} 1; found -3"),
    (nested("mask_stage.batch_size", 0), f"mask_stage.batch_size: expected {LOW} 1; found 0"),
    (
        nested("mask_stage.batch_size", 1),
        "mask_stage.batch_size: expected at least 2 images, an image and its partner; found 1",
    ),
    (nested("joint_stage.batch_size", -128), f"joint_stage.batch_size: expected {LOW} 1; found -128"),
    (nested("mask_stage.lambda_div", -1), f"mask_stage.lambda_div: expected {LOW} 0; found -1.0"),
    (nested("joint_stage.lambda_div", math.nan), f"joint_stage.lambda_div: expected {LOW} 0; found nan"),
    (nested("mask_stage.density", 1.1), f"mask_stage.density: expected {LOW} 0 and at most 1; found 1.1"),
    (nested("mask_stage.lambda_norm", math.inf), f"mask_stage.lambda_norm: expected {LOW} 0; found inf"),
    (
        nested("joint_stage.label_smoothing", 1),
        f"joint_stage.label_smoothing: expected {LOW} 0 and at most 0.99; found 1.0",
    ),
    (nested("joint_stage.averaging", 1), f"joint_stage.averaging: expected {LOW} 0 and at most 0.99999; found 1.0"),
    (nested("joint_stage.ramp", 0), "joint_stage.ramp: expected a number above 0 and at most 1; found 0.0"),
    (
        nested("joint_stage.attack_probability", -0.1),
        f"joint_stage.attack_probability: expected {LOW} 0 and at most 1; found -0.1",
    ),
    (
        nested("joint_stage.attack_probability", math.nan),
        f"joint_stage.attack_probability: expected {LOW} 0 and at most 1; found nan",
    ),
    (
        nested("joint_stage.attack_probability", 0),
        "joint_stage.attack_probability: expected a number above 0 and at most 1; found 0.0",
    ),
    (
        nested("joint_stage.initial_attack_probability", 0),
        "joint_stage.initial_attack_probability: expected a number above 0 and at most 1; found 0.0",
    ),
    (
        nested("joint_stage.cross_probability", 1.5),
        f"joint_stage.cross_probability: expected {LOW} 0 and at most 1; found 1.5",
    ),
    (
        nested("joint_stage.attack_probability", 0.007),
        "joint_stage.attack_probability: expected 0, or at least one image in a batch of 128 "
        "(a probability of 0.007813 or more); found 0.007",
    ),
    (
        nested("joint_stage.initial_cross_probability", 0.001),
        "joint_stage.initial_cross_probability: expected 0, or at least one image in a batch of 128 "
        "(a probability of 0.007813 or more); found 0.001",
    ),
    (
        nested("joint_stage.attack_probability", 0.01),
        "joint_stage.attack_probability: expected at least 2 images in a batch of 128 with "
        "partners=derangement, an image and its partner (a probability of 0.015625 or more); found 0.01",
    ),
    (
        nested("joint_stage.initial_attack_probability", 0.01),
        "joint_stage.initial_attack_probability: expected at least 2 images in a batch of 128 with "
        "partners=derangement, an image and its partner (a probability of 0.015625 or more); found 0.01",
    ),
    (
        {"joint_stage": {"attack_probability": 0.75, "cross_probability": 0.5}},
        "joint_stage.attack_probability and cross_probability: expected a sum of at most 1; found 1.25",
    ),
    (
        {"joint_stage": {"initial_attack_probability": 0.75, "initial_cross_probability": 0.5}},
        "joint_stage.initial_attack_probability and initial_cross_probability: expected a sum of at most 1; found 1.25",
    ),
    (
        nested("mask_stage.optimizer.learning_rate", 0),
        "mask_stage.optimizer.learning_rate: expected a number above 0; found 0.0",
    ),
    (
        nested("joint_stage.classifier.learning_rate", math.inf),
        "joint_stage.classifier.learning_rate: expected a number above 0; found inf",
    ),
    (
        nested("joint_stage.generator.warmup", 1),
        f"joint_stage.generator.warmup: expected {LOW} 0 and at most 0.99; found 1.0",
    ),
    (
        nested("joint_stage.classifier.momentum", 1),
        f"joint_stage.classifier.momentum: expected {LOW} 0 and at most 0.999; found 1.0",
    ),
    (
        {"joint_stage": {"classifier": {"name": "sgd", "momentum": 0, "nesterov": True}}},
        "joint_stage.classifier.nesterov: expected false with a momentum of 0; found True",
    ),
    (
        nested("joint_stage.classifier.weight_decay", -1e-4),
        f"joint_stage.classifier.weight_decay: expected {LOW} 0; found -0.0001",
    ),
    (
        nested("joint_stage.generator.betas", [0.5, 1]),
        f"joint_stage.generator.betas: expected {LOW} 0 and at most 0.9999; found 1.0",
    ),
    (
        nested("joint_stage.generator.milestones", [10, 0]),
        f"joint_stage.generator.milestones: expected {LOW} 1; found 0",
    ),
]


@pytest.mark.parametrize(("changes", "message"), OUT_OF_RANGE, ids=[message[:60] for _, message in OUT_OF_RANGE])
def test_a_value_out_of_its_range_is_refused(changes: dict[str, Any], message: str) -> None:
    config = override(preset_config("fast", dataset="mnist"), changes)
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    assert str(caught.value) == message


@unchecked_types
@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("attack", "zz", "input-aware, badnets, none"),
        ("target", "zz", "all-to-one, all-to-all"),
        ("preset", "zz", "fast, paper, official"),
        ("precision", "zz", "auto, 32, bf16"),
        ("partners", "zz", "derangement, distinct-order, second-order"),
    ],
)
def test_a_choice_set_from_python_is_checked_too(option: str, value: str, allowed: str) -> None:
    changes: dict[str, Any] = {option: value}
    config = dataclasses.replace(preset_config("fast", dataset="mnist"), **changes)
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    assert str(caught.value) == f"{option}: expected one of {allowed}; found 'zz'"


@pytest.mark.parametrize(
    "changes",
    [
        nested("seed", 2**63 - 1),
        nested("train_images", 1),
        nested("validation_images", None),
        nested("augmentation.rotation_degrees", 180),
        nested("model.dropout", 0),
        nested("joint_stage.ramp", 1),
        {"joint_stage": {"attack_probability": 0.5, "cross_probability": 0.5}},
        {"joint_stage": {"attack_probability": 0.1, "cross_probability": 0.9}},
        nested("joint_stage.cross_probability", 0),
        nested("joint_stage.attack_probability", 2 / 128),
        {"partners": "second-order", "joint_stage": {"attack_probability": 1 / 128}},
        {"attack": "badnets", "joint_stage": {"attack_probability": 1 / 128, "cross_probability": 0.001}},
        {"attack": "none", "mask_stage": {"batch_size": 1}, "joint_stage": {"attack_probability": 0}},
        {"attack": "none", "joint_stage": {"attack_probability": 0.001, "cross_probability": 0.001}},
        {"joint_stage": {"classifier": {"name": "sgd", "momentum": 0, "nesterov": False}}},
        {"joint_stage": {"generator": {"momentum": 0, "nesterov": True}}},
    ],
    ids=str,
)
def test_the_edges_of_the_ranges_are_allowed(changes: dict[str, Any]) -> None:
    check_config(override(preset_config("fast", dataset="mnist"), changes))


@pytest.mark.parametrize("dataset", ["minst", "", "no/such/folder", "x" * 5000, "a\0b"], ids=lambda name: name[:10])
def test_a_dataset_that_is_neither_known_nor_there_is_refused(dataset: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_config(preset_config("fast", dataset=dataset))
    assert str(caught.value) == (
        "dataset: expected one of digits, mnist, cifar10, gtsrb, or the path of a folder; "
        f"found {dataset!r}, which is neither"
    )


def test_a_folder_is_a_dataset(tmp_path: Path) -> None:
    check_config(preset_config("fast", dataset=str(tmp_path)))


# Counting


def test_what_training_gets_of_each_data_set() -> None:
    trained_on = {name: images.train for name, images in IMAGE_COUNTS.items()}
    assert trained_on == {"digits": 1149, "mnist": 50_000, "cifar10": 40_000, "gtsrb": 29_209}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 64, 100, 128, 1000])
def test_images_in_a_batch_are_the_exact_floor_of_the_product(batch_size: int) -> None:
    for hundredths in range(101):
        exact = Fraction(hundredths, 100) * batch_size
        assert images_in_batch(hundredths / 100, batch_size) == exact.numerator // exact.denominator


def test_differences_of_a_configuration_with_itself_are_none() -> None:
    config = preset_config("fast", dataset="mnist")
    assert config_differences(config, config) == {}


# Cost


def test_nothing_heavy_is_imported() -> None:
    program = (
        "import sys; from inputaware.config import *; config = preset_config('paper', dataset='mnist'); "
        "check_config(config); config_to_dict(config); "
        "print(sorted({'torch', 'numpy', 'PIL', 'pyarrow', 'sklearn'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


def test_what_an_attack_does_not_read_makes_no_difference() -> None:
    changed: dict[str, Any] = {"joint_stage": {"initial_attack_probability": 0.3}, "mask_stage": {"epochs": 1}}
    for attack, count in (("badnets", 1), ("none", 0), ("input-aware", 2)):
        plain = preset_config("fast", dataset="digits", attack=attack)
        assert len(config_differences(plain, override(plain, {**changed, "patch": "white"}))) == count


@dataclass(frozen=True, kw_only=True)
class Odd:
    """What somebody's own settings may hold."""

    either: int | str = 3
    perhaps: int | str | None = None
    table: dict[str, float] = field(default_factory=lambda: {"first": 1.0})
    several: list[int] = field(default_factory=list)
    names: tuple[str, ...] = ()
    anything: Any = None
    older: Optional[int] = None  # noqa: UP045
    computed: int = field(init=False, default=7)


def test_settings_of_other_types_are_read() -> None:
    changes = {
        "either": "x",
        "perhaps": 4,
        "table": {"second": 2},
        "several": [1],
        "names": ["a", "b"],
        "anything": [None],
        "older": 3,
    }
    assert override(Odd(), changes) == Odd(
        either="x", perhaps=4, table={"second": 2.0}, several=[1], names=("a", "b"), anything=[None], older=3
    )
    assert override(Odd(perhaps=5), {"perhaps": None}) == Odd()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"either": 1.5}, "either: expected a whole number or text; found 1.5"),
        ({"perhaps": True}, "perhaps: expected a whole number or text or none; found True"),
        ({"older": "x"}, "older: expected a whole number or none; found 'x'"),
        (
            {"computed": 8},
            "computed: unknown option; expected one of either, perhaps, table, several, names, anything, older",
        ),
        ({"table": 3}, "table: expected values by name; found 3"),
        ({"table": {"a": "b"}}, "table: expected a number; found 'b'"),
        ({"several": 3}, "several: expected a list; found 3"),
        ({"several": [1.5]}, "several: expected a whole number; found 1.5"),
    ],
)
def test_settings_of_other_types_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        override(Odd(), changes)
    assert str(error.value) == message


def test_a_type_that_no_file_can_hold_is_named() -> None:
    @dataclass(frozen=True)
    class Strange:
        number: complex = 1j

    with pytest.raises(ConfigError) as error:
        override(Strange(), {})
    assert str(error.value) == (
        "Strange: expected fields of numbers, text and truth values, or tuples, lists and dictionaries of them; found "
        "one of <class 'complex'>"
    )
