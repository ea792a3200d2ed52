"""What a configuration must be before any data are read."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
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
from inputaware.errors import ConfigError, DataError, did_you_mean

__all__ = [
    "OWN_ATTACKS",
    "check_config",
    "check_images",
    "check_number",
    "check_processes",
    "check_seed",
    "check_values",
    "derived_from",
    "images_in_batch",
]


OWN_ATTACKS: dict[str, str] = {}
"""The attacks of one's own whose code this process knows: by name that of ours that it is derived from, or nothing."""


def check_processes(config: Config, processes: int) -> None:
    """Refuse more processes than a part of a batch has images whose triggers are made.

    Args:
        config: of the run that they are to train together.
        processes: how many there are.

    Raises:
        ConfigError: a part of a batch has fewer images.
    """
    if processes == 1:
        return
    joint = config.joint_stage
    images = {"joint_stage.batch_size": joint.batch_size}
    if derived_from(config.attack) == "input-aware":
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
    if config.attack not in (*get_args(AttackName), *OWN_ATTACKS):
        raise _unknown_attack(config.attack)
    if config.dataset not in DATASETS and not os.path.exists(config.dataset):  # Path.exists raises on a long name
        raise ConfigError(
            f"dataset: expected one of {', '.join(DATASETS)}, or the path of a folder; "
            f"found {config.dataset!r}, which is neither{did_you_mean(config.dataset, DATASETS)}"
        )


def derived_from(attack: str) -> str:
    """Return which of our attacks one is derived from, as far as that is known: itself, or none in an empty word."""
    return attack if attack in get_args(AttackName) else OWN_ATTACKS.get(attack, "")


def _unknown_attack(name: str) -> ConfigError:
    known = (*get_args(AttackName), *sorted(OWN_ATTACKS))
    guess = did_you_mean(name, known)
    return ConfigError(
        f"attack: expected one of {', '.join(known)}, or the name of one of your own; found {name!r}{guess}"
        f"{' Or say' if guess else '; say'} where its code is: INPUTAWARE_ATTACKS=/path/to/FILE.py:CLASS"
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
    if value not in allowed:
        raise ConfigError(
            f"{option}: expected one of {', '.join(allowed)}; found {value!r}{did_you_mean(value, allowed)}"
        )


def check_values(config: Config) -> None:
    """Check the range of every value; whether the data set is there is not asked.

    Raises:
        ConfigError: a value is out of its range; the message gives the option, the range and the value.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", str(config.attack)):
        raise _unknown_attack(config.attack)
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
    """Check the probabilities."""
    final, start = _shares(config)
    for prefix, (attack, cross) in (("", final), ("initial_", start)):
        for kind, probability in (("attack", attack), ("cross", cross)):
            check_number(f"joint_stage.{prefix}{kind}_probability", probability, 0, 1)
        _check(
            derived_from(config.attack) != "input-aware" or attack + cross <= 1 + 1e-12,
            f"joint_stage.{prefix}attack_probability and {prefix}cross_probability",
            "a sum of at most 1",
            attack + cross,
        )
    if config.attack != "none":
        check_number("joint_stage.attack_probability", final[0], 0, 1, open_low=True)
    if derived_from(config.attack) == "input-aware":
        check_number("joint_stage.initial_attack_probability", start[0], 0, 1, open_low=True)
    for option, expected, found, batch_size in _parts_without_room(config):
        # One or two images of one's own leave no room, whatever is asked for: check_images says so, when they are read.
        few = config.counted_images is not None and config.counted_images <= batch_size <= 2
        _check(few, option, expected, found)


def check_images(config: Config, images: int) -> None:
    """Check that the images suffice for batches with triggers.

    Args:
        config: of a run, whose values were checked.
        images: how many it is trained on.

    Raises:
        DataError: they do not.
    """
    for _, _, _, batch_size in _parts_without_room(config):
        raise DataError(
            f"{config.dataset}: expected enough training images for batches with triggers; found {images}, in batches "
            f"of {batch_size}; add images"
        )


def _parts_without_room(config: Config) -> Iterator[tuple[str, str, float, int]]:
    """Yield the options that ask for less than an image of a batch, or an image and its partner where they must be two.

    Of each what is expected, its value, and the size of the batch.
    """
    joint = config.joint_stage
    final, start = _shares(config)
    attack = derived_from(config.attack)
    for prefix, shares in (("", final), ("initial_", start)):
        for kind, probability in zip(("attack", "cross"), shares, strict=True):
            used = attack == "input-aware" or (attack == "badnets" and kind == "attack")
            if used and probability > 0 and images_in_batch(probability, joint.batch_size) < 1:
                expected = (
                    f"0, or at least one image in a batch of {joint.batch_size} "
                    f"(a probability of {math.ceil(1e6 / joint.batch_size) / 1e6:g} or more)"
                )
                yield f"joint_stage.{prefix}{kind}_probability", expected, probability, joint.batch_size
    if attack != "input-aware":
        return
    stages = {"mask_stage": config.mask_stage.batch_size}
    if config.partners == "derangement":
        stages["joint_stage"] = joint.batch_size
    for stage, batch_size in stages.items():
        if batch_size < 2:
            yield f"{stage}.batch_size", "at least 2 images, an image and its partner", batch_size, batch_size
    for prefix, (probability, _) in (("", final), ("initial_", start)):
        if config.partners == "derangement" and images_in_batch(probability, joint.batch_size) < 2:
            expected = (
                f"at least 2 images in a batch of {joint.batch_size} with partners=derangement, an image and its "
                f"partner (a probability of {math.ceil(2e6 / joint.batch_size) / 1e6:g} or more)"
            )
            yield f"joint_stage.{prefix}attack_probability", expected, probability, joint.batch_size


def _shares(config: Config) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the probabilities of attack and cross at the end and at the start."""
    joint = config.joint_stage
    final = (joint.attack_probability, joint.cross_probability)
    initial = (joint.initial_attack_probability, joint.initial_cross_probability)
    attack, cross = (last if first is None else first for first, last in zip(initial, final, strict=True))
    return final, (attack, cross)
