"""Progress of what takes long: bars on a terminal, lines now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from inputaware.console.text import plain, printable
from inputaware.evaluation.words import RATES, duration, percent
from inputaware.sweeps.progress import CellState, seconds_left

if TYPE_CHECKING:
    from inputaware.reproduction.works import Work
    from inputaware.training.loop import EpochReport

__all__ = ["Announcer", "SweepDisplay", "TrainingDisplay", "named_progress", "progress_bar"]

_LINE_EVERY = 30.0
"""Seconds between two lines about a work's progress where stderr is no terminal."""


def _bar(console: Console, *columns: ProgressColumn, **options: Any) -> Progress:
    """Return what draws bars, with more columns behind them; nothing where stderr is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        *columns,
        console=console,
        disable=not console.is_terminal,
        **options,
    )


class TrainingDisplay:
    """A progress bar with losses, validation accuracies, images per second and the time left.

    Where stderr is no terminal, a line is printed for an epoch now and then instead.

    Args:
        console: where to draw; stderr, so that results can be piped.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.began = 0.0
        self.done = 0
        self.progress = _bar(console, TimeRemainingColumn(), TextColumn("{task.fields[status]}"))
        self.task: TaskID | None = None
        self.stage = ""
        self.validation = ""
        self.losses = ""
        self.speed = ""
        self.printed = 0.0

    def __enter__(self) -> TrainingDisplay:
        """Be ready; drawing starts with the first stage, for reading the data draws its own bars."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop to draw."""
        self.progress.stop()

    def stage_started(self, stage: str, epochs: int, steps: int, done: int) -> None:
        """Show a new bar for the stage."""
        self.progress.start()
        if self.task is not None:
            self.progress.update(self.task, visible=False)
        self.stage = stage
        self.began, self.done = time.monotonic(), done
        self.validation = self.losses = self.speed = ""
        self.task = self.progress.add_task(f"{stage} stage", total=epochs * steps, completed=done * steps, status="")

    def stepped(self, steps: int, losses: dict[str, float]) -> None:
        """Move the bar and show the latest losses that are known."""
        if losses:
            self.losses = " ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in losses.items())
        self._draw(advance=steps)

    def epoch_finished(self, report: EpochReport) -> None:
        """Show the accuracies on the validation split."""
        found = report.validation
        self.validation = " ".join(
            f"{name} {percent(found[rate])}" for name, rate in RATES.items() if found.get(rate) is not None
        )
        self.speed = f"{report.images_per_second:.0f} images/s"
        self._draw(advance=0)
        now = time.monotonic()
        last = report.epoch == report.epochs
        if not self.console.is_terminal and (last or now - self.printed > 10):
            self.printed = now
            losses = " ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in report.losses.items())
            numbers = " ".join(part for part in (losses, self.validation, self.speed) if part)
            if not last:
                left = (now - self.began) / max(1, report.epoch - self.done) * (report.epochs - report.epoch)
                numbers += f", about {duration(left)} left"
            self.console.print(
                f"{report.stage} stage, epoch {report.epoch}/{report.epochs}: {numbers}",
                highlight=False,
                soft_wrap=True,
            )

    def evaluating(self, share: float) -> None:
        """Show a bar for the final evaluation, of which this share is done."""
        if self.stage != "evaluation":
            self.stage_started("evaluation", 1, 100, 0)
        if self.task is not None:
            self.progress.update(self.task, completed=100 * share)

    def _draw(self, advance: int) -> None:
        if self.task is not None:
            status = " | ".join(part for part in (self.losses, self.validation, self.speed) if part)
            self.progress.update(self.task, advance=advance, status=status)


