"""A configuration as plain data and back: changes, types, differences, and what a file holds."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal, Optional

import pytest
from config.nested import nested

from inputaware.config.datasets import DATASETS
from inputaware.config.fields import PRESETS, AugmentationConfig, PresetName
from inputaware.config.presets import preset_config
from inputaware.config.record import config_differences, config_from_dict, config_to_dict, override
from inputaware.errors import ConfigError

each_preset = pytest.mark.parametrize("preset", PRESETS)
each_dataset = pytest.mark.parametrize("dataset", DATASETS)
OPTIONS = (
    "dataset, attack, target, target_class, patch, preset, seed, device, precision, train_images, hold_out, "
    "validation_images, counted_images, partners, augmentation, model, mask_stage, joint_stage"
)


@each_dataset
@each_preset
def test_a_configuration_survives_json(preset: PresetName, dataset: str) -> None:
    config = preset_config(preset, dataset=dataset)
    text = json.dumps(config_to_dict(config), allow_nan=False)
    assert config_from_dict(json.loads(text)) == config


def test_a_configuration_of_before_there_was_a_choice_has_the_checkerboard() -> None:
    stored = config_to_dict(preset_config("fast", dataset="cifar10", attack="badnets"))
    del stored["patch"]
    assert config_from_dict(stored).patch == "checkerboard"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("attack", None, "attack: expected text; found None"),
        ("target", "all", "target: expected one of all-to-one, all-to-all; found 'all'"),
        (
            "target",
            "all2one",
            "target: expected one of all-to-one, all-to-all; found 'all2one'; did you mean all-to-one?",
        ),
        ("preset", "quick", "preset: expected one of fast, paper, official; found 'quick'"),
        ("precision", "16", "precision: expected one of auto, 32, bf16; found '16'; did you mean bf16?"),
        ("precision", True, "precision: expected one of auto, 32, bf16; found True"),
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
            "model.depth: unknown option; expected one of architecture, hidden_units, dropout, width; "
            "did you mean width?",
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


@pytest.mark.usefixtures("unchecked")
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


def test_a_number_serves_where_the_choice_is_one() -> None:
    config = preset_config("fast", dataset="mnist")
    assert override(config, {"precision": 32}) == override(config, {"precision": "32"})
    assert preset_config("fast", dataset="mnist", precision=32).precision == "32"
    with pytest.raises(ConfigError, match=r"precision: expected one of auto, 32, bf16; found 16"):
        override(config, {"precision": 16})


def test_override_leaves_the_original_alone() -> None:
    config = preset_config("fast", dataset="mnist")
    before = config_to_dict(config)
    override(config, {"joint_stage": {"classifier": {"milestones": [3]}}})
    assert config_to_dict(config) == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]


def test_differences_of_a_configuration_with_itself_are_none() -> None:
    config = preset_config("fast", dataset="mnist")
    assert config_differences(config, config) == {}


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
    level: Literal[1, 2] = 1
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
    assert override(Odd(older=5), {"older": "none"}) == Odd()
    assert override(Odd(), {"perhaps": "none"}) == Odd(perhaps="none")  # a text of its own


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"either": 1.5}, "either: expected a whole number or text; found 1.5"),
        ({"perhaps": True}, "perhaps: expected a whole number or text or none; found True"),
        ({"older": "x"}, "older: expected a whole number or none; found 'x'"),
        (
            {"computed": 8},
            "computed: unknown option; expected one of either, perhaps, table, several, names, level, anything, older",
        ),
        ({"table": 3}, "table: expected values by name; found 3"),
        ({"table": {"a": "b"}}, "table: expected a number; found 'b'"),
        ({"several": 3}, "several: expected a list; found 3"),
        ({"names": "a"}, "names: expected a list of values; found 'a'"),
        ({"level": 3}, "level: expected one of 1, 2; found 3"),
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
