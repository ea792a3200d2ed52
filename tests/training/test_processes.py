"""Several processes train as one does: the same steps, one evaluation of all images, one writer."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from inputaware.api import train
from inputaware.cli import main
from inputaware.config.presets import preset_config
from inputaware.data.spec import dataset_spec
from inputaware.errors import ConfigError, DeviceError
from inputaware.runs.checkpoint import load_checkpoint, load_tensors
from inputaware.runs.folder import RunFolder
from inputaware.runs.journal import Journal
from inputaware.training.processes import Processes, join_processes

STEPS = 20
CASES = [
    ("float64", "fast", "input-aware", "all-to-one"),
    ("float64", "official", "input-aware", "all-to-all"),
    ("float64", "fast", "badnets", "all-to-one"),
    ("float32", "fast", "input-aware", "all-to-one"),
]

# Steps of each stage, with batch-norm in evaluation mode: there a batch's images do not touch one another. Its
# statistics are taken beforehand, for without them triggers hardly differ, and their differences are mostly rounding.
# With SGD, for Adam divides a gradient by its own size: where it vanishes but for rounding, the rounding is the step.
PROGRAM = """
import sys
from pathlib import Path

import torch
from torch import nn

from inputaware.attacks.registry import build_attack
from inputaware.config.presets import preset_config
from inputaware.data.cache import load_images
from inputaware.data.loader import Loader, to_pixels
from inputaware.runs.checkpoint import save_tensors
from inputaware.training.processes import join_processes
from inputaware.training.step import TrainingStep, place_modules


def weights(attack):
    return {
        f"{name}/{key}": value.detach().clone()
        for name, module in attack.modules.items()
        for key, value in module.named_parameters()
    }


def train(output, steps, kind, preset, attack, target):
    kind = getattr(torch, kind)
    rates = {"mask": 2e-7, "classifier": 1e-3, "generator": 2e-5}
    sgd = {name: {"name": "sgd", "learning_rate": rate} for name, rate in rates.items()}
    config = preset_config(
        preset,
        dataset="digits",
        attack=attack,
        target=target,
        model={"dropout": 0.0, "hidden_units": 64},
        mask_stage={"optimizer": sgd["mask"]},
        joint_stage={"classifier": sgd["classifier"], "generator": sgd["generator"]},
    )
    torch.manual_seed(0)
    found = build_attack(config, data.spec)
    place_modules(found, cpu)
    norms = [part for module in found.modules.values() for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        for module in found.modules.values():
            module.to(kind).train()(to_pixels(data.images[:120]).to(kind))
    start = weights(found)
    generator = torch.Generator().manual_seed(0)
    for stage in found.stages():
        step = TrainingStep(stage, device=cpu, precision="32", processes=processes)
        step.train_mode()
        for norm in norms:
            norm.eval()
        loader = Loader(
            data.images,
            data.labels,
            batch_size=30,
            augmentation=config.augmentation,
            partners=config.partners if stage.paired else "derangement",
            generator=generator,
        )
        for number, batch in zip(range(steps), loader):
            batch.images = batch.images.to(kind)
            batch.partners = None if batch.partners is None else batch.partners.to(kind)
            step(batch, epoch=0, progress=number / steps)
    if processes.writes:
        found = weights(found)
        save_tensors(output, found | {f"change/{name}": value - start[name] for name, value in found.items()}, {})


folder, steps, *cases = sys.argv[1:]
cpu = torch.device("cpu")
torch.set_num_threads(1)
processes = join_processes("cpu")
data = load_images("digits", "train")
for number, case in enumerate(cases):
    train(Path(folder) / str(number), int(steps), *case.split())
processes.leave()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(count: int, *command: str) -> list[subprocess.Popen[str]]:
    """Start a command in processes that find each other, as torchrun does."""
    common = {**os.environ, "OMP_NUM_THREADS": "1"}
    if count == 1:
        environments = [common]
    else:
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"}
        common |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        environments = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [
        subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for environment in environments
    ]


def finish(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    results = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *result) for process, result in zip(processes, results, strict=True)]


def test_twenty_steps_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="Accelerate, of the extra 'cluster', is not installed")
    started = []
    for count in (1, 2):
        (tmp_path / str(count)).mkdir()
        arguments = [str(tmp_path / str(count)), str(STEPS), *map(" ".join, CASES)]
        started += start(count, "-c", PROGRAM, *arguments)
    assert [(code, err) for code, _, err in finish(started)] == [(0, "")] * 3
    norm = torch.linalg.vector_norm
    for number, case in enumerate(CASES):
        one, two = (load_tensors(tmp_path / str(count) / str(number))[0] for count in (1, 2))
        assert one.keys() == two.keys()
        if case[0] == "float64":
            # Each tensor, and what changed in it: most weights change little in so few steps.
            for name, tensor in one.items():
                assert norm(tensor) > 0, (case, name)
                assert norm(two[name] - tensor) <= 1e-9 * norm(tensor), (case, name)
        else:
            # Each network as a whole: biases that start at zero are as small as their rounding.
            for network in {name.partition("/")[0] for name in one} - {"change"}:
                first, second = (
                    torch.cat([found[name].flatten() for name in one if name.startswith(f"{network}/")])
                    for found in (one, two)
                )
                assert norm(second - first) <= 1e-5 * norm(first), (case, network)


