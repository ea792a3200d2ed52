"""What a configuration must be before any data are read."""

from __future__ import annotations

import math
import os
from typing import get_args

from inputaware.config.datasets import DATASETS
from inputaware.config.fields import (
    PRESETS,
    ArchitectureName,
    AttackName,
    Config,
    PartnerRule,
    PatchName,
    PrecisionName,
    TargetName,
)
from inputaware.errors import ConfigError, did_you_mean

__all__ = ["check_config", "check_number", "check_processes", "check_seed", "check_values", "images_in_batch"]


def check_processes(config: Config, processes: int) -> None:
    """Refuse more processes than a part of a batch has images whose triggers are made.

    Args:
        config: of the run that they are to train together.
        processes: how many there are.

    Raises:
        ConfigError: a part of a batch has fewer images.
    """
    joint = config.joint_stage
    images = {"joint_stage.batch_size": joint.batch_size}
    if config.attack == "input-aware":
        images["mask_stage.batch_size"] = config.mask_stage.batch_size
        for kind in ("attack", "cross"):
            for name in (f"{kind}_probability", f"initial_{kind}_probability"):
                if probability := getattr(joint, name):
                    images[f"joint_stage.{name}"] = images_in_batch(probability, joint.batch_size)
    for option, count in images.items():
        if count < processes:
            raise ConfigError(
                f"{option}: expected at least one image of a batch for each of the {processes} processes; "
                f"found {count} images; take larger batches or fewer processes"
            )


def images_in_batch(probability: float, batch_size: int) -> int:
    """Return how many images of a batch a probability gives: ``floor(probability * batch_size)``.

    The product is nudged by a billionth, so that 0.29 of 100 images are 29 although the product of the
    two floating-point numbers lies a hair below.
    """
    return math.floor(probability * batch_size + 1e-9)


