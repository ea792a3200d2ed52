"""What a person sees in the terminal: progress on stderr, tables on stdout."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from inputaware.training.loop import EpochReport

__all__ = [
    "TrainingDisplay",
    "benchmark_tables",
    "defense_table",
    "evaluation_table",
    "inspection_table",
    "named_progress",
    "poison_table",
    "printable",
    "progress_bar",
]


def printable(text: str) -> str:
    """Return text with escapes for all that a terminal would obey and not show: control characters, turned writing."""
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in text
    )


def _plain(text: str) -> str:
    """Return text as rich shows it letter by letter."""
    return escape(printable(text))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


class TrainingDisplay:
    """A progress bar with losses, validation accuracies, images per second and the time left.

    Where stderr is no terminal, a line is printed for an epoch now and then instead.

    Args:
        console: where to draw; stderr, so that results can be piped.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task: TaskID | None = None
        self.stage = ""
        self.epochs = 0
        self.steps = 0
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
        self.stage, self.epochs, self.steps = stage, epochs, steps
        self.validation = self.losses = self.speed = ""
        self.task = self.progress.add_task(f"{stage} stage", total=epochs * steps, completed=done * steps, status="")

    def stepped(self, steps: int, losses: dict[str, float]) -> None:
        """Move the bar and show the latest losses."""
        self.losses = " ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in losses.items())
        self._draw(advance=steps)

    def epoch_finished(self, report: EpochReport) -> None:
        """Show the accuracies on the validation split."""
        found = report.validation
        names = {"clean_accuracy": "clean", "attack_success_rate": "attack", "cross_accuracy": "cross"}
        self.validation = " ".join(
            f"{short} {_percent(found[name])}" for name, short in names.items() if found.get(name) is not None
        )
        self.speed = f"{report.images_per_second:.0f} images/s"
        self._draw(advance=0)
        now = time.monotonic()
        last = report.epoch == report.epochs
        if not self.console.is_terminal and (last or now - self.printed > 10):
            self.printed = now
            losses = " ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in report.losses.items())
            numbers = " ".join(part for part in (losses, self.validation, self.speed) if part)
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


