"""A sweep's grid: every combination once, names that follow from the configuration, and mistakes found at once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from inputaware.config.presets import preset_config
from inputaware.defenses.settings import DEFENSES, ImageRegularizationSettings, StripSettings
from inputaware.errors import ConfigError
from inputaware.sweeps.grid import Asked, parse_option, parse_options, plan_sweep, read_sweep

DIGITS = {"dataset": "digits"}


def test_a_grid_is_every_combination_in_order() -> None:
    sweep = plan_sweep(
        {"base": {**DIGITS, "seed": [0, 1]}, "runs": [{"target": ["all-to-one", "all-to-all"]}, {"attack": "none"}]}, {}
    )
    assert [(cell.config.attack, cell.config.target, cell.config.seed) for cell in sweep.cells] == [
        ("input-aware", "all-to-one", 0),
        ("input-aware", "all-to-all", 0),
        ("input-aware", "all-to-one", 1),
        ("input-aware", "all-to-all", 1),
        ("none", "all-to-one", 0),
        ("none", "all-to-one", 1),
    ]
    assert sweep.cells[1].config == preset_config("fast", dataset="digits", target="all-to-all")
    assert sweep.defenses == ()


def test_fields_are_nested_or_dotted_and_lists_in_lists_are_values() -> None:
    nested = {"joint_stage": {"generator": {"betas": [[0.5, 0.9], [0.9, 0.99]]}}}
    dotted = {"joint-stage.generator.betas": [[0.5, 0.9], [0.9, 0.99]]}
    first, second = (plan_sweep({"base": {**DIGITS, **part}}, {}).cells for part in (nested, dotted))
    assert first == second
    assert [cell.config.joint_stage.generator.betas for cell in first] == [(0.5, 0.9), (0.9, 0.99)]


def test_options_replace_the_files_values() -> None:
    sweep = plan_sweep({"base": {**DIGITS, "seed": [0, 1, 2]}, "runs": [{"attack": "badnets"}]}, {"seed": [7]})
    assert [(cell.config.seed, cell.config.attack) for cell in sweep.cells] == [(7, "badnets")]


def test_a_configuration_that_is_asked_for_twice_is_run_once() -> None:
    assert len(plan_sweep({"base": DIGITS, "runs": [{"seed": [0, 1]}, {"seed": [1, 2]}]}, {}).cells) == 3


def test_a_control_is_not_run_again_for_what_it_does_not_read() -> None:
    grid = {"attack": ["input-aware", "none"], "target": ["all-to-one", "all-to-all"], "seed": [0, 1]}
    cells = plan_sweep({"base": DIGITS, "runs": [grid, {"attack": "none", "joint_stage": {"ramp": 0.3}}]}, {}).cells
    assert [(cell.config.attack, cell.config.target, cell.config.seed) for cell in cells] == [
        ("input-aware", "all-to-one", 0),
        ("input-aware", "all-to-one", 1),
        ("input-aware", "all-to-all", 0),
        ("input-aware", "all-to-all", 1),
        ("none", "all-to-one", 0),
        ("none", "all-to-one", 1),
    ]
    # What it reads makes another run of it.
    rates = {"joint_stage.classifier.learning_rate": [0.001, 0.002]}
    assert len(plan_sweep({"base": {**DIGITS, "attack": "none"}, "runs": [rates]}, {}).cells) == 2


def test_names_follow_from_the_configuration_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = plan_sweep({"base": DIGITS}, {}).cells
    assert cell.name.startswith("digits-input-aware-all-to-one-fast-seed0-")
    assert plan_sweep({}, {"dataset": ["digits"], "seed": [0, 1]}).cells[0] == cell
    (other,) = plan_sweep({"base": {**DIGITS, "joint_stage": {"lambda_div": 0}}}, {}).cells
    assert other.name.rpartition("-")[0] == cell.name.rpartition("-")[0]
    assert other.name != cell.name
    # Of a path only what is safe in a name; wherever the command is given, the same folder is the same data.
    (tmp_path / "my images").mkdir()
    monkeypatch.chdir(tmp_path)
    (mine,) = plan_sweep({"base": {"dataset": "my images", "attack": "none"}}, {}).cells
    assert mine.config.dataset == str(tmp_path / "my images")
    assert mine.name.startswith("my-images-none-fast-seed0-")


def test_defenses_and_their_settings() -> None:
    everything = plan_sweep({"base": DIGITS, "defenses": "all"}, {}).defenses
    assert tuple(asked.name for asked in everything) == DEFENSES
    assert plan_sweep({"base": DIGITS, "defenses": ["all", "strip"]}, {}).defenses == everything
    assert plan_sweep({"base": DIGITS, "defenses": "strip"}, {}).defenses == (Asked("strip", "strip", StripSettings()),)
    sweep = plan_sweep({"base": DIGITS, "defenses": ["strip"], "defense_settings": {"strip": {"overlays": 5}}}, {})
    assert sweep.defenses == (Asked("strip", "strip", StripSettings(overlays=5)),)


def test_options_of_defenses_replace_the_files_settings() -> None:
    asked = {"base": DIGITS, "defenses": ["strip"], "defense_settings": {"strip": {"overlays": 5, "images": 3}}}
    sweep = plan_sweep(asked, parse_options(["seed=1,2", "strip.overlays=7"], {}))
    assert sweep.defenses == (Asked("strip", "strip", StripSettings(overlays=7, images=3)),)
    assert [cell.config.seed for cell in sweep.cells] == [1, 2]
    several = {"base": DIGITS, "defenses": ["image-regularization"]}
    with pytest.raises(ConfigError) as error:
        plan_sweep(several, parse_options(["image-regularization.kernels=3,7"], {}))
    assert str(error.value).endswith("found 2; write a list as image_regularization.kernels=[VALUE,VALUE]")
    (one,) = plan_sweep(several, parse_options(["image-regularization.kernels=[3,7]"], {})).defenses
    assert one.settings == ImageRegularizationSettings(kernels=(3, 7))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("strip.overlays=0", "set: strip.overlays: expected a number of at least 1; found 0"),
        ("strip.overlay=3", "set: strip.overlay: unknown option; expected one of images, "),
        (
            "strip.overlays=3,5",
            "set: expected one value of strip.overlays, since each run meets a defense once; found 2",
        ),
        (
            "neural-cleanse.trials=2",
            "set: expected settings of a defense that the sweep runs; found 'neural_cleanse.trials'; name the defense "
            "behind --defenses",
        ),
    ],
)
def test_mistakes_in_options_of_defenses(option: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan_sweep({"base": DIGITS, "defenses": ["strip"]}, parse_options([option], {}))
    assert str(error.value).startswith(message)


EXAMPLE = Path(__file__).parents[2] / "examples" / "own_defense.py"


def test_a_defense_of_ones_own_and_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLE.parent)
    here = f"{EXAMPLE.name}:FeatureSqueezing"
    asked = {"base": DIGITS, "defenses": ["all", here]}
    own = plan_sweep(asked, {}).defenses[-1]
    # By its absolute path: workers stand elsewhere.
    assert own.reference == f"{EXAMPLE}:FeatureSqueezing"
    assert (own.name, own.own) == ("feature-squeezing", True)
    assert own.settings.side == 3  # type: ignore[attr-defined]
    other = plan_sweep({**asked, "defense_settings": {"feature-squeezing": {"side": 5}}}, {}).defenses[-1]
    assert other.settings.side == 5  # type: ignore[attr-defined]
    assert plan_sweep(asked, parse_options(["feature-squeezing.side=5"], {})).defenses[-1] == other
    assert other.code == own.code
    for settings, message in (
        ({"feature-squeezing": {"size": 5}}, "feature_squeezing.size: unknown option; expected one of images, "),
        (
            {"feature_squeezing": {"false_rejection_rate": 2}},
            "false_rejection_rate: expected a number above 0 and at most 0.5; found 2",
        ),
    ):
        with pytest.raises(ConfigError) as error:
            plan_sweep({**asked, "defense_settings": settings}, {})
        assert str(error.value).startswith(f"defense_settings: {message}")
    # One that is called like a field of the runs leaves that field theirs.
    Path(tmp_path / "mine.py").write_text(
        "from own_defense import FeatureSqueezing\n\n\nclass Model(FeatureSqueezing):\n    name = 'model'\n"
    )
    shutil.copy(EXAMPLE, tmp_path)
    named = {"base": DIGITS, "defenses": [f"{tmp_path}/mine.py:Model"]}
    (cell,) = plan_sweep(named, parse_options(["model.hidden-units=16", "seed=3"], {})).cells
    assert (cell.config.model.hidden_units, cell.config.seed) == (16, 3)
    with pytest.raises(ConfigError) as error:
        plan_sweep({**asked, "defenses": [here, f"./{here}"]}, {})
    assert str(error.value) == "defenses: expected each name once; found two of 'feature-squeezing'"


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (
            {"grid": {}},
            "sweep: expected one of base, runs, defenses, defense_settings; found 'grid'; "
            "fields of the runs stand under base",
        ),
        ({"base": []}, "base: expected fields by name; found []"),
        ({"base": DIGITS, "runs": []}, "runs: expected a list of one or more grids; found []"),
        ({"base": DIGITS, "runs": ["x"]}, "runs: expected fields by name in each grid; found 'x' as number 1"),
        ({}, "dataset: expected digits, mnist, cifar10, gtsrb or the path of a folder in every grid; found none"),
        ({"base": {"dataset": 3}}, "dataset: expected text; found 3"),
        ({"base": {**DIGITS, "seed": []}}, "seed: expected at least one value; found none"),
        ({"base": {**DIGITS, "seed": "0"}}, "seed: expected a whole number; found '0'"),
        ({"base": {**DIGITS, "preset": "slow"}}, "preset: expected one of fast, paper, official; found 'slow'"),
        (
            {"base": {**DIGITS, "seed": [0, -1]}},
            "seed: expected a whole number from 0 to 9223372036854775807; found -1",
        ),
        ({"base": DIGITS, "defenses": 3}, "defenses: expected a list of names, or all; found 3"),
        (
            {"base": DIGITS, "defenses": ["strap"]},
            f"defenses: expected all, some of {', '.join(DEFENSES)}, or FILE.py:CLASS, a class of your own; "
            "found 'strap'",
        ),
        (
            {"base": DIGITS, "defense_settings": {"strip": {"overlays": 0}}},
            "defense_settings: strip.overlays: expected a number of at least 1; found 0",
        ),
        (
            {"base": {**DIGITS, "seed.x": 1, "seed": 0}},
            "seed.x: expected a field; found a value for 'seed', which it is a part of",
        ),
        (
            {"base": DIGITS, "runs": [{"joint_stage": {"epochs": 1}, "joint_stage.epochs": 2}]},
            "joint_stage.epochs: expected it in one spelling; found it nested and with dots, or with - and _; "
            "take one of them out",
        ),
        (
            {"base": DIGITS, "runs": [{}, {"seed": -1}]},
            "grid 2 of runs: seed: expected a whole number from 0 to 9223372036854775807; found -1",
        ),
        (
            {"base": {**DIGITS, "hold_out": [True, False]}, "defenses": ["strip"]},
            "hold_out: expected true in a sweep with defenses, which are given images that were held out; found false; "
            "leave out one or the other",
        ),
    ],
    ids=lambda value: "",
)
def test_mistakes(description: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan_sweep(description, {})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joint_stage.epoch": 3}, "joint_stage.epoch: unknown option; expected one of epochs, batch_size"),
        ({"epochs": 3}, "epochs: unknown option; expected one of dataset, attack"),
        ({"defense": 3}, "defense: unknown option"),
    ],
)
def test_an_unknown_field_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan_sweep({"base": DIGITS, "runs": [{}, changes]}, {})
    assert str(error.value).startswith(f"grid 2 of runs: {message}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed=3", ("seed", [3])),
        ("joint-stage.lambda-div=0,1.5", ("joint_stage.lambda_div", [0, 1.5])),
        ("partners=derangement,second-order", ("partners", ["derangement", "second-order"])),
        ("train_images=none,100", ("train_images", [None, 100])),
        ('output="a,b",[[1,2],[3]],{"c":1,"d":2}', ("output", ["a,b", [[1, 2], [3]], {"c": 1, "d": 2}])),
        ("attack=none,input-aware", ("attack", ["none", "input-aware"])),
        ("joint_stage.generator.betas=[0.5,0.9],none", ("joint_stage.generator.betas", [[0.5, 0.9], None])),
        (
            "joint_stage.generator.betas=[0.5,0.9],[0.9,0.99]",
            ("joint_stage.generator.betas", [[0.5, 0.9], [0.9, 0.99]]),
        ),
    ],
)
def test_options_of_the_command_line(text: str, expected: tuple[str, list[Any]]) -> None:
    assert parse_option(text) == expected


@pytest.mark.parametrize("text", ["seed", "=3", "seed="])
def test_an_option_without_field_or_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_option(text)
    assert str(error.value) == f"set: expected FIELD=VALUE or FIELD=VALUE,VALUE,...; found {text!r}"


def test_a_field_has_its_values_in_one_place() -> None:
    assert parse_options(["a=1,2", "b-c=3"], ["seed"]) == {"a": [1, 2], "b_c": [3]}
    for options, name in ((["a=1", "a=2"], "a"), (["seed=1"], "seed")):
        with pytest.raises(ConfigError) as error:
            parse_options(options, ["seed"])
        assert str(error.value) == (
            f"set: expected each field in one option; found {name!r} once more; give all its values together"
        )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("base: {dataset: digits}\nruns: [{}]\nbase: {dataset: mnist}", "base"),
        ('{"base": {"dataset": "digits", "seed": [0, 1], "seed": 0}}', "seed"),
    ],
)
def test_a_name_that_stands_twice_is_refused(tmp_path: Path, text: str, name: str) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(
        ConfigError, match=f"expected YAML; found: the name '{name}' twice in \"<unicode string>\", line"
    ):
        read_sweep(file)


@pytest.mark.parametrize("text", ["1e-1", "1E-1", "1.e-1", ".1", "0.1", "+1e-1", "1.0e-1"])
def test_numbers_are_numbers(tmp_path: Path, text: str) -> None:
    (tmp_path / "sweep.yaml").write_text(
        f"base: {{dataset: digits, x: {text}, y: [e1, 1e, 1.2.3, -]}}", encoding="utf-8"
    )
    assert read_sweep(tmp_path / "sweep.yaml")["base"] == {
        "dataset": "digits",
        "x": 0.1,
        "y": ["e1", "1e", "1.2.3", "-"],
    }


@pytest.mark.parametrize(
    ("text", "number"), [("010", 10), ("-7", -7), ("1:30", "1:30"), ("1_0", "1_0"), ("0x1f", "0x1f")]
)
def test_whole_numbers_are_those_of_today(tmp_path: Path, text: str, number: int | str) -> None:
    (tmp_path / "sweep.yaml").write_text(f"base: {{seed: {text}}}", encoding="utf-8")
    assert read_sweep(tmp_path / "sweep.yaml")["base"] == {"seed": number}


@pytest.mark.parametrize("text", ["!!bool abc", "!!timestamp abc", "!!int abc", "!!int ''", "!!float abc"])
def test_a_value_that_is_not_of_its_type_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "sweep.yaml").write_text(f"base: {{seed: {text}}}", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected YAML; found: "):
        read_sweep(tmp_path / "sweep.yaml")


def test_a_class_that_a_data_set_does_not_have_is_refused() -> None:
    options = {"dataset": ["gtsrb"], "attack": ["badnets"], "target_class": [42]}
    assert len(plan_sweep({}, options).cells) == 1
    with pytest.raises(ConfigError, match=r"^target_class: expected a class from 0 to 42; found 43$"):
        plan_sweep({}, {**options, "target_class": [43]})


def test_parts_that_double_with_each_level_are_refused(tmp_path: Path) -> None:
    levels = "".join(f"  l{level}: &l{level} {{a: *l{level - 1}, b: *l{level - 1}}}\n" for level in range(1, 30))
    (tmp_path / "sweep.yaml").write_text(f"base:\n  l0: &l0 {{a: 1}}\n{levels}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^l\d\.a\.a\.a: expected parts at most 3 deep; found more$"):
        plan_sweep(read_sweep(tmp_path / "sweep.yaml"), {})
    (tmp_path / "sweep.yaml").write_text(f"base:\n  l0: &l0 {{}}\n{levels}", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected parts at most 3 deep"):
        plan_sweep(read_sweep(tmp_path / "sweep.yaml"), {})
    (tmp_path / "sweep.yaml").write_text(f"defenses: [*l29]\n{levels}".replace("[*l29]\n", "\n  l0: &l0 {}\n"), "utf-8")
    with pytest.raises(ConfigError, match="defenses: expected a list of names, or all; found ") as caught:
        plan_sweep(read_sweep(tmp_path / "sweep.yaml"), {"dataset": ["digits"]})
    assert len(str(caught.value)) < 10_000
    merged = levels.replace("a: ", "<<: [").replace(", b: ", ", ").replace("}", "]}")
    (tmp_path / "sweep.yaml").write_text(f"base:\n  l0: &l0 {{a: 1}}\n{merged}", encoding="utf-8")
    with pytest.raises(ConfigError, match="found: a part with more than 1000 names"):
        read_sweep(tmp_path / "sweep.yaml")


def test_anchors_and_merged_parts_of_yaml(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(
        "base: &usual {dataset: digits, seed: [0, 1]}\nruns:\n  - {<<: *usual, seed: 3}\n", encoding="utf-8"
    )
    assert read_sweep(tmp_path / "sweep.yaml")["runs"] == [{"dataset": "digits", "seed": 3}]


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("base: {dataset: digits, seed: [0, 1]}\nruns:\n  - attack: none\n", encoding="utf-8")
    assert read_sweep(file) == {"base": {"dataset": "digits", "seed": [0, 1]}, "runs": [{"attack": "none"}]}
    file.write_text("- 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected base, runs, defenses, defense_settings by name; found list"):
        read_sweep(file)
    file.write_text("a: [1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected YAML; found: while parsing"):
        read_sweep(file)
    file.write_text("!!python/object/apply:os.system [id]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected YAML; found: could not determine a constructor"):
        read_sweep(file)
    file.write_text("base: &base {dataset: digits, x: *base}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected YAML; found: found unconstructable recursive node"):
        read_sweep(file)
    file.write_text("base: {dataset: digits, seed: 2020-13-40}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected YAML; found: month must be in"):
        read_sweep(file)
    with pytest.raises(ConfigError, match="expected a sweep's YAML file; found: No such file or directory"):
        read_sweep(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="expected a sweep's YAML file; found: embedded null byte"):
        read_sweep(Path("a\0b"))


@pytest.mark.parametrize("defenses", ["evil.py:Evil", "[strip, evil.py:Evil]", "os:getcwd"])
def test_a_file_names_no_code(tmp_path: Path, defenses: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(f"base: {{dataset: digits}}\ndefenses: {defenses}\n", encoding="utf-8")
    (tmp_path / "evil.py").write_text("raise SystemExit('it was run')\n", encoding="utf-8")
    name = defenses.strip("[]").rpartition(" ")[2]
    with pytest.raises(ConfigError) as error:
        read_sweep(path)
    assert str(error.value) == (
        f"{path}: expected names of built-in defenses, since no file may have code run; found {name!r}; name a defense "
        "of your own behind --defenses"
    )
    # Where the command line names defenses, the file's do not count.
    assert read_sweep(path, ["strip"]) == {"base": {"dataset": "digits"}, "defenses": ["strip"]}
