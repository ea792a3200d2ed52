"""The training loop: repeats bit for bit, goes on bit for bit, and stops at a loss that is not finite."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from inputaware.api import train
from inputaware.attacks.base import StepLoss
from inputaware.attacks.registry import build_attack
from inputaware.config.fields import Config
from inputaware.config.presets import preset_config
from inputaware.data.cache import load_images
from inputaware.errors import ConfigError, RunFolderError, TrainingError
from inputaware.runs import environment
from inputaware.runs.checkpoint import load_checkpoint
from inputaware.runs.files import read_json
from inputaware.runs.folder import RunFolder
from inputaware.runs.journal import Journal
from inputaware.training import loop
from inputaware.training.loop import EpochReport, Listener, Trainer
from inputaware.training.processes import Processes
from inputaware.training.step import TrainingStep
from inputaware.training.watch import LossWatch

VARYING = {"environment.json", "timing.jsonl"}


def tiny(**options: Any) -> Config:
    """Return a configuration that trains in a second or two."""
    changes: dict[str, Any] = {
        "device": "cpu",
        "train_images": 100,
        "validation_images": 20,
        "mask_stage": {"epochs": 2, "batch_size": 30},
        "joint_stage": {"epochs": 3, "batch_size": 30},
        "model": {"hidden_units": 32},
    }
    preset = options.pop("preset", "fast")
    for key, value in options.items():
        changes[key] = changes[key] | value if isinstance(value, dict) else value
    return preset_config(preset, dataset="digits", **changes)


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files but the ones that hold times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in VARYING
    }


class StopAfter:
    """A listener that ends the training as a kill would, after some epochs."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs
        self.steps = 0

    def stage_started(self, stage: str, epochs: int, steps: int, done: int) -> None:
        self.steps = steps

    def stepped(self, steps: int, losses: dict[str, float]) -> None:
        if self.left == 0:
            raise KeyboardInterrupt

    def epoch_finished(self, report: EpochReport) -> None:
        self.left -= 1


