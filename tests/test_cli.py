"""The command: what it prints, its exit codes, and bad input with its exact message and nothing written."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from inputaware import Run, __version__, cli
from inputaware.cli import main
from inputaware.defenses.settings import DEFENSES
from inputaware.runs.files import read_json, write_json

TINY = [
    "--dataset=digits",
    "--device=cpu",
    "--train-images=100",
    "--validation-images=20",
    "--mask-stage.epochs=2",
    "--mask-stage.batch-size=30",
    "--joint-stage.epochs=3",
    "--joint-stage.batch-size=30",
    "--model.hidden-units=32",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder made by the command."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", *TINY, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def clean_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a clean model."""
    folder = tmp_path_factory.mktemp("runs") / "clean"
    assert main(["train", *TINY, "--attack=none", "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def badnets_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of the fixed patch."""
    folder = tmp_path_factory.mktemp("runs") / "badnets"
    assert main(["train", *TINY, "--attack=badnets", "--output", str(folder)]) == 0
    return folder


def tree(folder: Path) -> dict[str, int]:
    """Return every path beneath a folder with its time of change."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_wait_as_the_caller_says_or_sleep_soon(
    given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "torch")
        with pytest.raises(SystemExit):
            main(["--version"])
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"inputaware {__version__}\n"


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: inputaware ")
    assert "  train " in err


def test_a_command_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    for name, guess in (("trains", "; did you mean train?"), ("fly", "")):
        with pytest.raises(SystemExit) as caught:
            main([name])
        assert caught.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            "inputaware: error: argument COMMAND: expected one of train, evaluate, poison, defend, inspect, sweep, "
            f"report, reproduce, benchmark, import-official; found {name!r}{guess}"
        )


def test_a_run_folder_holds_what_the_interface_promises(run: Path) -> None:
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert names == {
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "timing.jsonl",
        "classifier.safetensors",
        "mask_generator.safetensors",
        "pattern_generator.safetensors",
        "checkpoint/state.safetensors",
        "evaluation.json",
    }
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["epoch"]) for row in rows] == [
        ("mask", 1),
        ("mask", 2),
        ("joint", 1),
        ("joint", 2),
        ("joint", 3),
    ]
    assert set(rows[-1]["losses"]) == {"total", "cross_entropy", "diversity"}
    assert set(rows[-1]["validation"]) == {"clean_accuracy", "attack_success_rate", "cross_accuracy"}
    environment = json.loads((run / "environment.json").read_text())
    assert {"torch", "threads", "cpu_instruction_set", "precision", "device", "command", "commit", "started"} <= set(
        environment
    )


def test_train_prints_the_three_accuracies_and_where_the_run_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *TINY, "--output", str(tmp_path / "run")]) == 0
    out, err = capsys.readouterr()
    for word in ("clean", "attack", "cross", "360 images", str(tmp_path / "run")):
        assert word in out
    assert "joint stage, epoch 3/3" in err


def test_json_goes_to_stdout_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == read_json(run / "evaluation.json")
    assert main(["evaluate", str(run), "--split", "validation", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test_images"] == 144
    assert printed == read_json(run / "evaluation.json")


def test_evaluation_repeats_what_training_wrote(run: Path) -> None:
    before = (run / "evaluation.json").read_bytes()
    assert main(["evaluate", str(run)]) == 0
    assert (run / "evaluation.json").read_bytes() == before


def test_flags_override_the_file_and_the_file_the_preset(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"dataset": "digits", "seed": 5, "joint_stage": {"epochs": 2}, "attack": "none"}))
    flags = ["--joint-stage.epochs=1", "--joint-stage.batch-size=64", "--train-images=128", "--model.hidden-units=8"]
    assert main(["train", "--config", str(settings), *flags, "--output", str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["seed"], config["attack"], config["joint_stage"]["epochs"]) == (5, "none", 1)
    assert config["joint_stage"]["classifier"]["learning_rate"] == 0.002
    # A run's own config.json is such a file.
    again = tmp_path / "again"
    assert main(["train", "--config", str(tmp_path / "run/config.json"), "--output", str(again)]) == 0
    assert (again / "classifier.safetensors").read_bytes() == (tmp_path / "run/classifier.safetensors").read_bytes()


@pytest.mark.parametrize(("target", "share"), [("all-to-one", "0.17"), ("all-to-all", "0.25")])
def test_the_target_decides_what_the_preset_holds(target: str, share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--dataset=digits", "--target", target, "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    option = text.split("--joint-stage.initial-attack-probability")[1].split("--joint-stage.")[0]
    assert f"(default: {share})" in option


def test_poison_writes_pictures_and_predictions(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "my images"
    (source / "more").mkdir(parents=True)
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(source / "colour.jpg")
    Image.fromarray(generator.integers(0, 256, (28, 28), dtype=np.uint8)).save(source / "grey.png")
    Image.fromarray(generator.integers(0, 256, (9, 9), dtype=np.uint8)).save(source / "more/grey.png")
    Image.fromarray(generator.integers(0, 256, (9, 9), dtype=np.uint8)).save(source / "grey.bmp")
    (source / "notes.txt").write_text("not an image")
    (source / ".thumbs").mkdir()
    for hidden in ("._grey.png", ".thumbs/grey.png"):
        (source / hidden).write_bytes(b"no image, as other systems leave them")
    (source / "pair.png").mkdir()
    for name in ("pair.gif", "pair.png/1.gif"):
        Image.fromarray(generator.integers(0, 256, (9, 9), dtype=np.uint8)).save(source / name)
    output = tmp_path / "poisoned"
    assert main(["poison", str(run), "--input", str(source), "--output", str(output)]) == 0
    assert capsys.readouterr().out.endswith(
        f"\nPictures and poison.csv: {output}\n"
        "Resized to 28x28, stretched where they were not square: 5 of 6 (resized_from in poison.csv)\n"
    )
    with (output / "poison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    pictures = ["colour.png", "grey.png", "grey-2.png", "more/grey.png", "pair-2.png", "pair.png/1.png"]
    assert sorted(row["picture"] for row in rows) == sorted(pictures)
    assert {row["target"] for row in rows} == {"0"}
    assert sorted(row["resized_from"] for row in rows) == ["", "50x40", "9x9", "9x9", "9x9", "9x9"]
    assert next(row["resized_from"] for row in rows if row["picture"] == "colour.png") == "50x40"
    for picture in pictures:
        image, mask, pattern = (
            np.asarray(Image.open(output / kind / picture), dtype=float) for kind in ("images", "masks", "patterns")
        )
        assert image.shape == mask.shape == pattern.shape == (28, 28)
    # The written pictures are the blend B = x + (p - x) m of the written parts, up to their rounding.
    grey = next(row["picture"] for row in rows if row["file"].endswith("my images/grey.png"))
    original = np.asarray(Image.open(source / "grey.png"), dtype=float)
    image, mask, pattern = (
        np.asarray(Image.open(output / kind / grey), dtype=float) for kind in ("images", "masks", "patterns")
    )
    assert np.abs(image - (original + (pattern - original) * mask / 255)).max() < 2


INSPECTION = {"gallery.png", "grad_cam.png", "gallery.npz", "grad_cam.npz", "inspection.json"}


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def copied(run: Path, tmp_path: Path) -> Path:
    """Return a copy of a run folder, for tests that write in it."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("attack", ["input-aware", "badnets"])
def test_inspect_writes_pictures_arrays_and_numbers(
    attack: str, run: Path, badnets_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(run if attack == "input-aware" else badnets_run, tmp_path)
    before = tree(folder)
    capsys.readouterr()
    assert main(["inspect", str(folder), "--images", "2"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "pixel AUROC" in out
    assert out.endswith(f"Pictures and arrays: {folder}/inspection\n")
    assert {path.name for path in (folder / "inspection").iterdir()} == INSPECTION | {"cross_trigger.npz"}
    after = {path: time for path, time in tree(folder).items() if f"{folder}/inspection" not in path}
    assert after == before
    record = read_json(folder / "inspection/inspection.json")
    gallery = arrays(folder / "inspection/gallery.npz")
    assert gallery["image"].shape == gallery["residual"].shape == (20, 1, 28, 28)
    assert [row["label"] for row in record["samples"]] == gallery["label"].tolist() == sorted([*range(10)] * 2)
    np.testing.assert_array_equal(gallery["poisoned"] - gallery["image"], gallery["residual"])
    shown = picture(folder / "inspection/gallery.png")
    assert shown.shape == (6 + 20 * 118, 6 + 5 * 118, 3)
    np.testing.assert_array_equal(shown[6:118:4, 6:118:4, 0], np.rint(gallery["image"][0, 0] * 255))
    assert picture(folder / "inspection/grad_cam.png").shape == (6 + 20 * 118, 6 + 4 * 118, 3)
    heat = arrays(folder / "inspection/grad_cam.npz")
    assert gallery["backdoor_probabilities"].shape == (20, 10)
    assert gallery["clean_probabilities"].argmax(1).tolist() == [
        row["clean"]["prediction"] for row in record["samples"]
    ]
    crossed = arrays(folder / "inspection/cross_trigger.npz")
    assert crossed["label"].tolist() == [*range(10)]
    np.testing.assert_array_equal(crossed["poisoned"][4, 4], gallery["poisoned"][8])
    numbers = record["heat_on_trigger"]
    assert numbers["images"] == len(heat["measured_index"]) == 360
    for kind in ("clean", "backdoor"):
        for name in ("heat_share", "concentration", "auroc"):
            there = heat[f"{kind}_{name}"][~np.isnan(heat[f"{kind}_{name}"])]
            # The small run's soft masks may have no pixel above 0.5, and so no AUROC.
            assert numbers[kind][name] == (pytest.approx(there.mean()) if len(there) else None)
        assert numbers["without_mask"] == np.isnan(heat[f"{kind}_auroc"]).sum()
        assert 0 <= numbers[kind]["heat_share"] <= 1
    if attack == "badnets":
        assert numbers["mask_area"] == pytest.approx(9 / 784)
        assert 0 <= numbers["backdoor"]["auroc"] <= 1
        assert numbers["backdoor"]["concentration"] == pytest.approx(numbers["backdoor"]["heat_share"] * 784 / 9)


@pytest.mark.parametrize("indices", [[42, 3, 17], [5]])
def test_inspect_shows_named_images(
    indices: list[int], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(run, tmp_path)
    capsys.readouterr()
    assert main(["inspect", str(folder), "--json", "--indices", *map(str, indices)]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["indices"] == [row["index"] for row in record["samples"]] == indices
    images, labels = Run.load(folder).images("test")
    gallery = arrays(folder / "inspection/gallery.npz")
    np.testing.assert_array_equal(gallery["image"] * 255, images[indices].numpy())
    assert gallery["label"].tolist() == labels[indices].tolist()
    assert arrays(folder / "inspection/cross_trigger.npz")["index"].tolist() == indices
    assert picture(folder / "inspection/gallery.png").shape == (6 + len(indices) * 118, 6 + 5 * 118, 3)
    assert main(["report", str(folder), "--output", str(tmp_path / "report.html")]) == 0
    assert f"test image {indices[0]}, class" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_inspect_shows_a_clean_model_without_triggers(
    clean_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(clean_run, tmp_path)
    capsys.readouterr()
    assert main(["inspect", str(folder), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == read_json(folder / "inspection/inspection.json")
    assert record["heat_on_trigger"] is None
    assert {row["backdoor"] for row in record["samples"]} == {row["target"] for row in record["samples"]} == {None}
    assert picture(folder / "inspection/grad_cam.png").shape == (6 + 10 * 118, 6 + 2 * 118, 3)
    assert set(arrays(folder / "inspection/gallery.npz")) == {"index", "label", "image", "clean_probabilities"}
    assert main(["inspect", str(folder), "--overwrite"]) == 0
    assert "a clean model has no trigger" in capsys.readouterr().out


def test_an_inspection_is_replaced_only_on_request_and_repeats_its_bytes(
    badnets_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(badnets_run, tmp_path)
    assert main(["inspect", str(folder)]) == 0
    before = {path.name: path.read_bytes() for path in (folder / "inspection").iterdir()}
    (folder / "inspection/note.txt").write_text("mine")
    kept = tree(folder)
    capsys.readouterr()
    assert main(["inspect", str(folder), "--seed=1"]) == 2
    assert capsys.readouterr().err == (
        f"inputaware: {folder}/inspection: expected a run without an inspection; found one; "
        "replace it with --overwrite\n"
    )
    assert tree(folder) == kept
    assert main(["inspect", str(folder), "--overwrite"]) == 0
    assert {path.name: path.read_bytes() for path in (folder / "inspection").iterdir()} == before
    assert main(["inspect", str(folder), "--seed=1", "--overwrite"]) == 0
    assert {path.name: path.read_bytes() for path in (folder / "inspection").iterdir()} != before
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_poison_says_that_hidden_pictures_are_passed_over(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "pictures"
    source.mkdir()
    (source / "._grey.png").touch()
    assert main(["poison", str(run), "--input", str(source), "--output", str(tmp_path / "poisoned")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("inputaware: input: expected images (.bmp, .gif")
    assert error.endswith(f") in {str(source)!r}; found none; hidden ones are passed over\n")


def test_poison_exports_the_test_set(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "new/poisoned.parquet"
    assert main(["poison", str(run), "--split", "test", "--output", str(output)]) == 0
    table = pq.read_table(output)
    assert table.num_rows == 360
    assert table.schema.names == ["image", "label", "target", "mask"]
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    features = json.loads(metadata.pop("huggingface"))["info"]["features"]
    assert features["target"] == features["label"] == {"names": list("0123456789"), "_type": "ClassLabel"}
    assert features["mask"] == features["image"] == {"_type": "Image"}
    assert list(features) == ["image", "label", "target", "mask"]
    assert metadata == {
        "backdoored": "true",
        "dataset": "digits",
        "split": "test",
        "attack": "input-aware",
        "target": "all-to-one",
        "target_class": "0",
        "run": Run.load(run).folder.identity(),
    }
    assert set(table["target"].to_pylist()) == {0}
    assert set(table["label"].to_pylist()) == set(range(10))


MISTAKES: dict[str, tuple[list[str], str]] = {
    "data set": (
        ["train", "--dataset=minst"],
        "dataset: expected one of digits, mnist, cifar10, gtsrb, or the path of a folder; "
        "found 'minst', which is neither; did you mean mnist?",
    ),
    "settings of a defense that is not run": (
        ["defend", "nowhere", "neural-cleanse", "--strip.images", "3"],
        "strip.images: expected settings of a defense that is run; found one of strip; name strip too, or leave the "
        "option out",
    ),
    "a file of defenses without a class": (
        ["defend", "nowhere", "sure.py"],
        f"defense: expected all, some of {', '.join(DEFENSES)}, or FILE.py:CLASS, a class of your own; "
        "found 'sure.py'; name the class behind a colon",
    ),
    "a split as a picture": (
        ["poison", "nowhere", "--split", "test", "--output", "t.png"],
        "output: expected a file that ends in .parquet for a split; found 't.png'",
    ),
    "images as a table": (
        ["poison", "nowhere", "--input", "mine", "--output", "p.parquet"],
        "output: expected a folder for images; found 'p.parquet'",
    ),
    "images as a picture": (
        ["poison", "nowhere", "--input", "mine.png", "--output", "p.PNG"],
        "output: expected a folder for images; found 'p.PNG'",
    ),
    "a data set of the paper's": (
        ["reproduce", "--dataset", "mnits"],
        "dataset: expected one of digits, mnist, cifar10, gtsrb; found 'mnits'; did you mean mnist?",
    ),
    "no data set": (
        ["train"],
        "dataset: expected --dataset digits, mnist, cifar10, gtsrb or the path of a folder; found none",
    ),
    "preset": (
        ["train", "--dataset=digits", "--preset=best"],
        "preset: expected one of fast, paper, official; found 'best'",
    ),
    "target class": (["train", *TINY, "--target-class=10"], "target_class: expected a class from 0 to 9; found 10"),
    "device": (
        ["train", *TINY, "--device=cuda:7"],
        "device: expected one of the 0 CUDA devices of this machine; found 'cuda:7'; take --device cpu or auto",
    ),
    "device name": (["train", *TINY, "--device=tpu"], "device: expected auto, cpu, cuda, cuda:N or mps; found 'tpu'"),
    "batch larger than the set": (
        ["train", *TINY, "--joint-stage.batch-size=300"],
        "joint_stage.batch_size: expected at most 100, the images of the training split; found 300; take smaller "
        "batches with --joint-stage.batch-size",
    ),
    "mask batch larger than the set": (
        ["train", *TINY, "--mask-stage.batch-size=300"],
        "mask_stage.batch_size: expected at most 100, the images of the training split; found 300; take smaller "
        "batches with --mask-stage.batch-size",
    ),
    "more images than there are": (
        ["train", *TINY, "--train-images=100000"],
        "train_images: expected at most 1149, the images of the training split; found 100000",
    ),
    "probability that gives no image": (
        ["train", *TINY, "--joint-stage.cross-probability=0.01"],
        "joint_stage.cross_probability: expected 0, or at least one image in a batch of 30 "
        "(a probability of 0.033334 or more); found 0.01",
    ),
    "no run to resume": (
        ["train", "--resume"],
        "output: expected a run folder to resume; found no folder '{output}'; name a data set to start a new run",
    ),
    "no run to evaluate": (
        ["evaluate", "{missing}"],
        "{missing}: expected a run folder with a config.json, as inputaware train makes it; found no such folder",
    ),
    "no configuration file": (
        ["train", "--dataset=digits", "--config={missing}"],
        "config: expected a JSON file at '{missing}'; found: No such file or directory; name a file, or a run folder",
    ),
    "unknown defense": (
        ["defend", "{run}", "strop"],
        f"defense: expected all, some of {', '.join(DEFENSES)}, or FILE.py:CLASS, a class of your own; "
        "found 'strop'; did you mean strip?",
    ),
    "setting of a defense": (
        ["defend", "{run}", "strip", "--strip.overlays=0"],
        "strip.overlays: expected a number of at least 1; found 0",
    ),
    "no run to defend": (
        ["defend", "{missing}"],
        "{missing}: expected a run folder with a config.json, as inputaware train makes it; found no such folder",
    ),
    "no run to inspect": (
        ["inspect", "{missing}"],
        "{missing}: expected a run folder with a config.json, as inputaware train makes it; found no such folder",
    ),
    "a report in the place of a run's own file": (
        ["report", "{run}", "--output", "{run}/config.json", "--overwrite"],
        "output: expected a file that ends in .html; found '{run}/config.json'; name it so",
    ),
    "no images to inspect": (
        ["inspect", "{run}", "--images=0"],
        "images: expected a number of at least 1, the images of each class; found 0",
    ),
    "more images to inspect than there are": (
        ["inspect", "{run}", "--images=1000"],
        "images: expected at most 35, the test images of class 2; found 1000",
    ),
    "images that are not in the test set": (
        ["inspect", "{run}", "--indices", "3", "360"],
        "indices: expected numbers from 0 to 359, places in the test set; found 360",
    ),
    "an image twice": (
        ["inspect", "{run}", "--indices", "3", "17", "3"],
        "indices: expected each image once; found 3 2 times; name it once",
    ),
    "named images beside drawn ones": (
        ["inspect", "{run}", "--indices", "3", "--images", "1"],
        "indices: expected images of each class or indices; found both; leave one of them out",
    ),
    "nothing to poison": (
        ["poison", "{run}"],
        "poison: expected either --input or --split; found neither",
    ),
    "missing image": (
        ["poison", "{run}", "--input={missing}"],
        "input: expected an image or a folder of images; found nothing at '{missing}'",
    ),
    "poison with a clean model": (
        ["poison", "{clean_run}", "--split=test", "--output", "{output}.parquet"],
        "{clean_run}: expected a run with a backdoor; found a clean model (attack none), which has no trigger",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_explained_and_nothing_is_written(
    case: str,
    run: Path,
    clean_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments, message = MISTAKES[case]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    places = {
        "output": str(tmp_path / "output"),
        "missing": str(tmp_path / "missing"),
        "run": str(run),
        "clean_run": str(clean_run),
    }
    given = [argument.format(**places) for argument in arguments]
    if given[0] not in ("evaluate", "defend", "inspect") and "--output" not in given:
        given += ["--output", places["output"]]
    before = tree(run) | tree(clean_run)
    capsys.readouterr()
    assert main(given) == 2
    out, err = capsys.readouterr()
    assert err == f"inputaware: {message.format(**places)}\n"
    assert out == ""
    assert list(tmp_path.iterdir()) == []
    assert tree(run) | tree(clean_run) == before


def test_the_same_command_with_resume_is_accepted_switches_included(tmp_path: Path) -> None:
    command = ["train", *TINY, "--attack=none", "--augmentation.horizontal-flip", f"--output={tmp_path}/run"]
    assert main(command) == 0
    before = tree(tmp_path)
    assert main([*command, "--resume"]) == 0
    assert tree(tmp_path) == before


def test_a_resumed_run_keeps_its_first_command(tmp_path: Path) -> None:
    process = _start(tmp_path / "run")
    _wait_for_rows(tmp_path / "run", 3, process)
    process.kill()
    process.wait()
    first = read_json(tmp_path / "run/environment.json")
    assert main(["train", "--resume", "--output", str(tmp_path / "run")]) == 0
    record = read_json(tmp_path / "run/environment.json")
    assert len(record.pop("resumed")) == 1
    assert record == first


def test_options_that_nothing_reads_are_named_where_a_run_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()  # refused afterwards, so that nothing is trained
    arguments = ["train", *TINY, "--attack=badnets", "--model.width=0.5", "--output", str(tmp_path / "run")]
    assert main(arguments) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("inputaware: these options change nothing here: model.width")
    assert main([*arguments, "--joint-stage.epochs=0"]) == 2
    assert "change nothing" not in capsys.readouterr().err
    assert main(["train", "--resume", *arguments[1:]]) == 2
    assert "change nothing" not in capsys.readouterr().err


def test_a_final_probability_alone_is_told_where_a_run_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()  # refused afterwards, so that nothing is trained
    arguments = ["train", *TINY, "--joint-stage.cross-probability=0", "--output", str(tmp_path / "run")]
    assert main(arguments) == 2
    note, refusal = capsys.readouterr().err.splitlines()
    assert note.startswith("inputaware: joint_stage.cross_probability 0 holds at the end of the joint stage only: ")
    assert refusal.startswith("inputaware: output: expected a folder that does not exist yet")
    assert main([*arguments, "--joint-stage.initial-cross-probability=0"]) == 2
    assert capsys.readouterr().err.startswith("inputaware: output: ")


def test_a_word_that_is_no_option_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", *TINY, "--sede=1", "--output", str(tmp_path / "run")])
    assert caught.value.code == 2
    assert "--sede" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "found", "expected"),
    [
        ("--seed", "0,1", "a whole number"),
        ("--seed", "1.0", "a whole number"),
        ("--train-images", "many", "a whole number or none"),
        ("--joint-stage.ramp", "half", "a number"),
        ("--joint-stage.initial-cross-probability", "half", "a number or none"),
        ("--joint-stage.classifier.milestones", "1,2", "a whole number"),
    ],
)
def test_a_word_that_is_no_number_is_refused(
    option: str, found: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--dataset", "digits", option, found, "--output", str(tmp_path / "run")])
    assert caught.value.code == 2
    # The box around the message may break it into lines.
    assert f"expected {expected}; found '{found}'" in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("sweep", "--seed 0 --seed 1"),
        ("sweep", "--set a=1 --set=b=2"),
        ("reproduce", "--seeds 0 --seeds 1"),
        ("train", "--joint-stage.classifier.milestones 1 --joint-stage.classifier.milestones 2"),
    ],
)
def test_an_option_with_several_values_stands_once(
    command: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *option.split(), "--dataset", "digits", "--output", str(tmp_path / "out")]) == 2
    name = option.split()[0]
    assert capsys.readouterr().err == (
        f"inputaware: {name[2:].replace('-', '_')}: expected one {name} with all its values "
        f"behind it; found 2; write {name} VALUE VALUE ...\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "poison"])
def test_an_existing_output_is_left_alone(
    command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "mine"
    output.mkdir()
    (output / "thesis.txt").write_text("precious")
    source = tmp_path / "image.png"
    Image.new("L", (28, 28)).save(source)
    given = {"train": ["train", *TINY], "poison": ["poison", str(run), "--input", str(source)]}[command]
    capsys.readouterr()
    assert main([*given, "--output", str(output)]) == 2
    assert capsys.readouterr().err == (
        f"inputaware: output: expected a folder that does not exist yet; found '{output}'; "
        "choose another one, or remove it first\n"
    )
    assert [path.name for path in output.iterdir()] == ["thesis.txt"]


def test_an_unfinished_run_is_to_be_gone_on_with(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = Path(shutil.copytree(run, tmp_path / "be gun"))
    (begun / "evaluation.json").unlink()
    capsys.readouterr()
    assert main(["train", *TINY, "--output", str(begun)]) == 2
    assert capsys.readouterr().err == (
        f"inputaware: output: expected a folder that does not exist yet; found the unfinished run '{begun}'; go on "
        f"with it (inputaware train --resume --output '{begun}'), or choose another one\n"
    )
    (begun / "config.json").write_text('{"model": "of somebody else"}')
    assert main(["train", *TINY, "--output", str(begun)]) == 2
    assert "the unfinished run" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "none left"),
        (
            RuntimeError("[fail] DefaultCPUAllocator: can't allocate memory: 9 bytes\nand where"),
            "[fail] DefaultCPUAllocator: can't",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), "CUDA out of memory. Tried to"),
    ],
    ids=["python", "processor", "gpu"],
)
def test_memory_that_does_not_suffice_is_explained(
    error: Exception, words: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Run, "evaluate", mock.Mock(side_effect=error))
    assert main(["evaluate", str(run)]) == 1
    found = capsys.readouterr().err
    assert found.startswith(f"inputaware: memory: expected enough for this; found: {words}")
    assert found.endswith("; free memory, or use a machine that has more\n")
    assert "and where" not in found


def test_training_that_does_not_fit_into_memory_is_told_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("inputaware.api.train", mock.Mock(side_effect=MemoryError("4 TiB")))
    assert main(["train", *TINY, "--output", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().err == (
        "inputaware: memory: expected enough for this; found: 4 TiB; free memory, or use a machine that has more, or "
        "train anew with smaller batches or a narrower network (--model.width)\n"
    )


def test_another_error_of_torchs_is_not_explained(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "evaluate", mock.Mock(side_effect=RuntimeError("nothing to allocate")))
    with pytest.raises(RuntimeError, match="nothing to allocate"):
        main(["evaluate", str(run)])


def test_an_output_beneath_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    output = tmp_path / "file/run"
    assert main(["train", *TINY, "--output", str(output)]) == 2
    assert capsys.readouterr().err == (
        f"inputaware: output: expected a path beneath a folder; found '{output}' beneath the file '{tmp_path}/file'; "
        "choose another one\n"
    )


def test_a_corrupt_image_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "broken.png"
    source.write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    capsys.readouterr()
    assert main(["poison", str(run), "--input", str(source), "--output", str(tmp_path / "out")]) == 2
    assert str(source) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_of_another_data_set_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for path in run.glob("*.*"):
        (mixed / path.name).write_bytes(path.read_bytes())
    config = read_json(mixed / "config.json")
    config["dataset"] = config["data"]["name"] = "mnist"
    write_json(mixed / "config.json", config)
    capsys.readouterr()
    assert main(["evaluate", str(mixed)]) == 2
    assert capsys.readouterr().err == (
        f"inputaware: {mixed}/classifier.safetensors: expected a file with dataset 'mnist', as config.json says; "
        "found 'digits': it belongs to another run\n"
    )


def test_resuming_a_run_of_another_data_set_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(run)
    assert main(["train", "--resume", "--dataset=mnist", "--output", str(run)]) == 2
    assert capsys.readouterr().err == (
        f"inputaware: {run}: expected the configuration that the run was started with; "
        "found dataset: 'digits' there, 'mnist' here; leave these options out to go on, or train into another folder\n"
    )
    assert tree(run) == before


def _start(folder: Path, err: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    code = (
        "import signal, sys, inputaware.training.loop as loop; loop._SAVE_EVERY = 0.0\n"
        # A job that a shell starts in the background inherits that SIGINT is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from inputaware.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    slow = [*TINY, "--mask-stage.epochs=4", "--joint-stage.epochs=30"]
    command = [sys.executable, "-c", code, "train", *slow, "--output", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=err)


def _wait_for_rows(folder: Path, rows: int, process: subprocess.Popen[bytes]) -> None:
    journal = folder / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_text().count("\n") < rows:
        assert process.poll() is None, "training ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_how_to_go_on_with_several_processes(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").touch()
    output = ["--output", str(tmp_path / "run")]
    together = cli._how_to_go_on("train", ["--dataset", "digits", *output, "--devices", "2", "--device", "cpu"])
    assert together == f"; go on with: inputaware train --resume --devices 2 --device cpu --output {tmp_path}/run"
    assert cli._how_to_go_on("train", [*output, "--device", "cpu"]) == (
        f"; go on with: inputaware train --resume --output {tmp_path}/run"
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_its_code_and_says_how_to_go_on(number: signal.Signals, code: int, tmp_path: Path) -> None:
    process = _start(tmp_path / "run", subprocess.PIPE)
    _wait_for_rows(tmp_path / "run", 2, process)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.decode().splitlines()[-1] == (
        f"inputaware: stopped; go on with: inputaware train --resume --output {tmp_path}/run"
    )


@pytest.mark.parametrize(
    ("arguments", "function"),
    [
        (["train", *TINY], "inputaware.api.load_images"),
        (["report", "run"], "inputaware.report.write_report"),
    ],
)
def test_a_command_that_is_stopped_before_it_writes_says_so(
    arguments: list[str],
    function: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(function, stop)
    output = tmp_path / "output.html"
    assert main([*arguments, "--output", str(output)]) == 130
    assert capsys.readouterr().err == f"inputaware: stopped; nothing was written to {output}\n"
    assert list(tmp_path.iterdir()) == []
    output.touch()  # of an earlier one
    assert main(["report", "run", "--output", str(output)]) in (2, 130)
    assert "nothing was written" not in capsys.readouterr().err


def test_what_cannot_be_printed_ends_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inputaware.report.write_report", lambda *args, **options: None)
    arguments = ["report", "run", "--output", "\u00e9.html"]
    monkeypatch.setattr(sys, "stdout", None)
    assert main(arguments) == 0
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    assert main(arguments) == 0
    ascii_only.seek(0)
    assert ascii_only.read() == "Report: \\xe9.html\n"


@pytest.mark.parametrize("arguments", [["defend", "--help"], ["benchmark", "--help"]])
def test_a_reader_who_leaves_is_no_error(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "inputaware", *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(60) in (0, 141)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
@pytest.mark.parametrize(
    ("arguments", "unbuffered"), [(["--help"], ""), (["defend", "--help"], ""), (["defend", "--help"], "1")]
)
def test_an_answer_that_cannot_be_written_is_an_error(arguments: list[str], unbuffered: str) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        found = subprocess.run(
            [sys.executable, "-m", "inputaware", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert found.returncode == 1
    assert found.stderr == (
        "inputaware: stdout: expected to write the answer; found: No space left on device; free space, or write it "
        "elsewhere\n"
    )
