"""A command line becomes a command: what decides its defaults, and what other options there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from inputaware.arguments import parse, parse_defend, parse_train
from inputaware.commands import EvaluateCommand, SweepCommand
from inputaware.config import override, preset_config
from inputaware.defenses.settings import DEFENSES, DefenseSettings
from inputaware.errors import ConfigError

EXAMPLE = f"{Path(__file__).parents[1] / 'examples/own_defense.py'}:FeatureSqueezing"


def test_a_command_is_its_class() -> None:
    assert parse("evaluate", EvaluateCommand, ["runs/a", "--split", "validation"]) == EvaluateCommand(
        run=Path("runs/a"), split="validation"
    )
    default = EvaluateCommand(run=Path("runs/b"), json=True)
    assert parse("evaluate", EvaluateCommand, [], default) == default
    with pytest.raises(ConfigError) as error:
        parse("sweep", SweepCommand, ["--output", "o", "--seed", "1", "--seed", "2"])
    assert str(error.value) == (
        "seed: expected one --seed with all its values behind it; found 2; write --seed VALUE VALUE ..."
    )


def test_data_set_and_preset_decide_the_defaults() -> None:
    arguments = ["--dataset", "cifar10", "--preset", "official", "--output", "o", "--joint-stage.epochs", "3"]
    command, config = parse_train(arguments)
    assert config == command.settings
    usual = preset_config("official", dataset="cifar10")
    assert config == override(usual, {"joint_stage": {"epochs": 3}})
    assert usual.joint_stage.epochs != 3
    assert parse_train(["--resume", "--output", "nowhere"])[1] is None


def test_without_a_defense_of_ones_own_there_are_the_built_in_ones() -> None:
    command, own = parse_defend(["runs/a", "--device", "cuda:1", "--strip.overlays", "7"])
    assert own == {}
    assert (command.names, command.device, type(command.settings)) == (DEFENSES, "cuda:1", DefenseSettings)
    assert command.settings.strip.overlays == 7


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs/a", "strip", EXAMPLE, "--feature-squeezing.side", "5"],
        ["--feature-squeezing.side=5", "--device", "cuda:0", "runs/a", "strip", EXAMPLE],
        ["--feature-squeezing.side", "5", "--fine-pruning.horizontal-flip", "runs/a", "strip", EXAMPLE],
        ["--device", "module:name", "--feature-squeezing.side=5", "--", "runs/a", "strip", EXAMPLE],
    ],
    ids=["behind", "before", "behind a flag", "beside a device"],
)
def test_settings_of_ones_own_defense_are_options_wherever_it_stands(arguments: list[str]) -> None:
    command, own = parse_defend(arguments)
    assert command.names == ("strip", EXAMPLE)
    assert list(own) == [EXAMPLE]
    assert command.settings.feature_squeezing.side == 5  # type: ignore[attr-defined]
    assert command.settings.strip == DefenseSettings().strip