class Signalled(StopAfter):
    """A listener that sends a signal after the first step."""

    def stepped(self, steps: int, losses: dict[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGINT)


class Drawing(StopAfter):
    """A listener that keeps what would be drawn next after each step."""

    def __init__(self, epochs: int) -> None:
        super().__init__(epochs)
        self.draws: list[float] = []

    def stepped(self, steps: int, losses: dict[str, float]) -> None:
        if losses:
            with torch.random.fork_rng(devices=[]):
                self.draws.append(float(torch.rand(())))
        super().stepped(steps, losses)


class Clock(StopAfter):
    """A listener that spends a minute on each step, and ends the training after the third."""

    def __init__(self) -> None:
        super().__init__(0)
        self.seconds = 0.0
        self.last = 3

    def stepped(self, steps: int, losses: dict[str, float]) -> None:
        self.seconds += 60 * bool(losses)
        self.last -= bool(losses)
        if not self.last:
            raise KeyboardInterrupt


class Late(LossWatch):
    """Answers as on a GPU, one look late, without one."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.kept: tuple[int, dict[str, float]] | None = None

    def look(self, steps: int, losses: dict[str, torch.Tensor], *, now: bool) -> tuple[int, dict[str, float]] | None:
        found = super().look(steps, losses, now=True)
        before, self.kept = self.kept, None if now else found
        return found if now else before


class Hearing(StopAfter):
    """A listener that keeps what it hears of steps."""

    def __init__(self) -> None:
        super().__init__(99)
        self.heard: list[tuple[int, bool]] = []

    def stepped(self, steps: int, losses: dict[str, float]) -> None:
        self.heard.append((steps, bool(losses)))


class Another(Processes):
    """A process that is alone, but not the first one."""

    @property
    def writes(self) -> bool:
        return False


def trainer_of(processes: Processes, path: Path, listener: Listener) -> Trainer:
    """Return the trainer of one of the processes, and make the run folder where there is none."""
    config = tiny()
    data = load_images("digits", "train")
    torch.manual_seed(0)
    folder = RunFolder(path) if path.exists() else RunFolder.create(path, config, data.spec)
    return Trainer(
        attack=build_attack(config, data.spec),
        config=config,
        images=data.images[:100],
        labels=data.labels[:100],
        validate=dict,
        device=torch.device("cpu"),
        precision="32",
        fingerprint={},
        folder=folder,
        listener=listener,
        processes=processes,
    )


CASES: dict[str, dict[str, Any]] = {
    "fast": {"joint_stage": {"averaging": 0.9}},
    "official": {"preset": "official"},
    "paper": {"preset": "paper"},
    "all-to-all": {"target": "all-to-all"},
    "badnets": {"attack": "badnets"},
    "clean": {"attack": "none"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_run_ends_with_the_same_bits_as_one_that_was_never_stopped(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(**CASES[case])
    train(config, tmp_path / "whole")
    expected = files(tmp_path / "whole")
    assert "evaluation.json" in expected
    # Save every epoch or only at the end of a stage: neither may change a bit. Two epochs are the mask stage.
    stages = 2 if config.attack == "input-aware" else 0
    stops = [(0.0, stages + 1), (1e9, stages + 2)]
    if case == "fast":
        stops += [(0.0, 1), (0.0, 2)]
    for save_every, epochs in stops:
        monkeypatch.setattr(loop, "_SAVE_EVERY", save_every)
        # With a look at each step it is stopped, and goes on, after the first step of an epoch.
        monkeypatch.setattr(loop, "_LOOK_EVERY", 1 if save_every == 0 else 10)
        stopped = tmp_path / f"stopped-{save_every}-{epochs}"
        with pytest.raises(KeyboardInterrupt):
            train(config, stopped, listener=StopAfter(epochs))
        assert not (stopped / "evaluation.json").exists()
        train(None, stopped, resume=True)
        assert files(stopped) == expected


@pytest.mark.parametrize(("processes", "saves"), [(Processes(), True), (Another(), False)])
def test_the_first_process_alone_saves(
    processes: Processes, saves: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_SAVE_EVERY", 0.0)
    monkeypatch.setattr(loop, "_LOOK_EVERY", 1)
    trainer = trainer_of(processes, tmp_path / "run", StopAfter(99))
    assert trainer._is_save_due() is saves
    trainer.run()
    assert trainer.folder.checkpoint.exists() is saves
    # A signal ends each of them.
    monkeypatch.setattr(loop, "_SAVE_EVERY", 1e9)
    trainer = trainer_of(processes, tmp_path / "stopped", Signalled(99))
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert trainer.folder.checkpoint.exists() is saves


def test_another_process_draws_the_same_in_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_SAVE_EVERY", 0.0)
    monkeypatch.setattr(loop, "_LOOK_EVERY", 1)
    stopped = trainer_of(Processes(), tmp_path / "run", StopAfter(2))
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    checkpoint = load_checkpoint(stopped.folder.checkpoint)
    assert (checkpoint.stage, checkpoint.epoch, checkpoint.steps) == (1, 0, 1)
    whole, resumed = Drawing(99), Drawing(99)
    trainer_of(Another(), tmp_path / "run", whole).run()
    trainer_of(Another(), tmp_path / "run", resumed).run(checkpoint)
    # Two epochs of three steps are the mask stage, and the checkpoint is of the next step.
    assert resumed.draws == whole.draws[7:]
    assert len(set(whole.draws)) == len(whole.draws)


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    first = train(tiny(attack="none", seed=0), tmp_path / "first")
    second = train(tiny(attack="none", seed=1), tmp_path / "second")
    assert not torch.equal(first.classifier.hidden.weight, second.classifier.hidden.weight)  # type: ignore[union-attr]


def test_the_random_state_of_the_caller_is_left_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(tiny(attack="none"), tmp_path / "run")
    assert torch.equal(before, torch.get_rng_state())


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_SAVE_EVERY", 0.0)
    config = tiny(joint_stage={"classifier": {"learning_rate": 1e30, "schedule": "step"}})
    with pytest.raises(TrainingError, match=r"expected a finite loss; found (nan|inf)") as caught:
        train(config, tmp_path / "run")
    # A checkpoint is due at once, so that each step is looked at.
    assert str(caught.value).startswith("stage joint, epoch 1, step 2: ")
    assert f"kept in {tmp_path}/run/checkpoint/state.safetensors" in str(caught.value)
    assert (tmp_path / "run/checkpoint/state.safetensors").exists()
    assert not (tmp_path / "run/classifier.safetensors").exists()


@pytest.mark.parametrize("save_every", [0.0, 1e9])
def test_a_loss_that_is_not_finite_is_found_where_losses_are_read_late(
    save_every: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LossWatch", Late)
    monkeypatch.setattr(loop, "_LOOK_EVERY", 1)
    monkeypatch.setattr(loop, "_SAVE_EVERY", save_every)
    stage = {"batch_size": 20, "classifier": {"learning_rate": 1e30, "schedule": "step"}}
    with pytest.raises(
        TrainingError, match=r"^stage joint, epoch 1, step [23]: expected a finite loss; found (nan|inf)"
    ):
        train(tiny(joint_stage=stage), tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run/checkpoint/state.safetensors")
    assert all(torch.isfinite(tensor).all() for name, tensor in checkpoint.tensors.items() if name.startswith("sum/"))
    assert len(Journal(tmp_path / "run/metrics.jsonl").rows()) == 2


def test_losses_that_are_read_late_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_LOOK_EVERY", 1)
    at_once, late = Hearing(), Hearing()
    train(tiny(), tmp_path / "at-once", listener=at_once)
    monkeypatch.setattr(loop, "LossWatch", Late)
    train(tiny(), tmp_path / "late", listener=late)
    assert files(tmp_path / "late") == files(tmp_path / "at-once")
    # Three steps an epoch: nothing is known at the first, and all at the last.
    assert at_once.heard == [(1, True)] * 15
    assert late.heard == [(1, False), (1, True), (1, True)] * 5


def test_a_signal_saves_all_that_is_done_where_losses_are_read_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LossWatch", Late)
    monkeypatch.setattr(loop, "_LOOK_EVERY", 1)
    expected = tmp_path / "whole"
    train(tiny(), expected)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), tmp_path / "stopped", listener=Signalled(99))
    checkpoint = load_checkpoint(tmp_path / "stopped/checkpoint/state.safetensors")
    assert (checkpoint.stage, checkpoint.epoch, checkpoint.steps) == (0, 0, 2)
    train(None, tmp_path / "stopped", resume=True)
    assert files(tmp_path / "stopped") == files(expected)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    train(tiny(attack="none"), tmp_path / "run")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "run").rglob("*.*")}
    train(None, tmp_path / "run", resume=True)
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "run").rglob("*.*")}


def stop_early(config: Config, folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(config, folder, listener=StopAfter(2))


def test_resuming_with_another_configuration_is_refused_with_the_differences(tmp_path: Path) -> None:
    stop_early(tiny(), tmp_path / "run")
    before = files(tmp_path / "run")
    with pytest.raises(ConfigError) as caught:
        train(tiny(seed=3, joint_stage={"epochs": 5}), tmp_path / "run", resume=True)
    assert str(caught.value) == (
        f"{tmp_path}/run: expected the configuration that the run was started with; found seed: 0 there, 3 here; "
        "joint_stage.epochs: 3 there, 5 here; leave these options out to go on, or train into another folder"
    )
    assert files(tmp_path / "run") == before


def test_resuming_on_another_machine_is_refused_unless_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_early(tiny(), tmp_path / "run")
    threads = torch.get_num_threads()
    other = threads + 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: other)
    with pytest.raises(RunFolderError) as caught:
        train(None, tmp_path / "run", resume=True)
    assert str(caught.value) == (
        f"{tmp_path}/run: expected the machine that the run was started on, since only there it repeats bit for bit; "
        f"found threads: {threads} there, {other} here; go on without that promise with --allow-different-machine"
    )
    run = train(None, tmp_path / "run", resume=True, allow_different_machine=True)
    assert run.folder.finished


def test_a_resumed_run_keeps_its_precision_though_the_stopwatch_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_SAVE_EVERY", 0.0)
    monkeypatch.setattr(environment, "_cpu_flags", lambda: {"amx_bf16"})
    monkeypatch.setattr(environment, "_bfloat16_gain", lambda: 1.0)
    stop_early(tiny(attack="none", precision="auto"), tmp_path / "run")
    monkeypatch.setattr(environment, "_bfloat16_gain", lambda: 2.0)
    run = train(None, tmp_path / "run", resume=True)
    assert read_json(run.folder.environment)["resumed"][0]["precision"] == "32"


@pytest.mark.parametrize(("seconds", "saved"), [(4.0, [(0, 0, 4), (0, 1, 3), (0, 2, 0)]), (16.0, None)])
def test_a_checkpoint_is_never_older_than_fifteen_seconds_and_a_step(
    seconds: float, saved: list[tuple[int, int, int]] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    found: list[tuple[int, int, int]] = []
    step, save = TrainingStep.__call__, Trainer._save

    def slow(self: TrainingStep, *arguments: Any, **options: Any) -> StepLoss:
        clock[0] += seconds
        return step(self, *arguments, **options)

    def noted(self: Trainer, index: int, epoch: int, trained: Any, loader: Any, begun: Any = None) -> None:
        found.append((index, epoch, begun.steps if begun else 0))
        save(self, index, epoch, trained, loader, begun)

    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(TrainingStep, "__call__", slow)
    monkeypatch.setattr(Trainer, "_save", noted)
    config = tiny(train_images=150, precision="32", mask_stage={"epochs": 2}, joint_stage={"epochs": 1})
    train(config, tmp_path / "run")
    steps = [(0, epoch, step) for epoch in (0, 1) for step in range(1, 6)] + [(0, 2, 0)]
    assert [one for one in found if one[0] == 0] == (saved or steps)


def test_an_epoch_that_was_stopped_counts_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_LOOK_EVERY", 1)
    path = tmp_path / "run"
    # A clock on which everything takes no time but what the listener does, a minute for each step.
    clock = Clock()
    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock.seconds)
    monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(attack="none", precision="32"), path, listener=clock)
    checkpoint = load_checkpoint(path / "checkpoint/state.safetensors")
    assert (checkpoint.epoch, checkpoint.steps) == (0, 3)
    clock.seconds, clock.last = 1e6, 99
    train(None, path, resume=True, listener=clock)
    rows = [row for row in Journal(path / "timing.jsonl").rows() if row["part"] == "joint"]
    # The last step's minute is spent after its save, and lost with the listener that ends the run.
    assert [row["seconds"] for row in rows] == [120.0, 180.0, 180.0]
    assert [row["images_per_second"] for row in rows] == [0.8, 0.5, 0.5]


def test_training_learns_the_backdoor_of_a_fixed_patch(tmp_path: Path) -> None:
    config = preset_config(
        "fast", dataset="digits", attack="badnets", model={"hidden_units": 64}, joint_stage={"epochs": 40}
    )
    run = train(config, tmp_path / "run")
    result = run.evaluate("validation")
    assert result["clean_accuracy"] > 0.9
    assert result["attack_success_rate_excluding_target"] > 0.9
    assert result["cross_accuracy"] is None
