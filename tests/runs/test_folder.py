"""A run folder gives back what was put in, takes nothing that belongs elsewhere, and has one writer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from inputaware.attacks.registry import build_attack
from inputaware.config.fields import AttackName, Config
from inputaware.config.presets import preset_config
from inputaware.config.record import config_to_dict, override
from inputaware.data.spec import DatasetSpec, dataset_spec
from inputaware.errors import RunFolderError
from inputaware.runs.checkpoint import load_tensors, save_tensors
from inputaware.runs.description import run_identity
from inputaware.runs.files import read_json, write_json
from inputaware.runs.folder import RunFolder

NETWORKS = {
    "input-aware": ["classifier", "mask_generator", "pattern_generator"],
    "badnets": ["classifier", "trigger"],
    "none": ["classifier"],
}
CPU = torch.device("cpu")
each_attack = pytest.mark.parametrize("attack", sorted(NETWORKS))

MakeConfig = Callable[[AttackName], Config]
MakeRun = Callable[..., RunFolder]


@pytest.fixture
def make_run(tmp_path: Path, make_config: MakeConfig, spec: DatasetSpec) -> MakeRun:
    """Return what makes the folder of a trained run."""

    def make(attack: AttackName = "input-aware", name: str = "run", **changes: Any) -> RunFolder:
        config = override(make_config(attack), changes)
        folder = RunFolder.create(tmp_path / name, config, spec)
        folder.save_modules(build_attack(config, spec), config, spec)
        return folder

    return make


# Making and reading


def test_what_a_part_cost_is_a_row(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.note_time("mask", 1.23456, CPU, epoch=2, images_per_second=99.96)
    folder.note_time("evaluation", 2.0, CPU)
    rows = folder.timing.rows()
    assert all(row.pop("peak_memory_mib") > 0 for row in rows)
    assert rows == [
        {"part": "mask", "epoch": 2, "seconds": 1.2346, "images_per_second": 100.0},
        {"part": "evaluation", "epoch": None, "seconds": 2, "images_per_second": None},
    ]


def test_configuration_and_data_set_come_back(tmp_path: Path, make_config: MakeConfig, spec: DatasetSpec) -> None:
    config = make_config("badnets")
    folder = RunFolder.create(tmp_path / "a" / "b", config, spec)
    assert folder.config() == config
    assert folder.spec() == spec
    assert str(folder) == str(tmp_path / "a" / "b")
    assert not folder.finished
    folder.evaluation.write_text("{}")
    assert folder.finished
    assert sorted(os.listdir(folder.path)) == ["checkpoint", "config.json", "evaluation.json"]


@each_attack
def test_networks_come_back_bit_for_bit(make_run: MakeRun, attack: AttackName) -> None:
    folder = make_run(attack)
    before = torch.get_rng_state()
    loaded, config, spec = folder.load_attack(CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert (config, spec) == (folder.config(), folder.spec())
    assert list(loaded.modules) == NETWORKS[attack]
    for name, module in loaded.modules.items():
        stored, _ = load_tensors(folder.path / f"{name}.safetensors")
        state = module.state_dict()
        assert stored.keys() == state.keys()
        assert all(torch.equal(stored[key], state[key]) for key in stored)
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


@each_attack
def test_every_file_says_whether_the_model_is_backdoored(make_run: MakeRun, attack: AttackName) -> None:
    folder = make_run(attack)
    assert sorted(path.stem for path in folder.path.glob("*.safetensors")) == NETWORKS[attack]
    architectures = {"classifier": "mnist-cnn", "trigger": "patch"}
    for name in NETWORKS[attack]:
        with safe_open(folder.path / f"{name}.safetensors", framework="pt") as file:
            metadata = dict(file.metadata())
        del metadata["sha256"]
        assert metadata == {
            "network": name,
            "architecture": architectures.get(name, "encoder-decoder"),
            "dataset": "digits",
            "attack": attack,
            "backdoored": "false" if attack == "none" else "true",
            "run": folder.identity(),
        }


def test_no_half_of_a_folder_stays_behind(
    tmp_path: Path, make_config: MakeConfig, spec: DatasetSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, config: Config, spec: DatasetSpec, digests: dict[str, str]) -> None:
        raise RunFolderError("the disk is full")

    monkeypatch.setattr("inputaware.runs.folder.write_description", full)
    with pytest.raises(RunFolderError, match="the disk is full"):
        RunFolder.create(tmp_path / "run", make_config("none"), spec)
    assert os.listdir(tmp_path) == []


# Folders that are none


@pytest.mark.parametrize(("made", "found"), [(False, "found no such folder"), (True, "found none in this folder")])
def test_a_folder_without_configuration_is_refused(tmp_path: Path, made: bool, found: str) -> None:
    folder = RunFolder(tmp_path / "run")
    if made:
        folder.path.mkdir()
    with pytest.raises(RunFolderError) as caught:
        folder.config()
    assert str(caught.value) == (
        f"{folder}: expected a run folder with a config.json, as inputaware train makes it; {found}"
    )


def test_the_folder_of_a_sweep_says_where_its_runs_are(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(RunFolderError) as caught:
        RunFolder(tmp_path).config()
    assert str(caught.value).endswith(f"found none in this folder; those of a sweep are in {tmp_path}/runs")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda record: record.pop("data"), "found no entry 'data'"),
        (lambda record: record["data"].pop("mean"), "found no entry 'mean'"),
        (
            lambda record: record["data"].update(shape=[28, 28]),
            "found: not enough values to unpack (expected 3, got 2)",
        ),
        (lambda record: record["data"].update(digests=5), "found: 'int' object is not iterable"),
        (lambda record: record.update(seed="x"), "found: seed: expected a whole number; found 'x'"),
        (lambda record: record.pop("dataset"), "found: dataset: expected a value; found none"),
    ],
)
def test_a_corrupt_configuration_is_refused(
    make_run: MakeRun, change: Callable[[dict[str, Any]], object], found: str
) -> None:
    folder = make_run("none")
    file = folder.path / "config.json"
    record = read_json(file)
    change(record)
    write_json(file, record)
    with pytest.raises(RunFolderError) as caught:
        folder.spec()
    assert str(caught.value) == f"{file}: expected the configuration of a run; {found}"


# Files that belong elsewhere


def test_a_run_without_networks_is_told_how_to_go_on(
    tmp_path: Path, make_config: MakeConfig, spec: DatasetSpec
) -> None:
    folder = RunFolder.create(tmp_path / "my run", make_config("none"), spec)
    with pytest.raises(RunFolderError) as caught:
        folder.load_attack(CPU)
    assert str(caught.value) == (
        f"{folder}/classifier.safetensors: expected a trained network; found none: training is not finished; "
        f"go on with: inputaware train --resume --output '{folder}'"
    )


@pytest.mark.parametrize("name", ["classifier", "mask_generator", "pattern_generator"])
def test_a_finished_run_that_lost_a_network_is_not_sent_to_go_on(make_run: MakeRun, name: str) -> None:
    folder = make_run()
    write_json(folder.evaluation, {})
    file = folder.path / f"{name}.safetensors"
    file.unlink()
    with pytest.raises(RunFolderError) as caught:
        folder.load_attack(CPU)
    assert str(caught.value) == (
        f"{file}: expected a network of a finished run; found none; "
        "restore the file from a copy, or train again into another folder"
    )


def belongs_elsewhere(path: Path, key: str, expected: str, found: str) -> str:
    return (
        f"{path}: expected a file with {key} {expected!r}, as config.json says; "
        f"found {found!r}: it belongs to another run"
    )


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("classifier", "mask_generator"),
        ("mask_generator", "pattern_generator"),
        ("pattern_generator", "mask_generator"),
        ("pattern_generator", "classifier"),
    ],
)
def test_swapped_networks_are_refused(make_run: MakeRun, place: str, source: str) -> None:
    folder = make_run()
    path = folder.path / f"{place}.safetensors"
    shutil.copy(folder.path / f"{source}.safetensors", path)
    with pytest.raises(RunFolderError) as caught:
        folder.load_attack(CPU)
    assert str(caught.value) == belongs_elsewhere(path, "network", place, source)


def test_the_classifier_of_another_attack_is_refused(make_run: MakeRun) -> None:
    folder, other = make_run("none"), make_run("badnets", "other")
    path = folder.path / "classifier.safetensors"
    shutil.copy(other.path / "classifier.safetensors", path)
    with pytest.raises(RunFolderError) as caught:
        folder.load_attack(CPU)
    assert str(caught.value) == belongs_elsewhere(path, "attack", "none", "badnets")


@pytest.mark.parametrize("key", ["dataset", "architecture", "backdoored"])
def test_a_file_of_another_kind_is_refused(make_run: MakeRun, key: str) -> None:
    folder = make_run("none")
    path = folder.path / "classifier.safetensors"
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, {**metadata, key: "other"})
    with pytest.raises(RunFolderError) as caught:
        folder.load_attack(CPU)
    assert str(caught.value) == belongs_elsewhere(path, key, metadata[key], "other")


def test_the_same_networks_of_another_data_set_are_refused(
    make_run: MakeRun, make_config: MakeConfig, spec: DatasetSpec, tmp_path: Path
) -> None:
    folder = make_run("none")
    config, other = make_config("none"), dataclasses.replace(spec, name="mnist")
    elsewhere = RunFolder.create(tmp_path / "mnist", config, other)
    elsewhere.save_modules(build_attack(config, other), config, other)
    path = folder.path / "classifier.safetensors"
    shutil.copy(elsewhere.path / "classifier.safetensors", path)
    with pytest.raises(RunFolderError) as caught:
        folder.load_attack(CPU)
    assert str(caught.value) == belongs_elsewhere(path, "dataset", "digits", "mnist")


@pytest.mark.parametrize("changes", [{"seed": 1}, {"model": {"hidden_units": 9}}, {"target_class": 2}])
def test_the_weights_of_another_run_are_refused(make_run: MakeRun, changes: dict[str, Any]) -> None:
    folder, other = make_run("none"), make_run("none", "other", **changes)
    path = folder.path / "classifier.safetensors"
    shutil.copy(other.path / "classifier.safetensors", path)
    with pytest.raises(RunFolderError) as caught:
        folder.load_attack(CPU)
    assert str(caught.value) == belongs_elsewhere(path, "run", folder.identity(), other.identity())


@pytest.mark.parametrize("attack", ["input-aware", "badnets", "none"])
def test_a_run_from_before_there_was_a_choice_of_patches_keeps_its_identity(attack: AttackName) -> None:
    # As it was written then: of a field that there is now its record knows nothing.
    newer = ("patch", "counted_images", "hold_out")
    for dataset in ("digits", "cifar10"):
        spec = dataset_spec(dataset)
        config = preset_config("fast", dataset=dataset, attack=attack, patch="checkerboard")
        record = {name: value for name, value in config_to_dict(config).items() if name not in newer}
        described = {**dataclasses.asdict(spec), "shape": list(spec.shape)}
        whole = json.dumps({**record, "data": described}, sort_keys=True)
        assert run_identity(config, spec) == hashlib.sha256(whole.encode()).hexdigest()[:16]
        # What an attack does not read tells no runs apart; what it reads does.
        other = override(config, {"patch": "white"})
        assert (run_identity(other, spec) == run_identity(config, spec)) is (attack != "badnets")


def test_runs_of_one_configuration_have_one_identity(make_run: MakeRun, make_config: MakeConfig) -> None:
    first, second = make_run(), make_run(name="second")
    assert first.identity() == second.identity() == run_identity(make_config("input-aware"), first.spec())
    assert re.fullmatch("[0-9a-f]{16}", first.identity())


def test_networks_of_another_size_are_refused(make_run: MakeRun) -> None:
    folder = make_run("none")
    path = folder.path / "classifier.safetensors"
    tensors, metadata = load_tensors(path)
    save_tensors(path, {**tensors, "hidden.bias": torch.zeros(9)}, metadata)
    with pytest.raises(RunFolderError) as caught:
        folder.load_attack(CPU)
    assert str(caught.value) == (
        f"{path}: expected hidden.bias of shape (8,) in float32; found (9,) in float32: "
        "the file does not fit config.json"
    )


def test_a_corrupt_network_is_named(make_run: MakeRun) -> None:
    folder = make_run("badnets")
    path = folder.path / "trigger.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunFolderError) as caught:
        folder.load_attack(CPU)
    assert str(caught.value) == (
        f"{path}: expected tensors and metadata with the digest that was recorded; found others: "
        "the file is corrupt or was changed; restore it or train again"
    )


# One writer


HOLD = """
import sys
from inputaware.runs.folder import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_folder_has_one_writer_and_a_kill_frees_it(
    tmp_path: Path, start_child: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = RunFolder(tmp_path)
    with start_child(HOLD, tmp_path) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        try:
            with pytest.raises(RunFolderError) as caught, folder.lock():
                pass
        finally:
            child.kill()
            child.wait()
    assert str(caught.value) == (
        f"{folder}: expected a run folder that no other process writes; found process {child.pid} at work; "
        "wait for it, or end it"
    )
    with folder.lock():
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
    assert os.listdir(tmp_path) == []


def test_the_lock_is_freed_by_an_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), folder.lock():
            raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_gone_cannot_be_locked(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "gone")
    with pytest.raises(RunFolderError) as caught, folder.lock():
        pass
    assert str(caught.value) == (
        f"{folder}: expected a run folder that can be written; found: No such file or directory; put it back"
    )


