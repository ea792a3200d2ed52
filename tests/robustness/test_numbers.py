"""Numbers at the edge: training either ends with finite numbers, or says what is wrong before or while it trains."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.material import write_parquet
from robustness.corruption import or_refused
from robustness.storage import small_config

from inputaware.api import Run, train
from inputaware.attacks.registry import build_attack
from inputaware.config.fields import AttackName, Config
from inputaware.config.presets import preset_config
from inputaware.config.record import override
from inputaware.defenses.settings import DefenseSettings, ImageRegularizationSettings, StripSettings
from inputaware.errors import ConfigError, DataError, TrainingError
from inputaware.runs.folder import RunFolder
from inputaware.runs.results import read_evaluation

Own = Callable[..., Path]


@pytest.fixture
def own(tmp_path: Path) -> Own:
    """Return what writes a data set of so many images of each of so many classes."""

    def write(
        classes: int, each: int, *, tested: int | None = None, constant: int | None = None, colour: bool = False
    ) -> Path:
        folder = tmp_path / "own"
        shape = (12, 12, 3) if colour else (12, 12)
        draw = np.random.default_rng(0)
        for split, count in (("train", each), ("test", each if tested is None else tested)):
            images = [
                draw.integers(0, 256, shape, np.uint8) if constant is None else np.full(shape, constant, np.uint8)
                for _ in range(classes * count)
            ]
            write_parquet(folder / f"{split}.parquet", images, np.arange(len(images)) % classes)
        return folder

    return write


def config_of(folder: Path, **options: Any) -> Config:
    """Return a configuration for a data set of a few images."""
    return override(small_config(), {"dataset": str(folder), "train_images": None, **options})


def finite(value: Any) -> bool:
    """Return whether all numbers in a record are finite."""
    if isinstance(value, dict):
        return all(finite(item) for item in value.values())
    if isinstance(value, list):
        return all(finite(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


BATCHES = {"mask_stage": {"epochs": 1, "batch_size": 6}, "joint_stage": {"epochs": 1, "batch_size": 20}}


@pytest.mark.parametrize(
    ("attack", "constant"), [("input-aware", 0), ("input-aware", 128), ("badnets", 255), ("none", 0)]
)
def test_a_set_of_constant_images_trains(attack: Any, constant: int, own: Own, tmp_path: Path) -> None:
    config = config_of(own(2, 20, constant=constant), attack=attack, augmentation={"crop_padding": 0}, **BATCHES)
    run = train(config, tmp_path / "run")
    assert finite(read_evaluation(run.folder.evaluation))
    assert finite(run.inspect())


def test_two_classes_of_colour_images_train(own: Own, tmp_path: Path) -> None:
    config = config_of(own(2, 15, colour=True), model={"width": 0.05}, **BATCHES)
    assert finite(read_evaluation(train(config, tmp_path / "run").folder.evaluation))


def test_a_thousand_classes_train(own: Own, tmp_path: Path) -> None:
    batches = {"mask_stage": {"epochs": 1, "batch_size": 200}, "joint_stage": {"epochs": 1, "batch_size": 200}}
    run = train(config_of(own(1000, 3, tested=1), target="all-to-all", **batches), tmp_path / "run")
    result = read_evaluation(run.folder.evaluation)
    assert finite(result)
    assert len(result["per_class"]["clean_accuracy"]) == 1000
    assert run.backdoor is not None
    assert run.backdoor.targets(torch.tensor([0, 999])).tolist() == [1, 0]


@pytest.mark.parametrize("each", [1, 2])
def test_too_few_images_of_a_class_are_explained(each: int, own: Own, tmp_path: Path) -> None:
    folder = own(3, each)
    with pytest.raises(DataError) as caught:
        train(config_of(folder), tmp_path / "run")
    assert str(caught.value) == (
        f"{folder}: expected at least 3 training images of every class, one for each of train, validation and "
        f"defender; found {each} of class 0; add images or remove the class"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("attack", ["input-aware", "badnets", "none"])
@pytest.mark.parametrize("each", [1, 3])
def test_too_few_images_for_batches_of_the_default_size_are_explained(
    attack: AttackName, each: int, own: Own, tmp_path: Path
) -> None:
    folder = own(2, each)
    stages = {"mask_stage": {"epochs": 1}, "joint_stage": {"epochs": 1}}
    config = preset_config("fast", dataset=str(folder), attack=attack, device="cpu", **stages)
    if each == 3 and attack == "none":  # two images to train on, none of which carries a trigger
        assert finite(train(config, tmp_path / "run").evaluate())
        return
    with pytest.raises(DataError) as caught:
        train(config, tmp_path / "run")
    assert str(caught.value) == (
        f"{folder}: expected at least 3 training images of every class, one for each of train, validation and "
        "defender; found 1 of class 0; add images or remove the class"
        if each == 1
        else f"{folder}: expected enough training images for batches with triggers; found 2, in batches of 2; "
        "add images"
    )
    assert not (tmp_path / "run").exists()


def test_three_images_of_a_class_are_enough(own: Own, tmp_path: Path) -> None:
    batches = {"mask_stage": {"epochs": 1, "batch_size": 2}, "joint_stage": {"epochs": 1, "batch_size": 2}}
    batches["joint_stage"]["attack_probability"] = 1
    options = {"cross_probability": 0, "initial_attack_probability": None, "initial_cross_probability": None}
    batches["joint_stage"] |= options
    assert finite(train(config_of(own(2, 3), **batches), tmp_path / "run").evaluate())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mask_stage": {"batch_size": 1}},
            "mask_stage.batch_size: expected at least 2 images, an image and its partner; found 1",
        ),
        (
            {"joint_stage": {"batch_size": 1}},
            "joint_stage.attack_probability: expected 0, or at least one image in a batch of 1 "
            "(a probability of 1 or more); found 0.1",
        ),
        (
            {"attack": "badnets", "joint_stage": {"batch_size": 1}},
            "joint_stage.attack_probability: expected 0, or at least one image in a batch of 1 "
            "(a probability of 1 or more); found 0.1",
        ),
        ({"attack": "none", "joint_stage": {"batch_size": 1}}, None),
        (
            {
                "partners": "second-order",
                "joint_stage": {
                    "batch_size": 1,
                    "attack_probability": 1,
                    "cross_probability": 0,
                    "initial_attack_probability": None,
                    "initial_cross_probability": None,
                },
            },
            None,
        ),
    ],
)
def test_a_batch_of_one_trains_or_is_explained(options: dict[str, Any], message: str | None, tmp_path: Path) -> None:
    config = override(
        small_config(train_images=20),
        {**BATCHES, **options, "joint_stage": {"epochs": 1, **options.get("joint_stage", {})}},
    )
    if message is None:
        assert finite(read_evaluation(train(config, tmp_path / "run").folder.evaluation))
        return
    with pytest.raises(ConfigError) as caught:
        train(config, tmp_path / "run")
    assert str(caught.value) == message


def test_a_set_in_which_every_image_meets_itself_is_explained(own: Own, tmp_path: Path) -> None:
    config = config_of(own(2, 3), attack="input-aware", partners="distinct-order", train_images=1)
    batches = {"epochs": 1, "batch_size": 2}
    shares = {"attack_probability": 1, "cross_probability": 0}
    shares |= {"initial_attack_probability": None, "initial_cross_probability": None}
    with pytest.raises(
        ConfigError, match=r"joint_stage.batch_size: expected at most 1, the images of the training split"
    ):
        train(override(config, {"mask_stage": batches, "joint_stage": batches | shares}), tmp_path / "run")
    config = override(config, {"train_images": 2, "mask_stage": batches, "seed": 0})
    joint = {"epochs": 1, "batch_size": 1, **shares}
    trained = 0
    explained = "expected at least one batch; found none: every image met itself as its partner"
    for seed in range(8):
        with or_refused(TrainingError, f"{explained}; train on more images or with --partners derangement"):
            train(override(config, {"joint_stage": joint, "seed": seed}), tmp_path / f"run-{seed}")
            trained += 1
    assert 0 < trained < 8


def test_masks_of_nothing_are_evaluated_inspected_and_defended(tmp_path: Path) -> None:
    config = small_config()
    run = train(config, tmp_path / "run")
    attack = build_attack(config, run.spec)
    attack.classifier.load_state_dict(run.classifier.state_dict())
    with torch.no_grad():
        attack.modules["mask_generator"].decoder[-1][-1].norm.bias.fill_(-100.0)
    RunFolder(tmp_path / "run").save_modules(attack, config, run.spec)
    run = Run.load(tmp_path / "run", device="cpu")
    result = run.evaluate()
    assert result["trigger"]["mask_area"] == 0
    assert finite(result)
    assert finite(run.inspect())
    settings = DefenseSettings(
        strip=StripSettings(overlays=20), image_regularization=ImageRegularizationSettings(kernels=(3,), bits=(1,))
    )
    assert finite(run.defend(["strip", "image-regularization"], settings))


def test_a_loss_that_only_wants_small_masks_trains(tmp_path: Path) -> None:
    config = small_config(
        mask_stage={"epochs": 3, "batch_size": 50, "density": 0.0, "lambda_norm": 1e6, "lambda_div": 0.0}
    )
    assert finite(read_evaluation(train(config, tmp_path / "run").folder.evaluation))


OVERFLOWS: dict[str, dict[str, Any]] = {
    "masks, steps": {"mask_stage": {"optimizer": {"learning_rate": 1e38}}},
    "masks, decay": {"mask_stage": {"optimizer": {"weight_decay": 1e38}}},
    "masks, weights of the loss": {"mask_stage": {"lambda_norm": 1e38, "lambda_div": 1e38}},
    "classifier, steps": {"joint_stage": {"classifier": {"name": "sgd", "learning_rate": 1e38, "schedule": "step"}}},
    "classifier, decay": {"joint_stage": {"classifier": {"name": "sgd", "weight_decay": 1e38}}},
    "patterns, steps": {"joint_stage": {"generator": {"learning_rate": 1e38}}},
    "patterns, weights of the loss": {"joint_stage": {"lambda_div": 1e38}},
    "half precision": {"precision": "bf16", "joint_stage": {"classifier": {"learning_rate": 1e38}}},
}


@pytest.mark.parametrize("case", OVERFLOWS)
def test_a_gradient_that_overflows_ends_in_finite_numbers_or_an_explanation(case: str, tmp_path: Path) -> None:
    remedy = "train into another folder with a lower learning rate or --precision 32"
    weights = f"expected finite weights at its end; found others; {remedy}"
    with or_refused(TrainingError, weights, f"no checkpoint was written yet; {remedy}", f"state.safetensors; {remedy}"):
        assert finite(train(override(small_config(), OVERFLOWS[case]), tmp_path / "run").evaluate())
    assert (tmp_path / "run/classifier.safetensors").exists() == (tmp_path / "run/evaluation.json").exists()