class SweepDisplay:
    """A live table of a sweep's cells, with what is done and the time left.

    Where stderr is no terminal, a line is printed for each cell that ends instead.

    Args:
        console: where to draw; stderr, so that results can be piped.
    """

    _LINES = 20
    """Cells that the table shows."""
    _ORDER = ("running", "broken", "waiting", "finished", "kept")

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(console=console, auto_refresh=False)
        self.told: set[str] = set()

    def __enter__(self) -> SweepDisplay:
        """Start to draw."""
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop to draw."""
        if self.console.is_terminal:
            self.live.stop()

    def watch(self, states: Mapping[str, CellState], slots: int) -> None:
        """Show the cells, those at work first."""
        if self.console.is_terminal:
            self.live.update(self.table(states, slots), refresh=True)
            return
        for name, state in states.items():
            if state.status in ("finished", "broken") and name not in self.told:
                self.told.add(name)
                words = printable(f"{name}: {state.status}{f': {state.error}' if state.error else ''}")
                self.console.print(f"{words}; {_how_far(states, slots)}", highlight=False, markup=False, soft_wrap=True)

    def table(self, states: Mapping[str, CellState], slots: int) -> Table:
        """Return the table of the cells that matter most now."""
        table = Table(caption=_how_far(states, slots), caption_justify="left")
        for column in ("cell", "state", "done, %", "time", "attempt", "worker"):
            table.add_column(column, overflow="fold")
        shown = sorted(states.items(), key=lambda item: self._ORDER.index(item[1].status))[: self._LINES]
        for name, state in shown:
            words = f"{state.status}: {state.error or state.stage}" if state.error or state.stage else state.status
            done, seconds = f"{100 * state.share:.0f}", duration(state.seconds)
            cells = (done, seconds, str(state.attempts), state.worker)
            table.add_row(plain(name), plain(words, lines=True), *(plain(cell) for cell in cells))
        return table


def _how_far(states: Mapping[str, CellState], slots: int) -> str:
    """Return how many cells are in which state, and the time left."""
    counts = {status: sum(state.status == status for state in states.values()) for status in SweepDisplay._ORDER}
    done = counts["finished"] + counts["kept"]
    left = seconds_left(states, slots)
    return (
        f"{done} of {len(states)} cells done ({counts['kept']} of them before), {counts['running']} running, "
        f"{counts['broken']} broken; left: {'unknown' if left is None else duration(left)}"
    )


@contextmanager
def progress_bar(console: Console, words: str) -> Iterator[Any]:
    """Show a bar while something runs; yields the function that is told the share that is done."""
    with _bar(console, transient=True) as progress:
        task = progress.add_task(words, total=1.0)
        yield lambda share: progress.update(task, completed=share)


@contextmanager
def named_progress(console: Console, draws_per_second: float = 10) -> Iterator[Any]:
    """Show a bar for each of several works; yields the function that is told a work's name and the share that is done.

    Where stderr is no terminal, lines are printed instead: when a work is done, and twice a minute before.
    """
    with _bar(console, TimeRemainingColumn(), refresh_per_second=draws_per_second) as progress:
        tasks: dict[str, TaskID] = {}
        done: set[str] = set()
        printed: dict[str, float] = {}

        def tell(name: str, share: float) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=1.0)
                printed[name] = time.monotonic()
            progress.update(tasks[name], completed=share)
            if console.is_terminal or name in done:
                return
            if share >= 1:
                done.add(name)
            elif time.monotonic() - printed[name] < _LINE_EVERY:
                return
            printed[name] = time.monotonic()
            console.print(f"{name}: {'done' if share >= 1 else f'{int(100 * share)}%'}", highlight=False)

        yield tell


class Announcer:
    """Says what a reproduction is doing: a training's own display, and a bar for each other piece of work.

    Args:
        console: where to draw.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.stack = ExitStack()
        self.display: TrainingDisplay | None = None
        self.tell: Callable[[str, float], None] | None = None

    def __enter__(self) -> Announcer:
        """Be ready."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop to draw."""
        self.stack.close()

    def listener(self, work: Work) -> TrainingDisplay:
        """Return a display for the training of a run, below a line with its name."""
        self.stack.close()
        self.console.print(printable(str(work)), highlight=False, markup=False)
        self.tell, self.display = None, self.stack.enter_context(TrainingDisplay(self.console))
        return self.display

    def progress(self, work: Work, share: float) -> None:
        """Show the share of a piece of work that is done."""
        if work.kind == "train":
            if self.display is not None:
                self.display.evaluating(share)
            return
        if self.tell is None:
            self.stack.close()
            self.tell = self.stack.enter_context(named_progress(self.console))
        self.tell(str(work), share)