# New folders


def test_a_name_that_no_disk_takes_is_refused(tmp_path: Path, make_config: MakeConfig, spec: DatasetSpec) -> None:
    path = tmp_path / ("x" * 300)
    with pytest.raises(RunFolderError) as caught:
        RunFolder.create(path, make_config("none"), spec)
    assert str(caught.value) == (
        f"output: expected a name that the disk takes; found {str(path)!r}: File name too long; choose another one"
    )


UNWRITABLE = """
import os, sys
from pathlib import Path
from inputaware.errors import RunFolderError
from inputaware.runs.files import check_new_folder
from inputaware.runs.folder import RunFolder

os.chdir(sys.argv[1])
os.chmod("readable", 0o555)
os.chmod("closed", 0o000)
if os.getuid() == 0:
    os.setuid(65534)
for path in ("readable/run", "readable/a/run", "closed/a/run"):
    try:
        check_new_folder(Path(path))
    except RunFolderError as error:
        print(error)
try:
    with RunFolder("readable").lock():
        pass
except RunFolderError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions are POSIX's")
def test_a_folder_that_cannot_be_written_is_refused(start_child: Callable[..., subprocess.Popen[str]]) -> None:
    # Not in the tests' own folder, whose parents are closed to the child once it has given up its rights.
    with tempfile.TemporaryDirectory() as name:
        place = Path(name).resolve()
        place.chmod(0o755)
        for inner in ("readable", "closed"):
            (place / inner).mkdir()
        output, errors = start_child(UNWRITABLE, place).communicate()
        (place / "closed").chmod(0o755)
    assert errors == ""

    def message(parent: str) -> str:
        return (
            f"output: expected a folder that can be written; found '{place}/{parent}': Permission denied; "
            "choose another one"
        )

    assert output.splitlines() == [
        message("readable"),
        message("readable"),
        message("closed"),
        "readable: expected a run folder that can be written; found: Permission denied; make it writable, or work on "
        "a copy",
    ]