@contextmanager
def progress_bar(console: Console, words: str) -> Iterator[Any]:
    """Show a bar while something runs; yields the function that is told the share that is done."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task(words, total=1.0)
        yield lambda share: progress.update(task, completed=share)


@contextmanager
def named_progress(console: Console, draws_per_second: float = 10) -> Iterator[Any]:
    """Show a bar for each of several works; yields the function that is told a work's name and the share that is done.

    Where stderr is no terminal, a line is printed when a work is done instead.
    """
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=draws_per_second,
        disable=not console.is_terminal,
    ) as progress:
        tasks: dict[str, TaskID] = {}
        done: set[str] = set()

        def tell(name: str, share: float) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=1.0)
            progress.update(tasks[name], completed=share)
            if share >= 1 and name not in done:
                done.add(name)
                if not console.is_terminal:
                    console.print(f"{name}: done", highlight=False)

        yield tell


def defense_table(records: dict[str, dict[str, Any]], title: str) -> Table:
    """Return what each defense decided, and how it did on the test set.

    Args:
        records: what the files ``defenses/NAME.json`` hold, by name.
        title: what stands above the table.
    """
    table = Table(title=_plain(title), title_justify="left", show_lines=True)
    for column in ("defense", "verdict", "what it found", "how it did on the test set"):
        table.add_column(column)
    for name, record in records.items():
        cells = (name, record["verdict"], record["sentence"], record["scoring"]["sentence"])
        table.add_row(*(_plain(cell) for cell in cells))
    return table


def evaluation_table(result: dict[str, Any], paper: dict[str, float] | None, title: str) -> Table:
    """Return the three tests, the paper's numbers beside them where there are any, as percent.

    Args:
        result: what ``evaluation.json`` holds.
        paper: the published fractions, or none.
        title: what stands above the table.
    """
    table = Table(title=_plain(title), title_justify="left")
    table.add_column("test")
    table.add_column("this run, %", justify="right")
    if paper is not None:
        table.add_column("paper, %", justify="right")
    table.add_column("what it means")
    rows = (
        ("clean", "clean_accuracy", "clean images get their true label"),
        ("attack", "attack_success_rate", "images with their own trigger get the attacker's label"),
        (
            "attack, other classes",
            "attack_success_rate_excluding_target",
            "the same without images already of that class",
        ),
        ("cross", "cross_accuracy", "images with another image's trigger keep their true label"),
    )
    for words, key, meaning in rows:
        cells = [words, _percent(result[key])]
        if key == "cross_accuracy" and result.get("cross_accuracy_std") is not None:
            cells[1] += f" ± {100 * result['cross_accuracy_std']:.2f}"
        if paper is not None:
            cells.append(_percent(paper.get(key)))
        table.add_row(*cells, meaning)
    trigger = result["trigger"]
    if trigger is not None:
        size = f"{100 * trigger['mask_area']:.1f} % of the image's area, PSNR {trigger['psnr_db']:.1f} dB"
        table.caption = f"{result['test_images']} images; trigger: {size}"
    else:
        table.caption = f"{result['test_images']} images; a clean model has no trigger"
    return table


def inspection_table(record: dict[str, Any], title: str) -> Table:
    """Return how much of the heat lies on triggers; of a clean model what it says of the samples.

    Args:
        record: what ``inspection.json`` holds.
        title: what stands above the table.
    """
    table = Table(title=_plain(title), title_justify="left")
    heat = record["heat_on_trigger"]
    if heat is None:
        for column in ("image", "class", "prediction"):
            table.add_column(column)
        for row in record["samples"]:
            said = f"{row['clean']['class']} ({100 * row['clean']['probability']:.0f} %)"
            table.add_row(*(_plain(cell) for cell in (str(row["index"]), row["class"], said)))
        table.caption = "a clean model has no trigger"
        return table
    table.add_column("Grad-CAM's heat on the trigger's mask")
    table.add_column("with trigger", justify="right")
    table.add_column("without", justify="right")
    table.add_column("what it means")
    rows = (
        ("share of the heat, %", "heat_share", 100, "how much of the heat lies on the mask"),
        ("over its share of the area", "concentration", 1, "1: heat knows nothing of the mask"),
        ("pixel AUROC", "auroc", 1, "a pixel on the mask is hotter than one beside it; 0.5: no difference"),
    )
    for words, key, factor, meaning in rows:
        cells = [
            "-" if heat[kind][key] is None else f"{factor * heat[kind][key]:.2f}" for kind in ("backdoor", "clean")
        ]
        table.add_row(words, *cells, meaning)
    table.caption = (
        f"means over {heat['images']} test images; the masks cover {100 * heat['mask_area']:.1f} % of the area"
    )
    return table


def poison_table(rows: list[dict[str, Any]], limit: int = 20) -> Table:
    """Return the classifier's predictions before and after, for the first images.

    Args:
        rows: the rows of ``poison.csv``.
        limit: how many to show.
    """
    table = Table(caption=f"the first {limit} of {len(rows)}" if len(rows) > limit else None)
    for column in ("image", "before", "after", "attacker's target"):
        table.add_column(column)
    for row in rows[:limit]:
        before = f"{row['prediction_before']} ({100 * row['probability_before']:.0f} %)"
        after = f"{row['prediction_after']} ({100 * row['probability_after']:.0f} %)"
        table.add_row(*(_plain(cell) for cell in (row["picture"], before, after, row["target"])))
    return table


def benchmark_tables(result: dict[str, Any]) -> list[Table]:
    """Return a table for each part of a benchmark.

    Args:
        result: what :func:`inputaware.benchmarking.benchmark` returned.
    """
    tables: list[Table] = []
    if "training" in result:
        tables += [_speed_table(result), _cost_table(result)]
    if "latency" in result:
        tables.append(_latency_table(result["latency"]))
    if "size" in result:
        tables += [_size_table(stage, found) for stage, found in result["size"].items()]
    if "startup" in result:
        tables.append(_startup_table(result["startup"]))
    return tables


def _spread(value: dict[str, Any], digits: int) -> str:
    """Return a median with its range."""
    return f"{value['median']:.{digits}f} ({value['lowest']:.{digits}f} to {value['highest']:.{digits}f})"


def _new_table(title: str, first: str, *others: str) -> Table:
    table = Table(title=_plain(title), title_justify="left")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _stages(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {stage: result["training"][stage] for stage in ("mask", "joint")}


def _speed_table(result: dict[str, Any]) -> Table:
    table = _new_table(
        f"Training, {result['settings']['dataset']}, images a second",
        "stage",
        "here",
        "plain",
        "speedup",
        "plain's setting",
    )
    for stage, found in _stages(result).items():
        loop = found["loop"]
        setting = f"{loop['plain_workers']} workers, {loop['plain_threads']} threads"
        for kind, words in (("step", "-"), ("loop", setting)):
            rates = (found[kind][name] for name in ("images_per_second", "plain_images_per_second"))
            speedup = _spread(result[f"{stage}_{kind}_speedup"], 2)
            table.add_row(f"{stage} {kind}", *(f"{rate['median']:.0f}" for rate in rates), speedup, words)
    environment = result["environment"]
    table.caption = (
        f"medians (ranges) of {result['settings']['repeats']} rounds; {environment['device']}, "
        f"{environment['threads']} threads, precision {environment['precision']}"
    )
    return table


def _cost_table(result: dict[str, Any]) -> Table:
    stages = _stages(result)
    table = _new_table("What a step costs", "", *(f"{stage} stage" for stage in stages))
    peak = result["training"]["peak"]["operations_per_second"]

    def row(words: str, cell: Callable[[dict[str, Any]], str]) -> None:
        table.add_row(words, *(cell(found) for found in stages.values()))

    row("milliseconds", lambda found: f"{1e3 * found['step']['seconds']['median']:.1f}")
    row("GFLOP, convolutions and matrix products", lambda found: f"{found['operations_per_step'] / 1e9:.2f}")
    row(f"share of the peak ({peak / 1e9:.0f} GFLOP/s), %", lambda found: _percent(found["share_of_peak"]))
    row("peak memory, MiB", lambda found: f"{found['memory']['product']['peak_mib']}")
    row("peak memory of the plain step, MiB", lambda found: f"{found['memory']['plain']['peak_mib']}")
    for part in stages["joint"]["seconds_by_part"]:
        row(f"{part}, ms", lambda found, part=part: f"{1e3 * found['seconds_by_part'][part]:.1f}")  # type: ignore[misc]
    return table


def _latency_table(latency: dict[str, Any]) -> Table:
    columns = ("batch", "median", "95th percentile", "plain", "plain / here", "paper")
    table = _new_table("Latency, milliseconds", "network", *columns)
    for dataset, networks in latency.items():
        for name, found in networks.items():
            for size, times in found["batch"].items():
                published = "-" if found["published_ms"] is None else f"{found['published_ms']:.2f}"
                table.add_row(
                    f"{dataset} {name.replace('_', ' ')}",
                    size,
                    f"{times['median_ms']:.2f}",
                    f"{times['percentile_95_ms']:.2f}",
                    f"{times['plain']['median_ms']:.2f}",
                    f"{times['speedup']['median']:.2f}",
                    published,
                )
    table.caption = "paper: table 2, on an RTX 2080 Ti and an i7-9700K"
    return table


def _size_table(stage: str, found: dict[str, Any]) -> Table:
    columns = ("batch", "steps", "seconds", "images a second", "ms a step")
    table = _new_table(f"An epoch of the {stage} stage", "images", *columns)
    for rows in found.values():
        for row in rows:
            table.add_row(
                str(row["images"]),
                str(row["batch_size"]),
                str(row["steps"]),
                f"{row['seconds']:.2f}",
                f"{row['images_per_second']:.0f}",
                f"{1e3 * row['seconds_per_step']:.1f}",
            )
        table.add_section()
    return table


def _startup_table(startup: dict[str, Any]) -> Table:
    table = _new_table("Start-up", "command", "seconds")
    words = {
        "help_seconds": "inputaware --help",
        "train_seconds": "inputaware train, digits, until its first step",
        "evaluate_seconds": "inputaware evaluate, digits, to its end",
    }
    for name, value in startup.items():
        table.add_row(words[name], _spread(value, 2))
    return table