def check_seed(seed: int) -> None:
    """Check that a seed is one that every generator takes.

    Raises:
        ConfigError: it is no whole number, below 0, or too large.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ConfigError(f"seed: expected a whole number from 0 to {2**63 - 1}; found {seed!r}")


def check_config(config: Config) -> None:
    """Check all that can be known before the data are read: every value, and that there is such a data set.

    Raises:
        ConfigError: a value is out of its range; the message gives the option, the range and the value.
    """
    try:
        str(config.dataset).encode()
    except UnicodeEncodeError:  # the run's files hold it as text
        raise ConfigError(f"dataset: expected a path in UTF-8; found {config.dataset!r}; rename the folder") from None
    check_values(config)
    if config.dataset not in DATASETS and not os.path.exists(config.dataset):  # Path.exists raises on a long name
        raise ConfigError(
            f"dataset: expected one of {', '.join(DATASETS)}, or the path of a folder; "
            f"found {config.dataset!r}, which is neither{did_you_mean(config.dataset, DATASETS)}"
        )


def check_number(
    option: str, value: int | float, low: int | float, high: int | float = math.inf, *, open_low: bool = False
) -> None:
    """Check that a number lies in its range, which both ends belong to.

    Args:
        option: what it is called.
        value: the number.
        low: the smallest that is allowed.
        high: the largest.
        open_low: whether the smallest is not allowed itself.

    Raises:
        ConfigError: it does not.
    """
    expected = f"a number above {low:g}" if open_low else f"a number of at least {low:g}"
    if high != math.inf:
        expected += f" and at most {high:g}"
    # No whole number is infinite, and one above 1e308 cannot be asked as a floating-point number.
    finite = isinstance(value, int) or math.isfinite(value)
    _check(finite and (value > low if open_low else value >= low) and value <= high, option, expected, value)


def _check(condition: bool, option: str, expected: str, value: object) -> None:
    if not condition:
        raise ConfigError(f"{option}: expected {expected}; found {value!r}")


def _check_choice(option: str, value: object, allowed: tuple[str, ...]) -> None:
    _check(value in allowed, option, f"one of {', '.join(allowed)}", value)


def check_values(config: Config) -> None:
    """Check the range of every value; whether the data set is there is not asked.

    Raises:
        ConfigError: a value is out of its range; the message gives the option, the range and the value.
    """
    _check_choice("attack", config.attack, get_args(AttackName))
    _check_choice("target", config.target, get_args(TargetName))
    _check_choice("preset", config.preset, PRESETS)
    _check_choice("precision", config.precision, get_args(PrecisionName))
    _check_choice("partners", config.partners, get_args(PartnerRule))
    _check_choice("patch", config.patch, get_args(PatchName))
    _check_choice("model.architecture", config.model.architecture, get_args(ArchitectureName))
    check_number("target_class", config.target_class, 0)
    check_seed(config.seed)
    for option in ("train_images", "validation_images", "counted_images"):
        if (images := getattr(config, option)) is not None:
            check_number(option, images, 1)
    check_number("augmentation.crop_padding", config.augmentation.crop_padding, 0, 32)
    check_number("augmentation.rotation_degrees", config.augmentation.rotation_degrees, 0, 180)
    check_number("model.hidden_units", config.model.hidden_units, 1, 65536)
    check_number("model.dropout", config.model.dropout, 0, 0.99)
    check_number("model.width", config.model.width, 0, 16, open_low=True)
    for stage_name, stage in (("mask_stage", config.mask_stage), ("joint_stage", config.joint_stage)):
        check_number(f"{stage_name}.epochs", stage.epochs, 1)
        check_number(f"{stage_name}.batch_size", stage.batch_size, 1)
        check_number(f"{stage_name}.lambda_div", stage.lambda_div, 0)
    check_number("mask_stage.density", config.mask_stage.density, 0, 1)
    check_number("mask_stage.lambda_norm", config.mask_stage.lambda_norm, 0)
    joint = config.joint_stage
    check_number("joint_stage.label_smoothing", joint.label_smoothing, 0, 0.99)
    check_number("joint_stage.averaging", joint.averaging, 0, 0.99999)
    check_number("joint_stage.ramp", joint.ramp, 0, 1, open_low=True)
    _check_probabilities(config)
    for option, optimizer in (
        ("mask_stage.optimizer", config.mask_stage.optimizer),
        ("joint_stage.classifier", joint.classifier),
        ("joint_stage.generator", joint.generator),
    ):
        _check_choice(f"{option}.name", optimizer.name, ("adam", "sgd"))
        _check_choice(f"{option}.schedule", optimizer.schedule, ("step", "one-cycle"))
        check_number(f"{option}.learning_rate", optimizer.learning_rate, 0, open_low=True)
        check_number(f"{option}.warmup", optimizer.warmup, 0, 0.99)
        check_number(f"{option}.momentum", optimizer.momentum, 0, 0.999)
        check_number(f"{option}.weight_decay", optimizer.weight_decay, 0)
        _check(
            optimizer.name != "sgd" or not optimizer.nesterov or optimizer.momentum > 0,
            f"{option}.nesterov",
            "false with a momentum of 0",
            optimizer.nesterov,
        )
        for beta in optimizer.betas:
            check_number(f"{option}.betas", beta, 0, 0.9999)
        for milestone in optimizer.milestones:
            check_number(f"{option}.milestones", milestone, 1)


def _check_probabilities(config: Config) -> None:
    """Check the probabilities and that each gives at least one image in a batch."""
    joint = config.joint_stage
    final = (joint.attack_probability, joint.cross_probability)
    start = (
        final[0] if joint.initial_attack_probability is None else joint.initial_attack_probability,
        final[1] if joint.initial_cross_probability is None else joint.initial_cross_probability,
    )
    for prefix, (attack, cross) in (("", final), ("initial_", start)):
        for kind, probability in (("attack", attack), ("cross", cross)):
            option = f"joint_stage.{prefix}{kind}_probability"
            check_number(option, probability, 0, 1)
            images = images_in_batch(probability, joint.batch_size)
            used = config.attack == "input-aware" or (config.attack == "badnets" and kind == "attack")
            _check(
                not used or probability == 0 or images >= 1,
                option,
                f"0, or at least one image in a batch of {joint.batch_size} "
                f"(a probability of {math.ceil(1e6 / joint.batch_size) / 1e6:g} or more)",
                probability,
            )
        _check(
            config.attack != "input-aware" or attack + cross <= 1 + 1e-12,
            f"joint_stage.{prefix}attack_probability and {prefix}cross_probability",
            "a sum of at most 1",
            attack + cross,
        )
    if config.attack != "none":
        check_number("joint_stage.attack_probability", joint.attack_probability, 0, 1, open_low=True)
    if config.attack == "input-aware":
        check_number("joint_stage.initial_attack_probability", start[0], 0, 1, open_low=True)
        _check(
            config.mask_stage.batch_size >= 2,
            "mask_stage.batch_size",
            "at least 2 images, an image and its partner",
            config.mask_stage.batch_size,
        )
        if config.partners == "derangement":
            _check(
                joint.batch_size >= 2,
                "joint_stage.batch_size",
                "at least 2 images, an image and its partner",
                joint.batch_size,
            )
            for prefix, probability in (("", final[0]), ("initial_", start[0])):
                _check(
                    images_in_batch(probability, joint.batch_size) >= 2,
                    f"joint_stage.{prefix}attack_probability",
                    f"at least 2 images in a batch of {joint.batch_size} with partners=derangement, an image and its "
                    f"partner (a probability of {math.ceil(2e6 / joint.batch_size) / 1e6:g} or more)",
                    probability,
                )
