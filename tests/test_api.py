"""What only programs meet: data that changed since a run was trained, and splits that there are not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from robustness.storage import small_config

from inputaware import api
from inputaware.api import Run, train
from inputaware.cli import main
from inputaware.config.fields import AttackName, EvaluationSplit
from inputaware.config.record import fields_that_count, override
from inputaware.data import sources
from inputaware.data.cache import ImageSet, load_images
from inputaware.data.sources import read_source
from inputaware.defenses.settings import PAPER_DEFENSES
from inputaware.errors import ConfigError, DataError, RunFolderError
from inputaware.report.collect import collect_run
from inputaware.report.figures import training_plot
from inputaware.report.render import render_report
from inputaware.runs.files import read_json, write_json
from inputaware.runs.folder import RunFolder
from inputaware.runs.journal import Journal


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(small_config(), tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_configuration_and_no_listener_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    for config, found in (("fast", "str 'fast'"), ({"seed": 1}, "dict {'seed': 1}")):
        with pytest.raises(ConfigError) as caught:
            train(config, tmp_path / "run")  # type: ignore[arg-type]
        assert str(caught.value) == (
            f'config: expected a Config; found {found}; make one with preset_config("fast", dataset="digits")'
        )
    listener = SimpleNamespace(stepped=print)
    with pytest.raises(ConfigError) as caught:
        train(small_config(), tmp_path / "run", listener=listener)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "listener: expected an object with the methods stage_started, stepped, epoch_finished; found SimpleNamespace "
        "without stage_started, epoch_finished; add them"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("attack", ["badnets", "none"])
def test_what_a_control_does_not_read_changes_nothing(attack: AttackName, tmp_path: Path) -> None:
    plain = override(small_config(), {"attack": attack})
    joint = {"cross_probability": 0.3, "initial_attack_probability": 0.4, "initial_cross_probability": 0.2}
    joint |= {"ramp": 0.9, "lambda_div": 3.0, "generator": {"learning_rate": 0.5}}
    changes: dict[str, Any] = {"joint_stage": joint, "mask_stage": {"epochs": 7}, "partners": "second-order"}
    if attack == "none":
        changes |= {"target": "all-to-all", "target_class": 3}
        joint["attack_probability"] = 0.5
    other = override(plain, changes)
    assert fields_that_count(plain) == fields_that_count(other)
    networks = [train(config, tmp_path / str(number)).classifier for number, config in enumerate((plain, other))]
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first)


def other_classes(dataset: str, split: Any) -> ImageSet:
    """Return digits with a class more."""
    data = load_images(dataset, split)
    names = (*data.spec.class_names, "ten")
    spec = dataclasses.replace(data.spec, classes=11, class_names=names) if split == "test" else data.spec
    return dataclasses.replace(data, spec=spec)


def test_data_that_changed_since_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "load_images", other_classes)
    with pytest.raises(RunFolderError) as caught:
        run.images("test")
    assert str(caught.value) == (
        f"{run.folder}: expected the data set that the run was trained on, digits with 10 classes and images of shape "
        "(1, 28, 28); found 11 classes and shape (1, 28, 28): the data have changed since; put them back as they "
        "were, or train anew"
    )


def test_a_run_says_which_it_is(run: Run, own_run: Run) -> None:
    assert repr(run) == str(run) == f"<Run '{run.folder.path}': digits, input-aware, all-to-one>"
    assert repr(own_run) == f"<Run '{own_run.folder.path}': {own_run.config.dataset}, none>"


def write_pictures(folder: Path, seed: int = 0) -> str:
    """Write ten grey pictures of each of two classes for training and for the test, and return where."""
    random = np.random.default_rng(seed)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
            for number in range(10):
                pixels = random.integers(0, 256, (28, 28), np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return str(folder)


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("own")
    stages: dict[str, Any] = {name: {"epochs": 1, "batch_size": 4} for name in ("mask_stage", "joint_stage")}
    config = small_config(train_images=None, **stages)
    return train(override(config, {"dataset": write_pictures(folder / "pictures"), "attack": "none"}), folder / "run")


def test_pictures_that_were_added_since_are_refused_but_for_tests(own_run: Run, tmp_path: Path) -> None:
    pictures = Path(own_run.config.dataset)
    run = Run.load(shutil.copytree(own_run.folder.path, tmp_path / "run"), device="cpu")
    before = {split: run.images(split)[0] for split in get_args(EvaluationSplit)}
    more = pictures / "test" / "a" / "0-more.png"
    shutil.copy(pictures / "test" / "b" / "0.png", more)
    for split, images in before.items():
        assert len(run.images(split)[0]) == len(images) + (split == "test")
    more.unlink()
    added = pictures / "train" / "a" / "0-more.png"
    shutil.copy(pictures / "train" / "b" / "0.png", added)
    message = (
        f"{run.folder}: expected the images and labels that the run was made with; found others in the train part of "
        f"{pictures}: files were added, removed, renamed or changed since, or another version of Pillow decodes them "
        "differently (environment.json names the run's); put them back as they were, or train anew"
    )
    for split in ("validation", "defender"):
        with pytest.raises(RunFolderError) as caught:
            run.images(split)
        assert str(caught.value) == message
    assert torch.equal(run.images("test")[0], before["test"])

    run.folder.evaluation.unlink()  # a run that is not finished goes on with no other data either
    with pytest.raises(RunFolderError) as caught:
        train(None, run.folder.path, resume=True)
    assert str(caught.value) == message

    record = read_json(run.folder.path / "config.json")
    del record["data"]["digests"]  # as of runs from before there were any, and of imported ones
    write_json(run.folder.path / "config.json", record)
    assert len(Run.load(run.folder.path, device="cpu").images("validation")[0]) > 0

    added.unlink()
    assert all(torch.equal(run.images(split)[0], images) for split, images in before.items())


def test_pictures_that_have_moved_are_found_where_one_says(
    own_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, pictures = own_run.folder.path, Path(own_run.config.dataset)
    before = {split: own_run.images(split)[0] for split in get_args(EvaluationSplit)}
    moved = pictures.rename(pictures.with_name("elsewhere"))
    try:
        with pytest.raises(RunFolderError) as caught:
            Run.load(run, device="cpu").images("validation")
        assert str(caught.value) == (
            f"{run}: expected the images that the run was trained on; found no folder '{pictures}'; "
            "say where they are now, with --dataset"
        )
        found = Run.load(run, device="cpu", dataset=moved)
        assert all(torch.equal(found.images(split)[0], images) for split, images in before.items())
        capsys.readouterr()
        assert main(["evaluate", str(run), "--split=validation", f"--dataset={moved}", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["test_images"] == len(before["validation"])
        other = write_pictures(tmp_path / "others", seed=1)
        assert main(["evaluate", str(run), "--split=validation", f"--dataset={other}"]) == 2
        assert "found others in the train part" in capsys.readouterr().err
    finally:
        moved.rename(pictures)


def test_a_data_set_with_a_name_is_found_by_it(tmp_path: Path) -> None:
    run = train(small_config(attack="none"), tmp_path / "run")
    with pytest.raises(ConfigError) as caught:
        Run.load(run.folder.path, dataset=tmp_path)
    assert str(caught.value) == (
        "dataset: expected none for a run of digits, whose images are found by that name; found "
        f"'{tmp_path}'; leave it out"
    )


def test_a_run_that_holds_nothing_out_trains_on_all_images_and_has_them_for_nothing_else(tmp_path: Path) -> None:
    stages: dict[str, Any] = {name: {"epochs": 1, "batch_size": 20} for name in ("mask_stage", "joint_stage")}
    config = small_config(train_images=None, hold_out=False, attack="none", **stages)
    run = train(override(config, {"dataset": write_pictures(tmp_path / "pictures")}), tmp_path / "run")
    assert Journal(run.folder.path / "metrics.jsonl").rows()[-1]["validation"] == {}
    assert len(run.images("test")[0]) == 20
    for split in ("validation", "defender"):
        with pytest.raises(DataError) as caught:
            run.images(split)
        assert str(caught.value) == (
            f"{run.folder.path}: expected a run that held images out; found one that held none out "
            f"(hold_out is false), so that it has no {split} split; train another one, without --no-hold-out"
        )
    with pytest.raises(DataError, match=r"so that it has no defender split; train another one, without --no-hold-out$"):
        run.defend("fine-pruning")
    collected = collect_run(run.folder.path)
    plot = training_plot(collected)
    assert plot is not None
    assert plot.words == "losses over 1 epochs"
    assert collected.missing.keys() == {"inspection"}
    page = render_report([collected])
    held_out = "It has not been run on this model, which held no images out for a defender."
    assert page.count(held_out) == len(PAPER_DEFENSES)
    held = override(config, {"dataset": run.config.dataset, "hold_out": True})
    with pytest.raises(ConfigError, match=r"^joint_stage.batch_size: expected at most 16, "):
        train(held, tmp_path / "held")


def test_what_is_not_held_out_need_not_suffice_for_three_splits_nor_be_watched(tmp_path: Path) -> None:
    pictures = Path(write_pictures(tmp_path / "pictures"))
    for picture in pictures.glob("train/*/[2-9].png"):
        picture.unlink()
    config = small_config(attack="none", hold_out=False, train_images=4, joint_stage={"epochs": 1, "batch_size": 4})
    config = override(config, {"dataset": str(pictures)})
    assert train(config, tmp_path / "run").folder.evaluation.exists()
    assert fields_that_count(config) == fields_that_count(override(config, {"validation_images": 7}))
    with pytest.raises(ConfigError) as caught:
        train(override(config, {"train_images": 5}), tmp_path / "more")
    assert str(caught.value) == "train_images: expected at most 4, the images of the training set; found 5"
    with pytest.raises(DataError, match=r"expected at least 3 training images of every class"):
        train(override(config, {"hold_out": True}), tmp_path / "held")


@pytest.mark.parametrize("devices", [1, 2])
def test_a_finished_run_is_reported_without_its_pictures(
    devices: int, own_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, folder = Path(own_run.config.dataset), own_run.folder.path
    moved = pictures.rename(pictures.with_name("moved"))
    assert main(["train", "--resume", "--output", str(folder), "--devices", str(devices), "--json"]) == 0
    moved.rename(pictures)
    assert json.loads(capsys.readouterr().out) == read_json(own_run.folder.evaluation)


def test_a_run_that_starts_over_names_the_machine_that_trained_it(own_run: Run, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(own_run.folder.path, tmp_path / "run"))
    begun = {**read_json(folder.environment), "command": "inputaware train", "threads": "many"}
    for path in (folder.evaluation, folder.checkpoint, folder.metrics.path):
        path.unlink()
    write_json(folder.environment, begun)
    train(None, folder.path, resume=True)
    record = read_json(folder.environment)
    assert (record["command"], record["threads"]) == ("inputaware train", str(torch.get_num_threads()))
    assert record.keys() == begun.keys()  # not resumed


def test_a_class_of_another_name_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def renamed(dataset: str, split: Any) -> ImageSet:
        data = load_images(dataset, split)
        return dataclasses.replace(
            data, spec=dataclasses.replace(data.spec, class_names=("pig", *map(str, range(1, 10))))
        )

    monkeypatch.setattr(api, "load_images", renamed)
    with pytest.raises(RunFolderError, match=r"shape \(1, 28, 28\), class '0' now 'pig': the data have changed since"):
        run.images("test")


def test_splits_with_other_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "load_images", other_classes)
    with pytest.raises(RunFolderError) as caught:
        train(small_config(), tmp_path / "run")
    assert str(caught.value) == (
        "dataset: expected the same classes and shapes in both splits of digits; found 10 and 11 classes, "
        "shapes (1, 28, 28) and (1, 28, 28); restore the files"
    )
    assert not (tmp_path / "run").exists()


def test_gradients_that_the_caller_does_without_are_there_all_the_same(tmp_path: Path) -> None:
    with torch.inference_mode():
        run = train(small_config(), tmp_path / "first")
        run.defend("fine-pruning")
    with torch.no_grad():
        train(small_config(), tmp_path / "second")
    assert (tmp_path / "first" / "evaluation.json").read_bytes() == (tmp_path / "second/evaluation.json").read_bytes()


def test_images_to_look_at_are_a_whole_number(run: Run) -> None:
    with pytest.raises(ConfigError) as caught:
        run.inspect(images=True)
    assert str(caught.value) == "images: expected a whole number, the images of each class; found True"
    with pytest.raises(ConfigError) as caught:
        run.inspect(images=1, indices=[3])
    assert str(caught.value) == "indices: expected images of each class or indices; found both; leave one of them out"


def test_a_folder_in_use_is_refused_before_it_is_evaluated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: list[object] = []
    monkeypatch.setattr(api, "evaluate", lambda *args, **options: evaluated.append(args) or {})
    before = run.folder.evaluation.read_bytes()
    with run.folder.lock():
        with pytest.raises(RunFolderError, match="no other process writes"):
            run.evaluate()
        assert not evaluated
        run.evaluate("validation")  # which writes nothing
        assert evaluated
    assert run.folder.evaluation.read_bytes() == before


@pytest.mark.parametrize(
    ("split", "guess"),
    [("train", ""), ("all", ""), ("tset", "; did you mean test?"), ("Test", "; did you mean test?")],
)
def test_a_split_that_training_saw_or_that_there_is_not_is_refused(split: str, guess: str, run: Run) -> None:
    with pytest.raises(DataError) as caught:
        Run.images.__wrapped__(run, split)  # type: ignore[attr-defined]
    assert str(caught.value) == (
        f"split: expected test, validation or defender, which no training saw; found '{split}'{guess}"
    )


def test_a_folder_that_goes_while_it_is_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
    really = sources._visible

    def vanish(folder: Path) -> list[Path]:
        if folder.name == "a":
            shutil.rmtree(folder)
        return really(folder)

    monkeypatch.setattr(sources, "_visible", vanish)
    with pytest.raises(DataError) as caught:
        read_source(str(tmp_path), "train")
    assert str(caught.value) == (
        f"{tmp_path}/train/a: expected a folder to read; found: No such file or directory; check it"
    )
