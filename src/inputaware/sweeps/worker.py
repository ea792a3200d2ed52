"""What a worker does with a cell: the same as ``inputaware train --resume`` and ``inputaware defend``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from inputaware.config.checks import derived_from
from inputaware.config.fields import Config
from inputaware.config.record import config_from_dict
from inputaware.errors import DefenseError, RunFolderError

if TYPE_CHECKING:
    from inputaware.training.loop import EpochReport

__all__ = ["CellProgress", "run_cell"]

_TELL_EVERY = 1.0
"""Seconds between two reports of one cell, at least."""


class CellProgress:
    """A listener that tells what a cell is at and the share of its work that is done.

    Training counts as one part of the work, in proportion to its epochs, and so does each defense.

    Args:
        config: the run's configuration.
        defenses: how many defenses follow.
        tell: told stage and share, at most once a second or at the start of a stage.
    """

    def __init__(self, config: Config, defenses: int, tell: Callable[[str, float], None]) -> None:
        mask = config.mask_stage.epochs if derived_from(config.attack) == "input-aware" else 0
        self.before = {"joint": mask}  # epochs of other stages that are done by then
        self.total = mask + config.joint_stage.epochs
        self.parts = 1 + defenses
        self.tell = tell
        self.told = -_TELL_EVERY
        self.stage = ""
        self.steps = 1
        self.done = 0

    def stage_started(self, stage: str, epochs: int, steps: int, done: int) -> None:
        """Tell the stage, and where in it a run goes on."""
        self.stage, self.steps, self.done = stage, steps, done * steps
        self._tell(stage, self._trained(), at_once=True)

    def stepped(self, steps: int, losses: dict[str, float]) -> None:
        """Tell the share."""
        self.done += steps
        self._tell(self.stage, self._trained())

    def epoch_finished(self, report: EpochReport) -> None:
        """Say nothing: the steps have told."""

    def evaluating(self, share: float) -> None:
        """Tell that training is done; the evaluation takes a moment."""
        self._tell("evaluation", 1 / self.parts)

    def defending(self, number: int) -> Callable[[str, float], None]:
        """Return what is told the share of a defense that is done.

        Args:
            number: the defense's place among the cell's, from 0.
        """
        return lambda name, share: self._tell(name, (1 + number + share) / self.parts)

    def _trained(self) -> float:
        return (self.before.get(self.stage, 0) + self.done / self.steps) / self.total / self.parts

    def _tell(self, stage: str, share: float, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self.told >= _TELL_EVERY:
            self.told = now
            self.tell(stage, min(1.0, share))


def run_cell(
    config: dict[str, Any],
    folder: str,
    *,
    defenses: Sequence[tuple[str, dict[str, Any], str | None]],
    overwrite: bool,
    threads: int,
    allow_different_machine: bool,
    tell: Callable[[str, float], None],
) -> None:
    """Train a cell, or go on with it, evaluate it, and run its defenses; what is done already stays as it is.

    Args:
        config: the run's configuration as plain data.
        folder: the run folder.
        defenses: which defenses, by name or the place of their code, each with its settings as plain data, and the
            digest of that code where it is known; their seed is the run's.
        overwrite: make a defense's result anew that is there with other settings, or of other code.
        threads: how many threads torch computes with, for other cells run beside it.
        allow_different_machine: go on although library, hardware or thread count differ.
        tell: told what the cell is at and the share of its work that is done.

    Raises:
        InputAwareError: as :func:`inputaware.api.train` and :meth:`inputaware.api.Run.defend`.
    """
    import torch

    from inputaware.api import train
    from inputaware.defenses.own import make_defense
    from inputaware.runs.results import read_evaluation

    torch.set_num_threads(threads)
    asked = config_from_dict(config)
    progress = CellProgress(asked, len(defenses), tell)
    run = train(
        asked,
        folder,
        resume=True,
        allow_different_machine=allow_different_machine,
        listener=progress,
        evaluating=progress.evaluating,
    )
    try:
        read_evaluation(run.folder.evaluation)
    except RunFolderError:  # damaged since; the networks are there
        run.evaluate()
    for number, (reference, settings, code) in enumerate(defenses):
        told = progress.defending(number)
        defense = make_defense(reference, settings)
        if code is not None and defense.source_digest != code:
            raise DefenseError(
                f"{defense.name}: expected the code that the sweep began with in {reference}; found other code; start "
                "the sweep again"
            )
        try:
            run.defend(defense, seed=asked.seed, progress=told)
        except RunFolderError:
            if not overwrite:
                raise
            run.defend(defense, seed=asked.seed, overwrite=True, progress=told)
