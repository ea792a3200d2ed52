"""What presets hold, and what of a user's own images they count."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputaware.config.checks import check_config, check_values, images_in_batch
from inputaware.config.datasets import DATASETS
from inputaware.config.fields import PRESETS, AugmentationConfig, PresetName, TargetName
from inputaware.config.presets import late_probabilities, preset_config, without_effect
from inputaware.config.record import config_differences, config_identity, config_to_dict
from inputaware.errors import ConfigError

each_preset = pytest.mark.parametrize("preset", PRESETS)
each_dataset = pytest.mark.parametrize("dataset", DATASETS)


@each_dataset
@each_preset
def test_every_preset_passes_its_own_checks(preset: PresetName, dataset: str) -> None:
    config = preset_config(preset, dataset=dataset)
    check_config(config)
    assert (config.preset, config.dataset) == (preset, dataset)


@pytest.mark.parametrize(
    ("preset", "option", "value"),
    [
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
        ("paper", "mask_stage.optimizer.accumulate_gradients", False),
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
        ("paper", "joint_stage.classifier.accumulate_gradients", False),
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
    table = pa.table({"label": [number % 2 for number in range(images)]})
    pq.write_table(table, tmp_path / "parquet" / "train.parquet")
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
        assert folders == dataclasses.replace(config, dataset=folders.dataset)


def test_labels_that_are_no_numbers_are_left_to_who_reads_the_images(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": [[0], [1]]}), tmp_path / "train.parquet")
    assert preset_config("fast", dataset=str(tmp_path)).joint_stage.epochs == 1800


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


def test_the_published_presets_differ_only_as_the_sources_do() -> None:
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


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_preset_is_refused() -> None:
    for name, guess in (("quick", ""), ("Fast", "; did you mean fast?")):
        with pytest.raises(ConfigError) as caught:
            preset_config(name, dataset="mnist")  # type: ignore[arg-type]
        assert str(caught.value) == f"preset: expected one of fast, paper, official; found {name!r}{guess}"


def test_nothing_heavy_is_imported() -> None:
    program = (
        "import sys; from inputaware.config.checks import check_config; "
        "from inputaware.config.presets import preset_config; from inputaware.config.record import config_to_dict; "
        "config = preset_config('paper', dataset='mnist'); "
        "check_config(config); config_to_dict(config); "
        "print(sorted({'torch', 'numpy', 'PIL', 'pyarrow', 'sklearn'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


@pytest.mark.parametrize(
    ("dataset", "options", "idle"),
    [
        ("digits", {}, []),
        ("digits", {"model": {"width": 0.25, "dropout": 0.2}}, ["model.width"]),
        ("cifar10", {"model": {"width": 0.25, "dropout": 0.2}}, ["model.dropout"]),
        ("digits", {"model": {"architecture": "preact-resnet18", "width": 0.5}}, []),
        ("somewhere", {"model": {"width": 0.5, "dropout": 0.2}}, []),
        ("mnist", {"attack": "badnets", "mask_stage": {"epochs": 1}, "patch": "white"}, ["mask_stage.epochs"]),
        ("mnist", {"patch": "white", "target": "all-to-all"}, ["patch"]),
        ("mnist", {"target": "all-to-all", "target_class": 3}, ["target_class"]),
        ("mnist", {"attack": "none", "target": "all-to-all"}, ["target"]),
    ],
)
def test_options_that_nothing_reads_are_named(dataset: str, options: dict[str, Any], idle: list[str]) -> None:
    assert without_effect(preset_config("fast", dataset=dataset, **options)) == idle


@pytest.mark.parametrize(
    ("options", "notes"),
    [
        ({}, []),
        (
            {"joint_stage": {"cross_probability": 0}},
            [
                "joint_stage.cross_probability 0 holds at the end of the joint stage only: the stage begins with 0.33, "
                "which goes to 0 over its last 40%; for 0 throughout set joint_stage.initial_cross_probability to 0 too"
            ],
        ),
        (
            {"target": "all-to-all", "joint_stage": {"attack_probability": 0.05, "ramp": 1}},
            [
                "joint_stage.attack_probability 0.05 holds at the end of the joint stage only: the stage begins with "
                "0.25, which goes to 0.05 over its last 100%; for 0.05 throughout set "
                "joint_stage.initial_attack_probability to 0.05 too"
            ],
        ),
        ({"joint_stage": {"cross_probability": 0, "initial_cross_probability": 0}}, []),
        ({"joint_stage": {"cross_probability": 0, "initial_cross_probability": None}}, []),
        ({"joint_stage": {"cross_probability": 0, "initial_cross_probability": 0.2}}, []),
        ({"joint_stage": {"cross_probability": 0.33}}, []),
        ({"joint_stage": {"initial_cross_probability": 0}}, []),
        ({"attack": "badnets", "joint_stage": {"attack_probability": 0.05}}, []),
        ({"preset": "paper", "joint_stage": {"cross_probability": 0}}, []),
    ],
)
def test_a_final_probability_without_its_initial_one_is_told(options: dict[str, Any], notes: list[str]) -> None:
    assert late_probabilities(preset_config(**{"preset": "fast", "dataset": "digits", **options})) == notes


def test_fewer_than_twenty_images_leave_an_image_and_its_partner() -> None:
    for images in range(3, 80):
        config = preset_config("fast", dataset="somewhere", counted_images=images)
        check_values(config)
        joint = config.joint_stage
        assert images_in_batch(joint.attack_probability, joint.batch_size) >= 2
        assert images_in_batch(joint.cross_probability, joint.batch_size) >= 1
    assert joint.attack_probability == joint.cross_probability == 0.1
    for images in (1, 2):  # no room for them, but a clean model trains
        check_values(preset_config("fast", dataset="somewhere", counted_images=images, attack="none"))
