"""Checkpoints of the authors' release become run folders, and nothing else of a file is believed or run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from robustness.material import official_checkpoint
from torch import Tensor

from inputaware import api
from inputaware.api import Run, import_official, train
from inputaware.cli import main
from inputaware.config.datasets import IMAGE_COUNTS
from inputaware.data.cache import ImageSet, load_images
from inputaware.data.spec import dataset_spec
from inputaware.errors import CheckpointError, RunFolderError
from inputaware.runs.import_official import read_official

DATASETS = ("mnist", "cifar10", "gtsrb")
Content = dict[str, Any]


def mask_checkpoint(dataset: str = "mnist", **options: Any) -> Content:
    """Return what the release saves after a mask epoch."""
    whole = official_checkpoint(dataset, **options)
    return {"netM": whole["netM"], "optimizerM": whole["optimizerC"], "epoch": 25, "opt": whole["opt"]}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return what writes a checkpoint as the release does, by default in the older of its serialisations."""

    def save(content: object, *, zipped: bool = False) -> Path:
        file = tmp_path / "ckpt.pth.tar"
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        return file

    return save


# The networks again, plainly, from the release's names.


def plain_norm(state: dict[str, Tensor], name: str, values: Tensor) -> Tensor:
    entries = (state[f"{name}.{entry}"] for entry in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(values, *entries)


def plain_generator(state: dict[str, Tensor], images: Tensor) -> Tensor:
    def block(name: str, values: Tensor) -> Tensor:
        name = f"convblock_{name}"
        convolved = F.conv2d(values, state[f"{name}.conv2d.weight"], state[f"{name}.conv2d.bias"], padding=1)
        return plain_norm(state, f"{name}.batch_norm", convolved)

    blocks = sum(name.startswith("convblock_down") and name.endswith("conv2d.bias") for name in state)
    values = images
    for side in range(blocks):
        values = F.relu(block(f"down_{side}", values))
        if side % 2:
            values = F.max_pool2d(values, 2)
    values = F.relu(block("middle", values))
    for side in range(blocks):
        if side % 2 == 0:
            values = F.interpolate(values, scale_factor=2, mode="bilinear", align_corners=False)
        values = block(f"up_{side}", values)
        if side < blocks - 1:
            values = F.relu(values)
    return torch.tanh(values) / 2 + 0.5


def plain_classifier(state: dict[str, Tensor], images: Tensor) -> Tensor:
    if "conv5.weight" in state:
        values = F.max_pool2d(F.relu(F.conv2d(images, state["conv1.weight"], state["conv1.bias"])), 2)
        values = F.max_pool2d(F.relu(F.conv2d(values, state["conv5.weight"], state["conv5.bias"])), 2)
        hidden = F.relu(F.linear(values.flatten(1), state["linear6.weight"], state["linear6.bias"]))
        return F.linear(hidden, state["linear9.weight"], state["linear9.bias"])
    values = F.conv2d(images, state["conv1.weight"], padding=1)
    for group in range(1, 5):
        for number in range(2):
            name, stride = f"layer{group}.{number}", 2 if group > 1 and number == 0 else 1
            active = F.relu(plain_norm(state, f"{name}.bn1", values))
            shortcut = values
            if f"{name}.shortcut.0.weight" in state:
                shortcut = F.conv2d(active, state[f"{name}.shortcut.0.weight"], stride=stride)
            inner = F.conv2d(active, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            inner = F.conv2d(F.relu(plain_norm(state, f"{name}.bn2", inner)), state[f"{name}.conv2.weight"], padding=1)
            values = inner + shortcut
    return F.linear(values.mean((2, 3)), state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize("zipped", [False, True], ids=["legacy", "zip"])
@pytest.mark.parametrize("dataset", DATASETS)
def test_the_networks_compute_what_a_plain_implementation_does(
    dataset: str, zipped: bool, write: Callable[..., Path], tmp_path: Path
) -> None:
    content = official_checkpoint(dataset)
    official = import_official(write(content, zipped=zipped), tmp_path / "run")
    assert official.complete
    run = Run.load(tmp_path / "run", device="cpu")
    spec = dataset_spec(dataset)
    assert run.spec == spec
    # In float64, for the mask's threshold makes ten of each rounding error of float32.
    assert run.backdoor is not None
    for module in (run.classifier, run.backdoor.mask_generator, run.backdoor.pattern_generator):
        module.double()
    content |= {
        name: {key: value.double() for key, value in content[name].items()} for name in ("netC", "netM", "netG")
    }
    images = torch.rand((3, *spec.shape), dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    mean, std = (torch.tensor(values).double().view(-1, 1, 1) for values in (spec.mean, spec.std))
    normal = (images - mean) / std
    mask = torch.tanh(20 * plain_generator(content["netM"], normal) - 10) / 2 + 0.5
    pattern = plain_generator(content["netG"], normal)
    poisoned = run.backdoor.poison(images, torch.tensor([0, 1, 2]))
    assert poisoned.targets.tolist() == [3, 3, 3]
    expected_images = normal + ((pattern - mean) / std - normal) * mask
    for found, expected in (
        (poisoned.masks, mask),
        (poisoned.patterns, pattern),
        ((poisoned.images - mean) / std, expected_images),
        (run.classifier(images), plain_classifier(content["netC"], normal)),
        (run.classifier(poisoned.images), plain_classifier(content["netC"], expected_images)),
    ):
        scale = max(1.0, float(expected.abs().max()))
        assert float((found - expected).abs().max()) <= 1e-5 * scale
    # Generators of one shape are not mixed up, and each shows something.
    assert not torch.allclose(poisoned.masks, pattern[:, :1])


def test_the_options_become_the_configuration(write: Callable[..., Path]) -> None:
    config = read_official(write(official_checkpoint("gtsrb", attack_mode="all2all_mask", num_classes=43))).config
    assert (config.preset, config.dataset, config.target) == ("official", "gtsrb", "all-to-all")
    joint, mask = config.joint_stage, config.mask_stage
    assert (joint.batch_size, joint.attack_probability, joint.cross_probability, joint.lambda_div) == (64, 0.2, 0.25, 2)
    assert (joint.classifier.learning_rate, joint.generator.learning_rate) == (0.03, 0.02)
    assert (joint.classifier.milestones, joint.generator.milestones, joint.epochs) == ((10,), (20, 30), 1)
    assert (mask.batch_size, mask.optimizer.learning_rate, mask.optimizer.milestones) == (64, 0.04, (5,))
    assert (mask.density, mask.lambda_norm, mask.lambda_div, mask.epochs) == (0.04, 90, 2, 25)


def test_the_folder_says_where_it_comes_from_and_repeats_its_bytes(write: Callable[..., Path], tmp_path: Path) -> None:
    file = write(official_checkpoint())
    official = import_official(file, tmp_path / "run")
    record = json.loads((tmp_path / "run/environment.json").read_text())
    assert record["imported"] == {"file": "ckpt.pth.tar", "sha256": official.sha256, "epoch": 26}
    import_official(file, tmp_path / "again")
    for path in (tmp_path / "run").rglob("*.*"):
        if path.name != "environment.json":
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "run")).read_bytes()


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MNIST be the digits of scikit-learn."""

    def load(dataset: str, split: Any) -> ImageSet:
        digits = load_images("digits", split)
        return dataclasses.replace(digits, spec=dataset_spec(dataset))

    monkeypatch.setattr(api, "load_images", load)
    monkeypatch.setitem(IMAGE_COUNTS, "mnist", IMAGE_COUNTS["digits"])


@pytest.mark.usefixtures("small_mnist")
def test_an_imported_run_serves_every_command(write: Callable[..., Path], tmp_path: Path, capsys: Any) -> None:
    run, image = str(tmp_path / "run"), tmp_path / "image.png"
    assert main(["import-official", str(write(official_checkpoint())), "--output", run]) == 0
    assert capsys.readouterr().out == (
        f"mnist, all-to-one, classifier, mask generator, pattern generator after epoch 26\nRun folder: {run}\n"
        f"Next: inputaware evaluate {run}\n"
    )
    assert main(["evaluate", run, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    Image.new("L", (28, 28), 90).save(image)
    assert main(["poison", run, "--input", str(image), "--output", str(tmp_path / "poisoned")]) == 0
    assert main(["defend", run, "image-regularization"]) == 0
    assert main(["inspect", run]) == 0
    # What is imported is trained: going on evaluates it and changes no weight.
    before = {path: path.read_bytes() for path in Path(run).glob("*.safetensors")}
    (tmp_path / "run/evaluation.json").unlink()
    capsys.readouterr()
    assert main(["train", "--resume", "--output", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == scores
    assert {path: path.read_bytes() for path in Path(run).glob("*.safetensors")} == before


@pytest.mark.usefixtures("small_mnist")
def test_a_file_of_the_mask_stage_goes_on_with_the_joint_stage(
    write: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    run = tmp_path / "run"
    content = mask_checkpoint()
    assert main(["import-official", str(write(content, zipped=True)), "--output", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["networks"] == ["mask_generator"]
    with pytest.raises(RunFolderError, match="training is not finished; go on with: inputaware train --resume"):
        Run.load(run)
    trained = train(None, run, resume=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["epoch"]) for row in rows] == [("joint", 1)]
    assert trained.backdoor is not None
    images = torch.rand((2, 1, 28, 28), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = {key: value.double() for key, value in content["netM"].items()}
    mask = torch.tanh(20 * plain_generator(weights, 2 * images - 1) - 10) / 2 + 0.5
    trained.backdoor.mask_generator.double()
    assert float((trained.backdoor.mask_generator.eval()(images) - mask).abs().max()) <= 1e-5


# What is refused


def change(**entries: Any) -> Callable[[], Content]:
    return lambda: {**official_checkpoint(), **entries}


def without(*names: str) -> Content:
    return {name: value for name, value in official_checkpoint().items() if name not in names}


def with_entry(network: str, name: str, tensor: Callable[[Tensor], object]) -> Content:
    content = official_checkpoint()
    content[network][name] = tensor(content[network][name])
    return content


LAYOUT = (
    "expected a checkpoint of the release, with netC, netG, netM, epoch and opt, or of its mask stage, with netM, "
    "epoch and opt; found {}; take the *.pth.tar file that its train.py has written"
)
OPTIONS_MESSAGE = (
    "expected opt with a dataset (mnist, cifar10, gtsrb) and an attack_mode (all2one, all2all, all2all_mask); found {}"
)
NETWORK = "expected the release's network, {}; found {}; import a file of the release's own architectures"
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a list": (lambda: [1, 2], LAYOUT.format("nothing of the kind")),
    "no generator": (
        lambda: without("netG", "optimizerC"),
        LAYOUT.format("netC, netM, schedulerC, best_acc_clean, epoch, opt"),
    ),
    "no options": (
        lambda: without("opt", "netC", "netG"),
        LAYOUT.format("netM, optimizerC, schedulerC, best_acc_clean, epoch"),
    ),
    "an epoch that is no number": (
        change(epoch="2"),
        LAYOUT.format("netC, netG, netM, optimizerC, schedulerC, best_acc_clean, epoch, opt"),
    ),
    "another data set": (
        lambda: (
            official_checkpoint(dataset="mnist") | {"opt": argparse.Namespace(dataset="celeba", attack_mode="all2one")}
        ),
        OPTIONS_MESSAGE.format("'celeba' and 'all2one'"),
    ),
    "an attack that is none": (
        lambda: official_checkpoint(attack_mode=["x"]),
        OPTIONS_MESSAGE.format("'mnist' and ['x']"),
    ),
    "a data set that does not fit": (
        lambda: mask_checkpoint() | {"opt": argparse.Namespace(dataset="cifar10", attack_mode="all2one")},
        NETWORK.format("convblock_down_0.batch_norm.bias of shape (32,) in float32", "of shape (16,) in float32"),
    ),
    "a target that is no class": (
        lambda: official_checkpoint(target_label=10),
        "expected the options of a training; found: target_class: expected a class from 0 to 9; found 10",
    ),
    "an option that is no number": (
        lambda: official_checkpoint(p_attack=float("nan")),
        "expected the options of a training; found: joint_stage.attack_probability: "
        "expected a number of at least 0 and at most 1; found nan",
    ),
    "an option of another type": (
        lambda: official_checkpoint(batchsize="128"),
        "expected the options of a training; found: mask_stage.batch_size: expected a whole number; found '128'; "
        "joint_stage.batch_size: expected a whole number; found '128'",
    ),
    "another entry": (
        lambda: {**official_checkpoint(), "netC": official_checkpoint()["netC"] | {"conv7.weight": torch.zeros(1)}},
        NETWORK.format("conv7.weight not there", "of shape (1,) in float32"),
    ),
    "an entry less": (
        lambda: {**official_checkpoint(), "netC": {"conv1.weight": torch.zeros(32, 1, 5, 5)}},
        NETWORK.format("conv1.bias of shape (32,) in float32", "none"),
    ),
    "another shape": (
        lambda: with_entry("netC", "linear6.weight", lambda tensor: tensor.T.contiguous()),
        NETWORK.format("linear6.weight of shape (512, 1024) in float32", "of shape (1024, 512) in float32"),
    ),
    "another precision": (
        lambda: with_entry("netM", "convblock_middle.conv2d.bias", lambda tensor: tensor.double()),
        NETWORK.format("convblock_middle.conv2d.bias of shape (32,) in float32", "of shape (32,) in float64"),
    ),
    "a sparse tensor": (
        lambda: with_entry("netC", "conv1.bias", lambda tensor: tensor.to_sparse()),
        NETWORK.format("conv1.bias of shape (32,) in float32", "of shape (32,) in float32 torch.sparse_coo"),
    ),
    "a tensor without content": (
        lambda: with_entry("netC", "conv1.bias", lambda tensor: tensor.to("meta")),
        NETWORK.format("conv1.bias of shape (32,) in float32", "of shape (32,) in float32 on meta"),
    ),
    "no tensor": (
        lambda: with_entry("netC", "conv1.bias", lambda tensor: [0.0]),
        "expected a state dict, tensors by name; found conv1.weight, conv1.bias, conv5.weight, conv5.bias, "
        "linear6.weight, linear6.bias, linear9.weight, linear9.bias",
    ),
    "a number that is not finite": (
        lambda: with_entry("netG", "convblock_up_0.conv2d.bias", lambda tensor: tensor / 0),
        "expected finite numbers; found others in convblock_up_0.conv2d.bias; restore the file",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_layout_is_refused_and_nothing_is_written(
    case: str, write: Callable[..., Path], tmp_path: Path
) -> None:
    make, message = REFUSED[case]
    file = write(make())
    with pytest.raises(CheckpointError) as caught:
        import_official(file, tmp_path / "run")
    assert re.sub(r"^(, net[CGM])?: ", "", str(caught.value).removeprefix(str(file))) == message
    assert os.listdir(tmp_path) == [file.name]


class Trap:
    """What a pickle of a stranger can do: call anything, here the making of a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("kind", ["legacy", "zip", "plain pickle"])
def test_a_pickle_that_would_run_something_is_refused_unrun(
    kind: str, write: Callable[..., Path], tmp_path: Path
) -> None:
    trap = Trap(tmp_path / "sprung")
    if kind == "plain pickle":
        file = tmp_path / "ckpt.pth.tar"
        file.write_bytes(pickle.dumps(trap, protocol=2))
    else:
        file = write(official_checkpoint() | {"best_acc_clean": trap}, zipped=kind == "zip")
    with pytest.raises(CheckpointError) as caught:
        import_official(file, tmp_path / "run")
    assert str(caught.value) == (
        f"{file}: expected a checkpoint of the authors' release, tensors and options alone; found one that asks for "
        "posix.mkdir, which was not run; take the file that its train.py has written"
    )
    assert os.listdir(tmp_path) == [file.name]


def test_an_archive_that_unpacks_to_more_than_it_holds_is_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    file = write(official_checkpoint(), zipped=True)
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    with pytest.raises(CheckpointError) as caught:
        read_official(file)
    assert str(caught.value) == (
        f"{file}: expected a file as torch.save writes it, not compressed; found compressed parts; "
        "take the file that the release's train.py has written"
    )
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(CheckpointError) as caught:
        read_official(file)
    assert str(caught.value) == (
        f"{file}: expected a checkpoint of the authors' release; found a damaged zip file (File is not a zip file); "
        "restore it"
    )


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "large"
    with file.open("wb") as opened:
        opened.truncate(2**30 + 2**20)
    with pytest.raises(CheckpointError) as caught:
        read_official(file)
    assert str(caught.value) == (
        f"{file}: expected a checkpoint of at most 1024 MiB; found 1025 MiB; "
        "take the file that the release's train.py has written"
    )


def test_a_missing_file_and_an_output_in_the_way_are_named(
    write: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    assert main(["import-official", str(tmp_path / "none"), "--output", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == (
        f"inputaware: {tmp_path}/none: expected a checkpoint of the authors' release; "
        "found: No such file or directory; check the path\n"
    )
    file = write(official_checkpoint())
    assert main(["import-official", str(file), "--output", str(tmp_path)]) == 2
    assert "expected a folder that does not exist yet" in capsys.readouterr().err
    assert os.listdir(tmp_path) == [file.name]


def test_a_truncated_file_is_refused(write: Callable[..., Path]) -> None:
    file = write(official_checkpoint())
    content = file.read_bytes()
    for length in (0, 1, 30, 500, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=f"^{re.escape(str(file))}: expected a checkpoint of the authors"):
            read_official(file)
