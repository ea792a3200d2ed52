"""The training loop: runs the stages that an attack lists, and can go on from any of its checkpoints."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from inputaware.attacks.base import Attack, Stage
from inputaware.config.fields import Config
from inputaware.data.loader import Loader
from inputaware.errors import RunFolderError, TrainingError, WriteError
from inputaware.models.precision import full_float32
from inputaware.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from inputaware.runs.folder import RunFolder
from inputaware.training.interruption import DeferredSignals
from inputaware.training.processes import Processes
from inputaware.training.step import TrainedModule, TrainingStep, beneath, place_modules
from inputaware.training.watch import LossWatch

__all__ = ["EpochReport", "Listener", "Trainer", "training_state"]

_LOOK_EVERY = 10
"""Steps between two looks at the loss."""
_SAVE_EVERY = 15.0
"""Seconds between two checkpoints; the last epoch of a stage is always saved, and so is what a signal stops."""


@dataclass(frozen=True)
class EpochReport:
    """What an epoch gave.

    Attributes:
        stage: name of the stage.
        epoch: how many of its epochs are done.
        epochs: how many it has.
        losses: means over the epoch, by name.
        validation: accuracies on the validation split; empty where there is nothing to score.
        images_per_second: training throughput, validation left out.
    """

    stage: str
    epoch: int
    epochs: int
    losses: dict[str, float]
    validation: dict[str, float | None]
    images_per_second: float


@runtime_checkable
class Listener(Protocol):
    """Who wants to be told how training goes: a progress bar, TensorBoard."""

    def stage_started(self, stage: str, epochs: int, steps: int, done: int) -> None:
        """Hear that a stage starts, with its number of epochs, of steps an epoch, and of epochs already done."""

    def stepped(self, steps: int, losses: dict[str, float]) -> None:
        """Hear how many more steps are done, and the latest losses that are known, if any are."""

    def epoch_finished(self, report: EpochReport) -> None:
        """Hear what an epoch gave."""


@dataclass(frozen=True)
class _Begun:
    """What was done of an epoch before the run was stopped.

    Attributes:
        steps: of training.
        sums: of their losses, by name.
        seconds: that they took, without what was lost after the checkpoint.
        images: that they saw.
    """

    steps: int
    sums: dict[str, Tensor]
    seconds: float
    images: int


@dataclass(eq=False, repr=False, kw_only=True)
class Trainer:
    """Trains an attack and writes what it does to the run folder.

    Attributes:
        attack: networks and stages.
        config: the run's configuration.
        images: 8-bit training images, on the device.
        labels: their labels.
        validate: returns the accuracies on the validation split, if there is one; called after each epoch that trains
            the classifier.
        device: where to compute.
        precision: 32, or bf16 for mixed precision.
        fingerprint: what the bits depend on besides the configuration.
        folder: where journal and checkpoints go.
        listener: who is told how it goes.
        processes: those that train the run together. The first of them validates and writes.
    """

    attack: Attack
    config: Config
    images: UInt8[Tensor, "batch channel height width"]
    labels: Int64[Tensor, " batch"]
    validate: Callable[[], dict[str, float | None]]
    device: torch.device
    precision: Literal["32", "bf16"]
    fingerprint: dict[str, str]
    folder: RunFolder
    listener: Listener
    processes: Processes

    def __post_init__(self) -> None:
        """Place the networks where they are trained."""
        self.generator = torch.Generator().manual_seed(self.config.seed)
        self.rows = 0
        self.saved_at = time.perf_counter()
        place_modules(self.attack, self.device)
        for module in self.attack.modules.values():
            self.processes.prepare(module, self.device)

    def run(self, checkpoint: Checkpoint | None = None) -> None:
        """Run all stages, or what is left of them after a checkpoint.

        Raises:
            TrainingError: a loss is not finite.
            RunFolderError: the checkpoint belongs to another configuration.
            WriteError: the disk is full, or the folder is gone or read-only.
        """
        if checkpoint is not None:
            with self._explained():
                self._restore_modules(checkpoint)
            self.rows = checkpoint.rows
        reached = False
        for index, stage in enumerate(self.attack.stages()):
            if checkpoint is not None and index < checkpoint.stage:
                continue
            reached = True
            with full_float32() if self.precision == "32" else nullcontext():
                self._run_stage(index, stage, checkpoint if checkpoint and index == checkpoint.stage else None)
        if not reached:
            raise self._foreign()

    def _run_stage(self, index: int, stage: Stage, checkpoint: Checkpoint | None) -> None:
        step = TrainingStep(stage, device=self.device, precision=self.precision, processes=self.processes)
        loader = Loader(
            self.images,
            self.labels,
            batch_size=stage.batch_size,
            augmentation=self.config.augmentation,
            partners=self.config.partners if stage.paired else "derangement",
            generator=self.generator,
        )
        done = 0
        begun: _Begun | None = None
        if checkpoint is not None:
            if (
                checkpoint.epoch > stage.epochs
                or checkpoint.steps > checkpoint.batches
                or checkpoint.batches > len(loader)
            ):
                raise self._foreign()
            with self._explained():
                self._restore_training(checkpoint, step.trained)
                begun = self._restore_epoch(checkpoint, loader)
            done = checkpoint.epoch
        self.listener.stage_started(stage.name, stage.epochs, len(loader), done)
        with DeferredSignals() as signals:
            for epoch in range(done, stage.epochs):
                self._run_epoch(index, stage, step, loader, epoch, signals, begun if epoch == done else None)
        if self.processes.writes:
            try:
                load_checkpoint(self.folder.checkpoint)
            except RunFolderError:
                # Lost or damaged while training went on, and after a stage's last epoch nothing else writes it again.
                # Where that fails, what the networks are written to next says why.
                with suppress(OSError, WriteError):
                    self.folder.checkpoint.parent.mkdir(exist_ok=True)
                    self._save(index, stage.epochs, step.trained, loader)
        for member in step.trained.values():
            if member.average is not None:
                member.average.apply()
            if not all(torch.isfinite(parameter).all() for parameter in member.module.parameters()):
                raise TrainingError(
                    f"stage {stage.name}: expected finite weights at its end; found others; "
                    "train into another folder with a lower learning rate or --precision 32"
                )

    def _run_epoch(
        self,
        index: int,
        stage: Stage,
        step: TrainingStep,
        loader: Loader,
        epoch: int,
        signals: DeferredSignals,
        begun: _Begun | None,
    ) -> None:
        """Run an epoch, or what is left of one that was begun."""
        # As if all of the epoch had been done now: what it cost is counted whole.
        started = time.perf_counter() - (begun.seconds if begun else 0)
        step.train_mode()
        before, sums, seen = (begun.steps, begun.sums, begun.images) if begun else (0, {}, 0)
        steps = looked = before
        watch = LossWatch(self.device)
        if before:
            self.listener.stepped(before, {})
        for steps, batch in enumerate(loader.rest() if begun else loader, before + 1):
            progress = (epoch + (steps - 1) / len(loader)) / stage.epochs
            # At each step, for a run may be resumed after any.
            self.processes.draw_anew(self.config.seed, index, epoch, steps)
            loss = step(batch, epoch=epoch, progress=progress)
            seen += len(batch.images)
            for name, part in {"total": loss.total, **loss.parts}.items():
                value = part.detach().float()
                sums[name] = sums[name] + value if name in sums else value
            looking = steps % _LOOK_EVERY == 0 or steps == len(loader)
            stopping = self._is_stopping(signals, looking)
            saving = stopping or self._is_save_due()
            if saving or looking:
                latest: dict[str, float] = {}
                if look := watch.look(steps, {"": sums["total"], **loss.parts}, now=saving or steps == len(loader)):
                    then, latest = look
                    self._check(stage, epoch, then, latest.pop(""))
                # The others' losses, random state and batch-norm statistics are not the run's.
                if saving and self.processes.writes:
                    so_far = _Begun(steps, sums, time.perf_counter() - started, seen)
                    self._save(index, epoch, step.trained, loader, so_far)
                if stopping:
                    # A launcher ends all when one leaves, and this must not be in the middle of a checkpoint.
                    self.processes.wait()
                    signals.deliver()
                self.listener.stepped(steps - looked, latest)
                looked = steps
        if not steps:
            raise TrainingError(
                f"stage {stage.name}, epoch {epoch + 1}: expected at least one batch; found none: every image "
                "met itself as its partner; train on more images or with --partners derangement"
            )
        self._check(stage, epoch, steps, float(sums["total"]))
        training_seconds = time.perf_counter() - started
        # In an order that does not depend on whether the sums came from a checkpoint.
        losses = {name: float(sums[name]) / steps for name in sorted(sums, key=lambda name: (name != "total", name))}
        self._share_statistics(step.trained)
        if not self.processes.writes:
            return
        validation = self._validate(step.trained) if "classifier" in step.trained else {}
        row = {"stage": stage.name, "epoch": epoch + 1, "losses": losses, "validation": validation}
        self.folder.metrics.append(row, after=self.rows)
        self.rows += 1
        if epoch + 1 == stage.epochs or self._is_save_due():
            self._save(index, epoch + 1, step.trained, loader)
        seconds = time.perf_counter() - started
        report = EpochReport(stage.name, epoch + 1, stage.epochs, losses, validation, seen / training_seconds)
        self.folder.note_time(
            stage.name, seconds, self.device, epoch=epoch + 1, images_per_second=report.images_per_second
        )
        self.listener.epoch_finished(report)

    def _is_stopping(self, signals: DeferredSignals, looking: bool) -> bool:
        """Tell whether a signal waits, in all processes after the same step, for none can go on without the others.

        Several GPUs would wait for each other at each step, and so ask only where losses are read anyway.
        """
        if self.processes.count > 1 and self.device.type != "cpu" and not looking:
            return False
        stopping = self.processes.any(signals.waiting is not None, self.device)
        if stopping:
            signals.hear(signal.SIGTERM)
        return stopping

    def _is_save_due(self) -> bool:
        """Tell whether the last checkpoint of the process that writes them is old."""
        return self.processes.writes and time.perf_counter() - self.saved_at > _SAVE_EVERY

    def _share_statistics(self, trained: dict[str, TrainedModule]) -> None:
        """Give all processes the first one's batch-norm statistics, as the run folder and its checkpoint hold them."""
        statistics: list[Tensor] = []
        for member in trained.values():
            for tensors in (member.module.state_dict(), {} if member.average is None else member.average.tensors):
                parameters = dict(member.module.named_parameters())
                statistics += [tensor for name, tensor in tensors.items() if name not in parameters]
        self.processes.copy_from_first(statistics)

    def _check(self, stage: Stage, epoch: int, steps: int, total: float) -> None:
        """Stop where the losses summed so far are not finite."""
        if not math.isfinite(total):
            kept = (
                f"the last good checkpoint is kept in {self.folder.checkpoint}"
                if self.folder.checkpoint.exists()
                else "no checkpoint was written yet"
            )
            raise TrainingError(
                f"stage {stage.name}, epoch {epoch + 1}, step {steps}: expected a finite loss; found {total}; "
                f"{kept}; train into another folder with a lower learning rate or --precision 32"
            )

    def _validate(self, trained: dict[str, TrainedModule]) -> dict[str, float | None]:
        """Score the weights that would be kept if training ended now."""
        with ExitStack() as stack:
            for member in trained.values():
                if member.average is not None:
                    stack.enter_context(member.average.applied())
            return self.validate()

    def _save(
        self,
        index: int,
        epoch: int,
        trained: dict[str, TrainedModule],
        loader: Loader,
        begun: _Begun | None = None,
    ) -> None:
        """Write a checkpoint after whole epochs, or after some steps of the next."""
        tensors = training_state(self.attack, self.generator)
        for name, member in trained.items():
            tensors |= {f"training/{name}/{key}": tensor for key, tensor in member.state().items()}
        if begun:
            tensors["random/epoch"] = loader.started
            # Copies, for after one step of a loss with one term two of them are the same tensor.
            tensors |= {f"sum/{name}": value.clone() for name, value in begun.sums.items()}
            tensors["epoch/seconds"] = torch.tensor(begun.seconds, dtype=torch.float64)
            tensors["epoch/images"] = torch.tensor(begun.images)
        if self.device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self.device)
        save_checkpoint(
            self.folder.checkpoint,
            Checkpoint(
                stage=index,
                epoch=epoch,
                rows=self.rows,
                run=self.folder.identity(),
                fingerprint=self.fingerprint,
                tensors=tensors,
                steps=begun.steps if begun else 0,
                batches=loader.served if begun else 0,
            ),
        )
        self.saved_at = time.perf_counter()

    def _restore_modules(self, checkpoint: Checkpoint) -> None:
        for name, module in self.attack.modules.items():
            module.load_state_dict(beneath(f"module/{name}/", checkpoint.tensors))

    def _restore_epoch(self, checkpoint: Checkpoint, loader: Loader) -> _Begun | None:
        """Let the loader go on within an epoch, and return what was done of it; or none."""
        if not checkpoint.steps:
            return None
        # Tried on a generator of its own: the loader takes it only where the epoch goes on, too late to say why.
        torch.Generator().set_state(checkpoint.tensors["random/epoch"])
        loader.started, loader.served = checkpoint.tensors["random/epoch"], checkpoint.batches
        sums = beneath("sum/", checkpoint.tensors)
        if "total" not in sums:
            raise KeyError("total")
        for name, value in sums.items():
            if value.shape != () or value.dtype != torch.float32 or not torch.isfinite(value):
                raise ValueError(f"sum/{name} is no finite number in float32")
        seconds, images = float(checkpoint.tensors["epoch/seconds"]), int(checkpoint.tensors["epoch/images"])
        if not 0 <= seconds < math.inf or images < 0:
            raise ValueError("epoch/seconds or epoch/images is no number of seconds or images")
        return _Begun(checkpoint.steps, {name: value.to(self.device) for name, value in sums.items()}, seconds, images)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say of a checkpoint whose tensors do not fit that they do not, whatever it is that trips."""
        try:
            yield
        except (RuntimeError, LookupError, ValueError, TypeError):
            raise self._foreign() from None

    def _foreign(self) -> RunFolderError:
        return RunFolderError(
            f"{self.folder.checkpoint}: expected the networks and stages of this run's configuration; found others; "
            "train again into another folder"
        )

    def _restore_training(self, checkpoint: Checkpoint, trained: dict[str, TrainedModule]) -> None:
        for name, member in trained.items():
            member.restore(beneath(f"training/{name}/", checkpoint.tensors))
        self.generator.set_state(checkpoint.tensors["random/loader"])
        torch.set_rng_state(checkpoint.tensors["random/torch"])
        if self.device.type == "cuda" and "random/cuda" in checkpoint.tensors:
            torch.cuda.set_rng_state(checkpoint.tensors["random/cuda"], self.device)


def training_state(attack: Attack, generator: torch.Generator) -> dict[str, Tensor]:
    """Return what a checkpoint holds where a stage begins: the networks and the state of what draws at random.

    Args:
        attack: the networks.
        generator: of the order of images and their augmentation.
    """
    tensors = {
        f"module/{name}/{key}": tensor
        for name, module in attack.modules.items()
        for key, tensor in module.state_dict().items()
    }
    return tensors | {"random/loader": generator.get_state(), "random/torch": torch.get_rng_state()}
