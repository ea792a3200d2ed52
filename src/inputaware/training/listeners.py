"""Listeners of the training loop besides the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inputaware.errors import ConfigError
from inputaware.runs.files import check_place, writing
from inputaware.training.loop import EpochReport, Listener

__all__ = ["Listeners", "TensorBoardListener"]


class Listeners:
    """Several listeners as one.

    Args:
        listeners: who is told, in this order; of none nobody hears anything.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self.listeners = listeners

    def stage_started(self, stage: str, epochs: int, steps: int, done: int) -> None:
        """Tell all."""
        for listener in self.listeners:
            listener.stage_started(stage, epochs, steps, done)

    def stepped(self, steps: int, losses: dict[str, float]) -> None:
        """Tell all."""
        for listener in self.listeners:
            listener.stepped(steps, losses)

    def epoch_finished(self, report: EpochReport) -> None:
        """Tell all."""
        for listener in self.listeners:
            listener.epoch_finished(report)


class TensorBoardListener:
    """Writes losses, accuracies and speed for TensorBoard, a point an epoch.

    Args:
        folder: where the event files go; not the run folder, whose files hold no dates.

    Raises:
        ConfigError: TensorBoard is not installed.
        RunFolderError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError(
                "tensorboard: expected the extra of that name; found none; "
                "in the checkout: pip install -c constraints.txt -e '.[tensorboard]'"
            ) from None
        # Tried here, before there is a run folder: the event file is opened with the first stage.
        check_place(folder / "events", "tensorboard")
        self.make_writer = SummaryWriter
        self.folder = folder
        self.writer: Any = None

    def stage_started(self, stage: str, epochs: int, steps: int, done: int) -> None:
        """Open the event file with the first stage, when the configuration is known to be good.

        Raises:
            WriteError: the folder cannot be written any more.
        """
        if self.writer is None:
            with writing(self.folder):
                self.writer = self.make_writer(str(self.folder))

    def stepped(self, steps: int, losses: dict[str, float]) -> None:
        """Say nothing: only epochs are points."""

    def epoch_finished(self, report: EpochReport) -> None:
        """Write the epoch's numbers."""
        points = {
            **{f"loss/{name}": value for name, value in report.losses.items()},
            **{f"validation/{name}": value for name, value in report.validation.items() if value is not None},
            "speed/images_per_second": report.images_per_second,
        }
        for name, value in points.items():
            self.writer.add_scalar(f"{report.stage}/{name}", value, report.epoch)
        self.writer.flush()
