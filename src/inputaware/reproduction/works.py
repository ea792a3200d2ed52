"""The work behind tables and figures: training, inspections, defenses, latencies; each is done once and kept."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from inputaware.api import Run, recorded_config, train
from inputaware.benchmarking.latency import measure_latency
from inputaware.config.fields import AttackName, Config, PrecisionName, PresetName, TargetName
from inputaware.config.presets import preset_config
from inputaware.config.record import override
from inputaware.defenses.own import choose_defenses
from inputaware.defenses.settings import DefenseName
from inputaware.errors import RunFolderError
from inputaware.report.collect import collect_run
from inputaware.runs.environment import describe_environment, resolve_device
from inputaware.runs.files import make_folder_for, write_json
from inputaware.runs.findings import kept_finding
from inputaware.runs.folder import RunFolder
from inputaware.training.loop import Listener

__all__ = ["Place", "RunKey", "Work", "WorkKind"]

WorkKind = Literal["train", "inspect", "latency", "neural-cleanse", "strip", "fine-pruning", "image-regularization"]

_PASSES, _WARM_UP = 110, 10
"""Timed passes of each network at batch 1, and passes before them."""
_IMAGES, _SEED = 1, 0
"""Inspected images of each class, and the seed of inspections and defenses: figures show runs on the same images."""


@dataclass(frozen=True)
class RunKey:
    """Which run: its folder's name says all of it."""

    dataset: str
    attack: AttackName
    target: TargetName
    seed: int

    def __str__(self) -> str:
        """Return the name of the run's folder."""
        return f"{self.dataset}-{self.attack}-{self.target}-seed-{self.seed}"


@dataclass(frozen=True)
class Work:
    """A piece of work.

    Attributes:
        kind: what is done; a defense by its name.
        run: of which run; of a latency only the data set counts.
    """

    kind: WorkKind
    run: RunKey

    def __str__(self) -> str:
        """Return what is done, in words."""
        if self.kind == "latency":
            return f"time the networks of {self.run.dataset}"
        return f"run {self.kind} on {self.run}" if self.kind in get_args(DefenseName) else f"{self.kind} {self.run}"


@dataclass(frozen=True)
class Place:
    """Where the work's results are kept, and how it is done.

    Attributes:
        output: the folder of the reproduction.
        preset: how runs are trained.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, 32 or bf16.
    """

    output: Path
    preset: PresetName
    device: str
    precision: PrecisionName

    def folder(self, run: RunKey) -> Path:
        """Return the folder of a run."""
        return self.output / "runs" / str(run)

    def latency(self, dataset: str) -> Path:
        """Return the file of the latencies of a data set's networks."""
        return self.output / "runs" / f"{dataset}-latency.json"

    def done(self, work: Work) -> bool:
        """Return whether a piece of work is done and kept.

        Raises:
            ConfigError: a run is there that was trained with other settings.
            RunFolderError: a file of it is corrupt, or what is kept was made with other settings or another seed.
        """
        if work.kind == "latency":
            return self.latency(work.run.dataset).exists()
        folder = self.folder(work.run)
        if (folder / "config.json").exists():
            # Where it was computed is no setting of its results.
            there = RunFolder(folder)
            recorded_config(there, override(self.config(work.run), {"device": there.config().device}))
        if not (folder / "evaluation.json").exists():
            return False
        found = collect_run(folder)
        if work.kind == "train":
            return True
        if work.kind == "inspect":
            if found.inspected is not None:
                _check_inspection(folder, found.inspected.record)
            return found.inspected is not None
        (defense,) = choose_defenses(work.kind)
        kept = kept_finding(folder / "defenses", defense.name, defense.settings, _SEED, own=False, code=None)
        return kept is not None

    def do(
        self, work: Work, *, listener: Listener | None, progress: Callable[[float], None] = lambda share: None
    ) -> None:
        """Do a piece of work; training goes on from its checkpoint where it was interrupted.

        Args:
            work: what to do.
            listener: told how training goes.
            progress: told the share of anything else that is done.

        Raises:
            ConfigError: a run is there that was trained with other settings.
            DataError: the data set is missing or corrupt.
            DeviceError: the device or precision is not there.
            RunFolderError: a folder cannot be written, or is in use.
            TrainingError: a loss is not finite.
        """
        if work.kind == "train":
            train(self.config(work.run), self.folder(work.run), resume=True, listener=listener, evaluating=progress)
        elif work.kind == "latency":
            self._time_networks(work.run.dataset)
        else:
            run = Run.load(self.folder(work.run), device=self.device)
            if work.kind == "inspect":
                run.inspect(images=_IMAGES, seed=_SEED, overwrite=True, progress=progress)
            else:
                run.defend([work.kind], seed=_SEED, progress=lambda name, share: progress(share))

    def config(self, run: RunKey) -> Config:
        """Return how a run is trained."""
        return preset_config(
            self.preset,
            dataset=run.dataset,
            attack=run.attack,
            target=run.target,
            seed=run.seed,
            device=self.device,
            precision=self.precision,
        )

    def _time_networks(self, dataset: str) -> None:
        device = resolve_device(self.device)
        found = measure_latency(dataset, repeats=_PASSES, warm_up=_WARM_UP, device=device)
        path = self.latency(dataset)
        make_folder_for(path)
        write_json(path, {"environment": describe_environment(device, "32"), "networks": found})


def _check_inspection(folder: Path, record: Mapping[str, Any]) -> None:
    """Refuse an inspection of other images than those that figures show beside others."""
    images, seed = record.get("images_of_each_class"), record.get("seed")
    if (images, seed) != (_IMAGES, _SEED):
        if record.get("indices") is not None:
            images = "named images"
        raise RunFolderError(
            f"{folder / 'inspection'}: expected an inspection of {_IMAGES} image of each class with seed {_SEED}; "
            f"found one of {images} with seed {seed}; "
            f"make it anew with: inputaware inspect {shlex.quote(str(folder))} --overwrite"
        )