def tiny(folder: Path, **options: Any) -> Path:
    """Write a configuration that trains in seconds, and return its file."""
    config = {
        "dataset": "digits",
        "device": "cpu",
        "precision": "32",
        "train_images": 120,
        "validation_images": 20,
        "model": {"hidden_units": 16},
        "mask_stage": {"epochs": 1, "batch_size": 40},
        "joint_stage": {"epochs": 3, "batch_size": 40},
        **options,
    }
    file = folder / "given.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    return file


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_run_of_two_processes_has_one_writer_and_is_evaluated_once(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="Accelerate, of the extra 'cluster', is not installed")
    command = ["-m", "inputaware", "train", "--config", str(tiny(tmp_path)), "--json"]
    ((code, out, err),) = finish(start(1, *command, "--output", str(tmp_path / "two"), "--devices", "2"))
    assert code == 0, err
    train(preset_config("fast", **json.loads((tmp_path / "given.json").read_text())), tmp_path / "one")
    assert names(tmp_path / "two") == names(tmp_path / "one")
    assert json.loads(out)["test_images"] == 360
    rows = Journal(tmp_path / "two" / "metrics.jsonl").rows()
    assert [(row["stage"], row["epoch"]) for row in rows] == [("mask", 1), ("joint", 1), ("joint", 2), ("joint", 3)]
    parts = [row["part"] for row in Journal(tmp_path / "two" / "timing.jsonl").rows()]
    assert parts == ["preparation", "mask", "joint", "joint", "joint", "evaluation"]
    environment = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert environment["processes"] == "2"
    assert "processes" not in json.loads((tmp_path / "one" / "environment.json").read_text())
    # The losses that are written are the whole batch's, as one process would write them but for batch-norm and dropout.
    alone = Journal(tmp_path / "one" / "metrics.jsonl").rows()
    for mine, theirs in zip(rows, alone, strict=True):
        assert mine["losses"]["total"] == pytest.approx(theirs["losses"]["total"], rel=0.25)
    # As many processes would end with the same bits; another number of them is another machine.
    first = (tmp_path / "two" / "classifier.safetensors").read_bytes()
    (tmp_path / "two" / "evaluation.json").unlink()
    again = ["-m", "inputaware", "train", "--resume", "--output", str(tmp_path / "two")]
    ((code, _, err),) = finish(start(1, *again))
    assert code == 2
    assert "found processes: 2 there, 1 here" in err
    ((code, _, err),) = finish(start(1, *again, "--devices", "2"))
    assert code == 0, err
    assert (tmp_path / "two" / "classifier.safetensors").read_bytes() == first


def test_a_mistake_ends_all_processes_with_its_code(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="Accelerate, of the extra 'cluster', is not installed")
    file = tiny(tmp_path, train_images=5000)
    command = ["-m", "inputaware", "train", "--config", str(file), "--output", str(tmp_path / "run"), "--devices", "2"]
    ((code, out, err),) = finish(start(1, *command))
    assert (code, out) == (2, "")
    assert "train_images: expected at most 1149, the images of the training split; found 5000" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("resumed", [False, True])
