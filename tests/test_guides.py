"""Code of the guides does what they say."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from robustness.storage import small_config

from inputaware import Config, Run, train
from inputaware.arguments import parse_train
from inputaware.attacks.input_aware import probability_at
from inputaware.config.checks import check_config
from inputaware.config.presets import late_probabilities, without_effect
from inputaware.defenses.own import import_defenses
from inputaware.runs.folder import RunFolder
from inputaware.sweeps.grid import plan_sweep
from inputaware.sweeps.progress import CellState
from inputaware.sweeps.results import write_results

ROOT = Path(__file__).parents[1]
GUIDES = ROOT / "docs" / "guide"

TINY = small_config(mask_stage={"epochs": 1, "batch_size": 50})


def blocks(guide: str, section: str, language: str = "python") -> list[str]:
    """Return the code of a section that is in one language."""
    text = (GUIDES / guide).read_text(encoding="utf-8")
    (found,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return re.findall(rf"^```{language}\n(.*?)^```$", found, re.MULTILINE | re.DOTALL)


def test_a_listener_prints_a_line_for_an_epoch_and_a_second_call_finds_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"train": train, "Run": Run, "config": TINY}
    training, looking, again = blocks("api.md", "Progress and notebooks")
    exec(training, names)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mask: 1 epochs of 2 steps, 0 done"
    assert re.fullmatch(r"mask 1/1: loss -?\d+\.\d{3} ", lines[1])
    assert lines[2] == "joint: 2 epochs of 2 steps, 0 done"
    rates = r"clean_accuracy [\d.]+%, attack_success_rate [\d.]+%, cross_accuracy [\d.]+%"
    assert re.fullmatch(rf"joint 2/2: loss \d+\.\d{{3}} {rates}", lines[4])
    assert lines[-1].endswith("evaluated 100%")
    exec(looking, names)
    assert "100%" in capsys.readouterr().out
    exec(again, names)
    assert capsys.readouterr().out == ""  # a finished run is returned as it is
    assert RunFolder("runs/lines").finished


def test_pictures_and_a_split_are_poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Image.new("L", (20, 20), 100).save("photos/grey.png")
    names: dict[str, Any] = {"run": train(TINY, "run")}
    (code,) = (block for block in blocks("api.md", "Poison images") if "poison_files" in block)
    exec(code, names)
    assert [row["picture"] for row in names["rows"]] == ["grey.png"]
    assert names["count"] == 360


def test_classifier_and_triggers_are_files_that_need_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train(TINY, "runs/digits")
    names: dict[str, Any] = {}
    (loaders,) = blocks("other-tools.md", "Data loaders")
    saving, triggers = blocks("other-tools.md", "A file that needs no `inputaware`")
    exec(loaders, names)
    exec(saving, names)
    exec(triggers, names)
    run, pixels, poisoned = names["run"], names["pixels"], names["poisoned"]
    assert sum(len(labels) for _, labels in names["triggered"]) == len(pixels) == 360
    assert capsys.readouterr().out.startswith("true tensor(")
    torch.testing.assert_close(names["classifier"](pixels), run.classifier(pixels))
    opened = torch.export.load("triggers.pt2").module()
    torch.testing.assert_close(opened(pixels), poisoned.images)


def test_several_settings_of_ones_own_defense_stand_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "examples" / "own_defense.py", tmp_path)
    (code,) = (block for block in blocks("defend.md", "Your own defense") if "own_defense import" in block)
    Path("squeezing.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    places = import_defenses(["squeezing.py:narrow", "squeezing.py:wide"])
    records = train(TINY, "run").defend([one.made for one in places.values()])
    assert {name: record["settings"]["side"] for name, record in records.items()} == {
        "squeezing-3": 3,
        "squeezing-7": 7,
    }


def test_a_detector_says_what_it_measures_and_the_rest_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = (block for block in blocks("defend.md", "Your own defense") if "class Darkness" in block)
    Path("dark.py").write_text(code, encoding="utf-8")
    run = train(TINY, "run")
    record = run.defend("dark.py:Darkness")["darkness"]
    pixels = run.images("test")[0] / 255
    assert record["scoring"]["scores"]["mean_brightness_clean"] == pytest.approx(float(pixels.mean()), abs=1e-6)
    assert f"below {record['scores']['threshold']:.3f} are refused" in record["sentence"]
    assert 0 <= record["scoring"]["scores"]["auroc"] <= 1


def test_classes_are_numbered_as_the_guide_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["10", "2", "Yield", "no-entry", "stop", "\u00e9clair"]
    for name in reversed(names):
        for picture in ("train/{}/0.png", "train/{}/1.png", "train/{}/2.png", "test/{}/0.png"):
            place = Path("my-signs", picture.format(name))
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), 100).save(place)
    (shown,) = blocks("own-images.md", "The number of a class")
    (listing,) = blocks("own-images.md", "The number of a class", "sh")
    exec(shown, {})
    assert capsys.readouterr().out == " ".join(map(str, enumerate(names))) + "\n"
    found = subprocess.run(listing, shell=True, check=True, capture_output=True, text=True).stdout
    assert [line.split() for line in found.splitlines()] == [
        [str(number), f"my-signs/train/{name}/"] for number, name in enumerate(names)
    ]


def test_ablations_leave_out_what_they_say() -> None:
    commands = [
        shlex.split(command)
        for block in blocks("train.md", "Ablations", "sh")
        for command in block.replace("\\\n", "").splitlines()
    ]
    assert [command[:2] for command in commands] == [["inputaware", "train"]] * 4
    found = {}
    for command in commands:
        parsed, config = parse_train(command[2:])
        assert config is not None
        check_config(config)
        assert late_probabilities(config) == without_effect(config) == []
        found[parsed.output.name] = (*_shares(config), config.mask_stage.lambda_div, config.joint_stage.lambda_div)
    # Attacked and crossed images, at the start, in the middle and at the end; weights of both diversity losses.
    assert found == {
        "without-cross": ((0.17, 0), (0.17, 0), (0.1, 0), 1, 1),
        "without-diversity": ((0.17, 0.33), (0.17, 0.33), (0.1, 0.1), 0, 0),
        "fixed": ((0.1, 0.1), (0.1, 0.1), (0.1, 0.1), 1, 1),
        "fixed-fifths": ((0.2, 0.2), (0.2, 0.2), (0.2, 0.2), 1, 1),
    }


def _shares(config: Config) -> list[tuple[float, float]]:
    """Return the shares of attacked and crossed images at the start, in the middle and at the end."""
    joint = config.joint_stage
    return [
        (
            probability_at(
                progress, initial=joint.initial_attack_probability, final=joint.attack_probability, ramp=joint.ramp
            ),
            probability_at(
                progress, initial=joint.initial_cross_probability, final=joint.cross_probability, ramp=joint.ramp
            ),
        )
        for progress in (0.0, 0.5, 1.0)
    ]


def test_a_number_for_each_model_is_compared_over_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    detector, area = blocks("sweep.md", "A number for each model")
    Path("gap.py").write_text(detector, encoding="utf-8")
    tiny = {"dataset": "digits", "train_images": 100, "validation_images": 20, "device": "cpu", "seed": [0, 1]}
    tiny |= {"attack": ["none", "badnets"], "model.hidden_units": 16, "joint_stage": {"epochs": 1, "batch_size": 50}}
    sweep = plan_sweep({"base": tiny, "defenses": ["gap.py:LogitGap"]}, {})
    defense = import_defenses(["gap.py:LogitGap"])["gap.py:LogitGap"].made
    output = tmp_path / "runs" / "detectors"
    for cell in sweep.cells:
        train(cell.config, output / "runs" / cell.name).defend(defense, seed=cell.config.seed)
    states = {cell.name: CellState(cell.name, "finished") for cell in sweep.cells}
    _, badnets = write_results(sweep, output, states)["configurations"]
    found = badnets["model_areas"]["logit-gap"]
    assert (found["models"], found["clean_models"], found["clean"]) == (2, 2, 0)
    exec(area, {})
    assert capsys.readouterr().out == f"{found['area']}\n"
