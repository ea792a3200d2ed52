"""What a person sees in the terminal: progress on stderr, tables on stdout."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from inputaware.evaluation.aggregate import by_setting, changes, setting_in_words, spread
from inputaware.evaluation.doubts import doubts
from inputaware.evaluation.words import RATES, TESTS, percent
from inputaware.report.seeds import defended
from inputaware.sweeps.progress import CellState, seconds_left

if TYPE_CHECKING:
    from inputaware.reproduction.plan import Plan
    from inputaware.reproduction.works import Work
    from inputaware.training.loop import EpochReport

__all__ = [
    "Announcer",
    "SweepDisplay",
    "TrainingDisplay",
    "benchmark_tables",
    "count_in_words",
    "defense_table",
    "evaluation_table",
    "inspection_table",
    "named_progress",
    "plan_table",
    "poison_table",
    "printable",
    "progress_bar",
    "sweep_plan_table",
    "sweep_tables",
]

_LINE_EVERY = 30.0
"""Seconds between two lines about a work's progress where stderr is no terminal."""


def printable(text: str) -> str:
    """Return text with escapes for all that a terminal would obey and not show: control characters, turned writing."""
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in text
    )


def _plain(text: str) -> str:
    """Return text as rich shows it letter by letter."""
    return escape(printable(text))


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
            done, seconds = f"{100 * state.share:.0f}", _duration(state.seconds)
            cells = (name, words, done, seconds, str(state.attempts), state.worker)
            table.add_row(*(_plain(cell) for cell in cells))
        return table


def _how_far(states: Mapping[str, CellState], slots: int) -> str:
    """Return how many cells are in which state, and the time left."""
    counts = {status: sum(state.status == status for state in states.values()) for status in SweepDisplay._ORDER}
    done = counts["finished"] + counts["kept"]
    left = seconds_left(states, slots)
    return (
        f"{done} of {len(states)} cells done ({counts['kept']} of them before), {counts['running']} running, "
        f"{counts['broken']} broken; left: {'unknown' if left is None else _duration(left)}"
    )


def _duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


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

    Where stderr is no terminal, lines are printed instead: when a work is done, and twice a minute before.
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


def plan_table(plan: Plan) -> Table:
    """Return what a reproduction will run, and about how long that takes.

    Args:
        plan: what it will do.
    """
    table = Table(
        title=_plain(f"To make of {plan.dataset}: {', '.join(plan.items) or 'nothing'}"), title_justify="left"
    )
    table.add_column("work")
    table.add_column("about", justify="right")
    for planned in plan.works:
        table.add_row(_plain(str(planned.work)), "done" if planned.done else _duration(planned.seconds))
    table.caption = f"{_duration(plan.seconds)} in all, estimated from a few steps on this machine"
    return table


def defense_table(records: dict[str, dict[str, Any]], title: str) -> Table:
    """Return what each defense decided, and how it did on the test set.

    Args:
        records: what the files ``defenses/NAME.json`` hold, by name.
        title: what stands above the table.
    """
    table = Table(title=_plain(title), title_justify="left", show_lines=True)
    for column in ("defense", "verdict", "what it found", "how it did on the test set"):
        # A name is typed again, and what a defense found is read to the end of its longest word.
        table.add_column(column, no_wrap=column == "defense", overflow="fold")
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
    for words, key, meaning in TESTS:
        cells = [words, percent(result[key])]
        if key == "cross_accuracy" and result.get("cross_accuracy_std") is not None:
            cells[1] += f" ± {100 * result['cross_accuracy_std']:.2f}"
        if paper is not None:
            cells.append(percent(paper.get(key)))
        table.add_row(*cells, meaning)
    trigger = result["trigger"]
    if trigger is not None:
        size = f"{100 * trigger['mask_area']:.1f} % of the image's area, PSNR {trigger['psnr_db']:.1f} dB"
        table.caption = f"{result['test_images']} images; trigger: {size}"
    else:
        table.caption = f"{result['test_images']} images; a clean model has no trigger"
    table.caption = "\n".join([table.caption, *doubts(result)])
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
    row(f"share of the peak ({peak / 1e9:.0f} GFLOP/s), %", lambda found: percent(found["share_of_peak"]))
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


def sweep_plan_table(rows: list[dict[str, Any]]) -> Table:
    """Return what a sweep would run: each setting with its seeds.

    Args:
        rows: name and configuration of each cell.
    """
    settings = by_setting([{"config": row["config"], "seed": row["config"]["seed"]} for row in rows])
    table = Table(caption=f"{count_in_words(len(rows), 'cell')}, {count_in_words(len(settings), 'setting')}")
    for column in ("setting", "seeds"):
        table.add_column(column, overflow="fold")
    for by_seed in settings:
        config = next(iter(by_seed.values()))["config"]
        target_class = config["target_class"] if config["target"] == "all-to-one" else None
        words = setting_in_words({**config, "target_class": target_class, "changes": changes({"config": config})})
        table.add_row(_plain(words), " ".join(map(str, by_seed)))
    return table


def count_in_words(count: int, noun: str) -> str:
    """Return how many there are of something: 1 cell, 2 cells."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def sweep_tables(summary: dict[str, Any]) -> list[Table]:
    """Return means over seeds with how far these lie apart, what defenses say, and what differs.

    Args:
        summary: what ``summary.json`` holds.
    """
    table = _new_table(
        "Test set, percent: mean ± 95 % interval over seeds (standard deviation); of fewer than 5 (lowest to highest)",
        "setting",
        "seeds",
    )
    for words in RATES:
        table.add_column(words, justify="right")
    settings = [setting_in_words(record) for record in summary["configurations"]]
    for words, record in zip(settings, summary["configurations"], strict=True):
        cells = [spread(record["measures"].get(key)) for key in RATES.values()]
        table.add_row(_plain(words), str(len(record["seeds"])), *cells)
    tables = [table]
    defenses = Table(title="What defenses make of it: percent, models, areas", title_justify="left")
    defenses.add_column("setting")
    defenses.add_column("what")
    defenses.add_column("over the seeds", justify="right")
    for words, record in zip(settings, summary["configurations"], strict=True):
        for name, cell in defended(record).items():
            if cell != "-":
                defenses.add_row(_plain(words), _plain(name), cell)
                words = ""
    if defenses.row_count:
        tables.append(defenses)
    if not summary["comparisons"]:
        return tables
    differences = Table(title="Differences, paired by seed", title_justify="left")
    differences.add_column("setting")
    differences.add_column("beside")
    differences.add_column("what differs")
    for record in summary["comparisons"]:
        cells = [settings[record["second"]], settings[record["first"]], record["words"]]
        differences.add_row(*(_plain(cell) for cell in cells))
    return [*tables, differences]