def test_too_many_processes_are_refused_before_they_are_started(
    resumed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("inputaware.training.processes.launch", lambda *_: pytest.fail("processes were started"))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    arguments = ["--config", str(tiny(tmp_path))]
    if resumed:
        RunFolder.create(tmp_path / "run", preset_config("fast", dataset="digits"), dataset_spec("digits"))
        arguments = ["--resume"]
    assert main(["train", *arguments, "--output", str(tmp_path / "run"), "--devices", "9999"]) == 2
    assert "expected at least one image of a batch for each of the 9999 processes" in capsys.readouterr().err


# Each child takes a while to save, as a step of training does.
LAUNCHED = """
import os, signal, sys, time
from pathlib import Path
from inputaware.training.interruption import DeferredSignals
from inputaware.training.processes import launch


def terminated(number, frame):
    time.sleep(0.2)  # so that what the parent passes on comes after the group's own signal
    sys.exit(143)


def work(folder):
    signal.signal(signal.SIGTERM, terminated)
    own = Path(folder) / os.environ["RANK"]
    with DeferredSignals() as signals:
        own.with_suffix(".begun").touch()
        while not signals.waiting:
            time.sleep(0.01)
        time.sleep(1)
        own.with_suffix(".saved").touch()
        signals.deliver()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, terminated)
    sys.exit(launch(2, work, sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("number", "group", "code"), [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143), (signal.SIGTERM, True, 143)]
)
def test_launched_processes_save_when_they_are_stopped(
    number: signal.Signals, group: bool, code: int, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(LAUNCHED, encoding="utf-8")
    # In a group of its own, for a terminal sends Ctrl-C to a whole group, and a scheduler SIGTERM.
    parent = subprocess.Popen(
        [sys.executable, str(program), str(tmp_path)], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    while len(list(tmp_path.glob("*.begun"))) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    if group:
        os.killpg(parent.pid, number)
    else:
        parent.send_signal(number)
    _, err = parent.communicate(timeout=300)
    assert (parent.returncode, err) == (code, "")
    assert {path.name for path in tmp_path.glob("*.saved")} == {"0.saved", "1.saved"}


UNEVEN = """
import os, signal, sys
from inputaware.cli import main
from inputaware.training.step import TrainingStep

whole = TrainingStep.__call__
steps = 0


def step(self, *arguments, **named):
    global steps
    loss = whole(self, *arguments, **named)
    steps += len(self.trained) > 1
    if os.environ["RANK"] == "1" and steps == 5:
        os.kill(os.getpid(), signal.SIGTERM)
    return loss


TrainingStep.__call__ = step

if __name__ == "__main__":
    before = dict(os.environ)
    code = main(["train", "--devices=2", *sys.argv[1:]])
    print(dict(os.environ) == before)
    sys.exit(code)
"""


def test_processes_stop_after_the_same_step_whose_state_is_saved(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="Accelerate, of the extra 'cluster', is not installed")
    program = tmp_path / "program.py"
    program.write_text(UNEVEN, encoding="utf-8")
    options = ["--config", str(tiny(tmp_path)), "--joint-stage.epochs=500", "--output", str(tmp_path / "run")]
    process = subprocess.run(
        [sys.executable, str(program), *options], capture_output=True, text=True, check=False, timeout=300
    )
    # The second process alone gets a signal, in the joint stage's fifth step.
    assert (process.returncode, process.stdout) == (143, "True\n"), process.stderr
    assert "go on with: inputaware train --resume" in process.stderr
    folder = RunFolder(tmp_path / "run")
    saved = load_checkpoint(folder.checkpoint)
    assert (saved.stage, saved.epoch, saved.steps, saved.rows) == (1, 1, 2, len(folder.metrics.rows()))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell children of a parent's death")
def test_launched_processes_save_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(LAUNCHED, encoding="utf-8")
    parent = subprocess.Popen([sys.executable, str(program), str(tmp_path)], stderr=subprocess.DEVNULL)
    while len(list(tmp_path.glob("*.begun"))) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.saved"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("options", "count", "message"),
    [
        (
            {"mask_stage": {"batch_size": 3}},
            4,
            "mask_stage.batch_size: expected at least one image of a batch for each of ",
        ),
        ({}, 7, "joint_stage.attack_probability: expected at least one image of a batch for each of the 7 processes; "),
        ({"attack": "none"}, 65, "joint_stage.batch_size: expected at least one image of a batch for each of the 65 "),
    ],
)
def test_more_processes_than_images_are_refused(
    options: dict[str, Any], count: int, message: str, tmp_path: Path
) -> None:
    config = preset_config("fast", dataset="digits", **options)
    with pytest.raises(ConfigError) as error:
        train(config, tmp_path / "run", processes=Processes(0, count))
    assert str(error.value).startswith(message)
    assert not (tmp_path / "run").exists()


def test_one_process_needs_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = join_processes("cpu")
    assert (alone.count, alone.writes) == (1, True)
    tensor = torch.ones(3)
    alone.add([tensor])
    alone.copy_from_first([tensor])
    alone.wait()
    alone.leave()
    assert torch.equal(tensor, torch.ones(3))
    assert alone.first("x") == "x"
    state = torch.get_rng_state()
    alone.draw_anew(1, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert alone.device(torch.device("cuda")) == torch.device("cuda")
    assert Processes(1, 2, 1).device(torch.device("cuda")) == torch.device("cuda", 1)


def test_a_named_gpu_is_refused_with_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate", reason="Accelerate, of the extra 'cluster', is not installed")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DeviceError) as error:
        join_processes("cuda:1")
    assert str(error.value) == (
        "device: expected auto, cpu or cuda with several processes, for each takes its own GPU; found 'cuda:1'"
    )


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate", reason="Accelerate, of the extra 'cluster', is not installed")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(DeviceError) as error:
        join_processes("auto")
    assert str(error.value) == (
        "devices: expected at most 2, the GPUs of this machine; found 3 processes; take fewer, or --device cpu"
    )


def test_without_accelerate_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ConfigError) as error:
        join_processes("cpu")
    assert str(error.value) == (
        "devices: expected Accelerate, of the extra 'cluster'; found none; "
        "in the checkout: pip install -c constraints.txt -e '.[cluster]'"
    )


def test_batch_norm_is_synchronised_on_gpus_only() -> None:
    for device, expected in (("cpu", torch.nn.BatchNorm2d), ("cuda", torch.nn.SyncBatchNorm)):
        network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
        Processes(0, 2).prepare(network, torch.device(device))
        assert type(network[1]) is expected


def test_each_process_draws_its_own_dropout() -> None:
    draws = []
    for rank in (1, 2, 1):
        with torch.random.fork_rng(devices=[]):
            Processes(rank, 3).draw_anew(0, 1, 2)
            draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])
