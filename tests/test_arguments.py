"""A command line becomes a command: what decides its defaults, and what other options there are."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from inputaware.arguments import parse, parse_defend, parse_train
from inputaware.commands import EvaluateCommand, PoisonCommand, SweepCommand
from inputaware.config.presets import preset_config
from inputaware.config.record import config_to_dict, override
from inputaware.defenses import own
from inputaware.defenses.own import import_defense
from inputaware.defenses.settings import PAPER_DEFENSES, DefenseSettings
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


@pytest.mark.parametrize("words", [["--seed"], ["--seed", "--attack", "none"], ["--attack", "none", "--seed"]])
def test_an_option_with_several_values_has_one(words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        parse("sweep", SweepCommand, ["--output", "o", *words])
    assert str(error.value) == (
        "seed: expected a value or more behind --seed; found none, perhaps of a shell variable that is not set; name "
        "some, or leave it out"
    )
    for given in (["--seed=1"], ["--seed", "-1"]):
        assert parse("sweep", SweepCommand, ["--output", "o", *given]).seed == (int(given[-1].removeprefix("--seed=")),)


@pytest.mark.parametrize(
    ("words", "place"),
    [(["runs/a", "--input", ""], "input"), (["--output="], "output"), ([""], "arguments"), (["a", ""], "arguments")],
)
def test_an_empty_word_is_no_path(words: list[str], place: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse("poison", PoisonCommand, words)
    assert str(error.value) == (
        f"{place}: expected a path; found an empty one, perhaps of a shell variable that is not set"
    )


def test_data_set_and_preset_decide_the_defaults() -> None:
    arguments = ["--dataset", "cifar10", "--preset", "official", "--output", "o", "--joint-stage.epochs", "3"]
    command, config = parse_train(arguments)
    assert config == command.settings
    usual = preset_config("official", dataset="cifar10")
    assert config == override(usual, {"joint_stage": {"epochs": 3}})
    assert usual.joint_stage.epochs != 3
    assert parse_train(["--resume", "--output", "nowhere"])[1] is None


def test_a_run_folder_may_stand_for_its_file_of_settings(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"dataset": "digits", "seed": 3}', encoding="utf-8")
    assert parse_train(["--config", str(tmp_path), "--output=o"])[1] == preset_config("fast", dataset="digits", seed=3)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError) as error:
        parse_train(["--config", str(tmp_path), "--output=o"])
    assert str(error.value) == (
        f"config: expected a JSON file at '{tmp_path}'; found: Is a directory; name a file, or a run folder"
    )


@pytest.mark.parametrize(
    ("words", "option", "shown"),
    [
        (["--joint-stage.epochs", "25"], "--joint-stage.epochs", "joint_stage.epochs=25"),
        (["--joint_stage.epochs=25", "--cpus", "2"], "--joint-stage.epochs", "joint_stage.epochs=25"),
        (["--strip.overlays", "5", "6"], "--strip.overlays", "strip.overlays=VALUE"),
        (["--hold-out"], "--hold-out", "hold_out=VALUE"),
    ],
)
def test_a_sweep_is_told_how_fields_of_a_run_are_set(words: list[str], option: str, shown: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse("sweep", SweepCommand, ["--output", "o", *words])
    assert str(error.value) == (
        f"sweep: expected fields of the configuration, and settings of defenses, behind --set; found {option}; "
        f"write --set {shown}"
    )


@pytest.mark.parametrize("word", ["--ouput", "--otput=x"])
def test_a_misspelt_option_that_must_be_there_is_guessed(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = f"arguments: expected --output; found {word.partition('=')[0]}; did you mean --output?"
    with pytest.raises(ConfigError) as error:
        parse("poison", PoisonCommand, ["runs/a", word, "x"])
    assert str(error.value) == message
    with pytest.raises(ConfigError) as error:
        parse_train(["--dataset", "digits", "--no-hold-out", word, "x"])
    assert str(error.value) == message
    for others in (["--output", "o", word], [word, "--help"]):
        with pytest.raises(SystemExit):
            parse("poison", PoisonCommand, ["runs/a", *others])
    assert "Perhaps you meant" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--image-regularization.kernels", "3", "5", "runs/a", "strip"], "--image-regularization.kernels"),
        (["--feature-squeezing.side", "5", "runs/a", EXAMPLE, "--seed", "1"], "--feature-squeezing.side"),
    ],
)
def test_a_run_behind_an_option_that_takes_all_words_is_missed_with_the_reason(
    arguments: list[str], option: str
) -> None:
    with pytest.raises(ConfigError) as error:
        parse_defend(arguments)
    assert str(error.value) == (
        f"run: expected the run folder and the defenses before the options; found them behind {option}, which takes "
        f"all words for its values; write inputaware defend RUN NAME ... {option} VALUE ..."
    )
    for other in ([], ["--device", "cuda:0", "--seed", "3"], ["--unknown", "3", "runs/a"]):
        with pytest.raises(SystemExit):
            parse_defend(other)


@pytest.mark.parametrize("option", ["dataset", "preset", "target"])
def test_an_option_overrides_the_file_and_the_file_the_preset(option: str, tmp_path: Path) -> None:
    settings = {"dataset": "digits", "preset": "fast", "target": "all-to-one"}
    asked = {**settings, option: {"dataset": "mnist", "preset": "paper", "target": "all-to-all"}[option]}
    file = tmp_path / "file.json"
    whole = preset_config(**settings)
    for given, expected in (
        (config_to_dict(whole), replace(whole, **asked)),
        ({**settings, "seed": 3}, preset_config(**asked, seed=3)),
    ):
        file.write_text(json.dumps(given), encoding="utf-8")
        _, config = parse_train([f"--config={file}", f"--{option}={asked[option]}", "--output=o"])
        assert config == expected


def test_how_many_images_another_data_set_has_is_not_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text(json.dumps(config_to_dict(preset_config("fast", dataset="elsewhere", counted_images=80))))
    _, config = parse_train([f"--config={file}", "--dataset=digits", "--output=o"])
    assert config is not None
    assert config.counted_images is None
    _, config = parse_train([f"--config={file}", "--output=o"])
    assert config is not None
    assert config.counted_images == 80


@pytest.mark.parametrize("option", ["--preset", "--output", "--config", "--resume=yes"])
def test_an_option_without_its_value_is_told_of_the_whole_command(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_train(["--dataset", "digits", option])
    assert caught.value.code == 2
    assert "inputaware train --help" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ConfigError, match="expected --dataset digits, mnist, cifar10, gtsrb or the path of a folder"):
        parse_train(["--output", "o", "--dataset"])


def test_without_a_defense_of_ones_own_there_are_the_built_in_ones() -> None:
    command, found = parse_defend(["runs/a", "--device", "cuda:1", "--strip.overlays", "7"])
    assert found == {}
    assert (command.names, command.device, type(command.settings)) == (PAPER_DEFENSES, "cuda:1", DefenseSettings)
    assert command.settings.strip.overlays == 7


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs/a", "strip", EXAMPLE, "--feature-squeezing.side", "5"],
        ["--feature-squeezing.side=5", "--device", "cuda:0", "runs/a", "strip", EXAMPLE],
        ["--overwrite", "--fine-pruning.no-horizontal-flip", "runs/a", "strip", EXAMPLE, "--feature-squeezing.side=5"],
        ["--feature-squeezing.side", "5", "--", "runs/a", "strip", EXAMPLE],
        ["runs/a", "--seed", "3", "strip", EXAMPLE, "--feature-squeezing.side=5"],
    ],
    ids=["behind", "before", "behind flags", "behind dashes", "behind a seed"],
)
def test_settings_of_ones_own_defense_are_options_wherever_it_stands(arguments: list[str]) -> None:
    command, found = parse_defend(arguments)
    assert command.names == ("strip", EXAMPLE)
    assert list(found) == [EXAMPLE]
    assert command.settings.feature_squeezing.side == 5  # type: ignore[attr-defined]
    assert command.settings.strip == DefenseSettings().strip


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs:none", "strip"],
        ["runs/a", "strip", "--device", "this:x"],
        ["runs/a", "strip", "--neural-cleanse.precision=this:x"],
        ["runs/a", "strip", "--neural-cleanse.precision", "this:x"],
        ["runs/a", EXAMPLE, "--feature-squeezing.side", "3", "this:x"],
    ],
    ids=["folder", "device", "value", "value behind", "value of one's own"],
)
def test_only_what_names_a_defense_is_imported(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(own, "import_defense", lambda name: asked.append(name) or import_defense(name))
    with suppress(SystemExit):
        parse_defend(arguments)
    assert asked == [name for name in arguments if name == EXAMPLE]


def test_lists_of_ones_own_stand_once(tmp_path: Path) -> None:
    file = tmp_path / "listing.py"
    source = Path(EXAMPLE.rpartition(":")[0]).read_text(encoding="utf-8")
    file.write_text(
        source.replace("side: int = 3", "sides: list[int] = field(default_factory=list)\n    side: int = 3").replace(
            "import dataclass", "import dataclass, field"
        ),
        encoding="utf-8",
    )
    arguments = ["runs/a", f"{file}:FeatureSqueezing", "--feature-squeezing.sides", "3"]
    command, _ = parse_defend(arguments)
    assert command.settings.feature_squeezing.sides == [3]  # type: ignore[attr-defined]
    with pytest.raises(ConfigError) as error:
        parse_defend([*arguments, "--feature-squeezing.sides", "5"])
    assert str(error.value) == (
        "feature_squeezing.sides: expected one --feature-squeezing.sides with all its values behind it; found 2; write "
        "--feature-squeezing.sides VALUE VALUE ..."
    )


def test_help_may_stand_before_the_class(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_defend(["runs/a", "--help", EXAMPLE])
    assert "--feature-squeezing.side INT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--split", "Test", "runs/a"],
            "split: expected one of test, validation, defender; found 'Test'; did you mean test?",
        ),
        (
            ["runs/a", "--split=Validation"],
            "split: expected one of test, validation, defender; found 'Validation'; did you mean validation?",
        ),
    ],
)
def test_a_misspelt_choice_is_guessed(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse("evaluate", EvaluateCommand, words)
    assert str(error.value) == message


def test_a_misspelt_choice_of_a_configuration_is_guessed() -> None:
    given = ["--dataset", "digits", "--output", "o"]
    for words, name, found in (
        (["--target=all2one"], "target: expected one of all-to-one, all-to-all", "'all2one'; did you mean all-to-one?"),
        (["--patch=White"], "patch: expected one of checkerboard, white", "'White'; did you mean white?"),
        (
            ["--joint-stage.generator.name", "adma"],
            "joint_stage.generator.name: expected one of adam, sgd",
            "'adma'; did you mean adam?",
        ),
    ):
        with pytest.raises(ConfigError) as error:
            parse_train([*given, *words])
        assert str(error.value) == f"{name}; found {found}"


@pytest.mark.parametrize("words", [["--split"], ["--split", "train"], ["--split", "--json"]])
def test_a_choice_that_is_like_no_other_is_the_parsers_affair(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse("evaluate", EvaluateCommand, ["runs/a", *words])
    assert "--split" in capsys.readouterr().err
    assert parse("poison", PoisonCommand, ["runs/a", "--split", "None", "--output", "o"]).split is None
