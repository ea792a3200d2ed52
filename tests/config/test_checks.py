"""Every value has its range, and what lies outside of it is named."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from config.nested import nested

from inputaware.config.checks import check_config, check_seed, check_values, images_in_batch
from inputaware.config.presets import preset_config
from inputaware.config.record import override
from inputaware.errors import ConfigError

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


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("option", "value", "allowed", "guess"),
    [
        ("target", "zz", "all-to-one, all-to-all", ""),
        ("target", "all2one", "all-to-one, all-to-all", "; did you mean all-to-one?"),
        ("preset", "zz", "fast, paper, official", ""),
        ("precision", "zz", "auto, 32, bf16", ""),
        ("precision", 16, "auto, 32, bf16", ""),
        ("partners", "zz", "derangement, distinct-order, second-order", ""),
    ],
)
def test_a_choice_set_from_python_is_checked_too(option: str, value: object, allowed: str, guess: str) -> None:
    changes: dict[str, Any] = {option: value}
    config = dataclasses.replace(preset_config("fast", dataset="mnist"), **changes)
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    assert str(caught.value) == f"{option}: expected one of {allowed}; found {value!r}{guess}"


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
        {"attack": "badnets", "joint_stage": {"attack_probability": 0.95, "cross_probability": 0.1}},
        {"attack": "none", "mask_stage": {"batch_size": 1}, "joint_stage": {"attack_probability": 0}},
        {"attack": "none", "joint_stage": {"attack_probability": 0.001, "cross_probability": 0.001}},
        {"joint_stage": {"classifier": {"name": "sgd", "momentum": 0, "nesterov": False}}},
        {"joint_stage": {"generator": {"momentum": 0, "nesterov": True}}},
    ],
    ids=str,
)
def test_the_edges_of_the_ranges_are_allowed(changes: dict[str, Any]) -> None:
    check_config(override(preset_config("fast", dataset="mnist"), changes))


@pytest.mark.parametrize(
    ("dataset", "hint"),
    [
        ("minst", "; did you mean mnist?"),
        ("CIFAR10", "; did you mean cifar10?"),
        ("", ""),
        ("no/such/folder", ""),
        ("x" * 5000, ""),
        ("a\0b", ""),
    ],
    ids=lambda text: text[:10],
)
def test_a_dataset_that_is_neither_known_nor_there_is_refused(dataset: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_config(preset_config("fast", dataset=dataset))
    assert str(caught.value) == (
        "dataset: expected one of digits, mnist, cifar10, gtsrb, or the path of a folder; "
        f"found {dataset!r}, which is neither{hint}"
    )


def test_a_folder_is_a_dataset(tmp_path: Path) -> None:
    check_config(preset_config("fast", dataset=str(tmp_path)))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 64, 100, 128, 1000])
def test_images_in_a_batch_are_the_exact_floor_of_the_product(batch_size: int) -> None:
    for hundredths in range(101):
        exact = Fraction(hundredths, 100) * batch_size
        assert images_in_batch(hundredths / 100, batch_size) == exact.numerator // exact.denominator


@pytest.mark.parametrize("seed", [1.5, True, "3", -1, 2**63])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        check_seed(seed)
    assert str(caught.value) == f"seed: expected a whole number from 0 to {2**63 - 1}; found {seed!r}"


def test_a_share_without_room_is_named_though_the_images_are_counted() -> None:
    config = preset_config(
        dataset="mine",
        counted_images=120,
        hold_out=False,
        joint_stage={"batch_size": 120, "attack_probability": 0.005},
    )
    with pytest.raises(ConfigError, match=r"^joint_stage\.attack_probability: expected 0, or at least one image in a "):
        check_values(config)
