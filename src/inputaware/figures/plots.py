"""Plots of what was measured: training, and each defense's figure (paper, figures 4 to 6, and table 4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inputaware.evaluation.filters import ORDERS
from inputaware.evaluation.words import RATES, short_number
from inputaware.figures.style import ATTACK, CLEAN, COLOURS, CROSS, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "accuracy_points",
    "anomaly_by_class",
    "anomaly_by_run",
    "filter_bars",
    "latency_points",
    "pruning_curve",
    "score_histogram",
    "training_curves",
]

_TESTS = tuple(
    (rate, name, colour, line)
    for (name, rate), colour, line in zip(RATES.items(), (CLEAN, ATTACK, CROSS), ("-", "--", "-."), strict=True)
)
"""The three tests with the look of their lines; they differ in more than colour."""


def training_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Return losses and validation accuracies, where there are any, over the epochs of all stages.

    Args:
        rows: the rows of ``metrics.jsonl``.
    """
    from matplotlib.figure import Figure

    with style():
        validated = any(row["validation"] for row in rows)
        figure = Figure(figsize=(5.6, 4.6 if validated else 2.6))
        losses, *others = figure.subplots(2 if validated else 1, 1, sharex=True, squeeze=False)[:, 0]
        epochs = np.arange(1, len(rows) + 1)
        names = dict.fromkeys(name for row in rows for name in row["losses"])
        for name, line in zip(names, ("-", "--", "-.", ":") * len(names), strict=False):
            values = _column(rows, "losses", name)
            losses.plot(epochs, values, line, label=name.replace("_", " "), marker=_marker(rows))
        if names:
            losses.set_yscale("log")
            losses.legend(ncols=2, loc="upper right")
        losses.set(title="mean losses of each epoch")
        for accuracies in others:
            for key, label, colour, line in _TESTS:
                values = 100 * _column(rows, "validation", key)
                if not np.isnan(values).all():
                    accuracies.plot(epochs, values, line, color=colour, label=label, marker=_marker(rows))
            accuracies.legend(ncols=3, loc="lower right")
            accuracies.set(title="on the validation split", ylabel="percent")
        for axis in (losses, *others):
            _mark_stages(axis, rows)
        (losses, *others)[-1].set(xlabel="epoch")
    return figure


def pruning_curve(
    clean: NDArray[np.float64],
    attack: NDArray[np.float64] | None,
    pruned: int | float,
    *,
    places: NDArray[np.float64] | None = None,
    axis_name: str = "channels pruned",
    marked: str = "chosen",
) -> Figure:
    """Return accuracies along a pruning: figure 4, where it is Fine-Pruning.

    Args:
        clean: clean accuracy with 0, 1, 2, ... channels pruned, or at other places, in [0, 1].
        attack: attack success rate, the same; none for a clean model.
        pruned: how many channels the defense pruned, or the place where it did.
        places: what was pruned by each time; none: 0, 1, 2, ... channels.
        axis_name: what these are.
        marked: what that place is.
    """
    with _drawn() as (figure, axis):
        along = np.arange(len(clean)) if places is None else places
        axis.plot(along, 100 * clean, "-", color=CLEAN, label="clean")
        if attack is not None:
            axis.plot(along, 100 * attack, "--", color=ATTACK, label="attack")
        axis.axvline(pruned, color=COLOURS[3], linestyle=":", label=f"{marked}: {pruned:g}")
        axis.set(xlabel=axis_name, ylabel="percent of the test images", ylim=(-3, 103))
        figure.legend(loc="outside upper left", ncols=3)
    return figure


def score_histogram(
    edges: NDArray[np.float64],
    clean: NDArray[np.int64],
    triggered: NDArray[np.int64] | None,
    threshold: float,
    *,
    measure: str = "entropy",
    unit: str = "bits",
    refuses: str = "below",
) -> Figure:
    """Return how a detector's numbers are distributed, with and without triggers: figure 5, where it is STRIP.

    Args:
        edges: of the bins.
        clean: images in each bin.
        triggered: the same with their triggers; none for a clean model.
        threshold: the number beyond which an image is refused.
        measure: what the numbers are.
        unit: theirs; empty where they have none.
        refuses: whether images are refused ``below`` the threshold or ``above`` it.
    """
    with _drawn() as (figure, axis):
        for counts, label, colour, hatch in ((clean, "clean", CLEAN, ""), (triggered, "with trigger", ATTACK, "///")):
            if counts is not None:
                share = 100 * counts / max(1, counts.sum())
                axis.stairs(share, edges, fill=True, color=colour, alpha=0.35, hatch=hatch)
                axis.stairs(share, edges, color=colour, linewidth=1.6, label=label)
        axis.axvline(threshold, color=COLOURS[3], linestyle=":", label=f"refused {refuses} {short_number(threshold)}")
        axis.set(xlabel=f"{measure}, {unit}" if unit else measure, ylabel="percent of the images")
        figure.legend(loc="outside upper left", ncols=3)
    return figure


def anomaly_by_class(scores: Sequence[float | None], threshold: float, targets: Sequence[int]) -> Figure:
    """Return how unusual each class's reversed trigger is: above zero large, below zero small.

    Args:
        scores: signed anomaly index of each class; none where no trigger was found.
        threshold: a class below minus this is flagged.
        targets: the attacker's classes; drawn in another colour unless they are all.
    """
    with _drawn() as (figure, axis):
        marked = set(targets) if len(targets) < len(scores) else set()
        for own, label, colour, hatch in ((False, "class", CLEAN, ""), (True, "the attacker's class", ATTACK, "///")):
            places = [place for place in range(len(scores)) if (place in marked) is own and scores[place] is not None]
            if places:
                axis.bar(places, [scores[place] or 0 for place in places], color=colour, hatch=hatch, label=label)
        axis.axhline(-threshold, color=COLOURS[3], linestyle=":", label=f"flagged below {-threshold:g}")
        axis.axhline(0, color="dimgray", linewidth=0.8)
        if len(scores) <= 20:
            axis.set_xticks(range(len(scores)))
        axis.grid(visible=False, axis="x")
        axis.set(xlabel="class", ylabel="signed anomaly index")
        figure.legend(loc="outside upper left", ncols=3)
    return figure


def anomaly_by_run(indices: Mapping[str, float | None], thresholds: Mapping[str, float]) -> Figure:
    """Return figure 6: the anomaly index of each model, and the index above which it is flagged.

    Args:
        indices: anomaly index of the class with the smallest trigger, by model; none where there was no verdict.
        thresholds: above its own a model is flagged.
    """
    with _drawn((5.6, 1.3 + 0.4 * len(indices))) as (figure, axis):
        names = list(indices)[::-1]
        for place, name in enumerate(names):
            index = indices[name]
            flagged = index is not None and index > thresholds[name]
            axis.barh(place, index or 0, 0.6, color=ATTACK if flagged else CLEAN, hatch="///" if flagged else "")
            axis.plot([thresholds[name]] * 2, [place - 0.5, place + 0.5], color=COLOURS[3], linestyle=":")
            # On a ground of its own: just below the threshold the line would run through the number.
            ground = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            words = "no verdict" if index is None else f"{index:.2f}"
            axis.text((index or 0) + 0.07, place, words, va="center", bbox=ground)
        # A label is no formula, whatever a run is called.
        axis.set_yticks(range(len(names)), names, parse_math=False)
        axis.grid(visible=False, axis="y")
        axis.margins(x=0.15)
        limits = sorted({thresholds[name] for name in names})
        above = f"{limits[0]:g}" if len(limits) == 1 else "the dotted lines"
        # Below the whole figure: long names leave the axis less width than these words take.
        words = f"anomaly index of the smallest trigger; flagged above {above}"
        figure.supxlabel(words, fontsize=axis.xaxis.label.get_fontsize())
    return figure


def filter_bars(rows: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """Return table 4 as bars: what each filter leaves of clean accuracy and of the attack.

    Args:
        rows: for each filter its rates in [0, 1]: ``clean``, and one for each of
            :data:`~inputaware.evaluation.filters.ORDERS`; none where there is no trigger.
    """
    looks = (
        ("clean", CLEAN, ""),
        ("filter_then_trigger", COLOURS[4], "..."),
        ("trigger_then_filter", ATTACK, "///"),
    )
    with _drawn((5.6, 3.6)) as (figure, axis):
        shown = [look for look in looks if any(row.get(look[0]) is not None for row in rows.values())]
        width = 0.84 / max(1, len(shown))
        for number, (name, colour, hatch) in enumerate(shown):
            places = [place + (number - (len(shown) - 1) / 2) * width for place in range(len(rows))]
            heights = [100 * (row.get(name) or 0) for row in rows.values()]
            axis.bar(places, heights, 0.92 * width, color=colour, hatch=hatch, label=ORDERS.get(name, name))
        axis.set_xticks(range(len(rows)), list(rows), rotation=35, ha="right")
        axis.grid(visible=False, axis="x")
        axis.set(ylabel="percent of the test images", ylim=(0, 100))
        figure.legend(loc="outside upper left", ncols=3)
    return figure


def accuracy_points(rows: Mapping[str, tuple[float | None, float | None]]) -> Figure:
    """Return rates beside the paper's.

    Args:
        rows: for each test our rate and the paper's, in [0, 1]; none where there is none.
    """
    return _beside_paper(rows, "percent of the test images", factor=100)


def latency_points(rows: Mapping[str, tuple[float | None, float | None]]) -> Figure:
    """Return latencies beside the paper's.

    Args:
        rows: for each network our milliseconds and the paper's; none where there is none.
    """
    return _beside_paper(rows, "milliseconds", factor=1)


def _beside_paper(rows: Mapping[str, tuple[float | None, float | None]], unit: str, *, factor: int) -> Figure:
    """Return a point for each of ours and for the paper's where there is one, with both numbers at the side."""
    with _drawn((5.6, 0.9 + 0.32 * len(rows))) as (figure, axis):
        both = any(paper is not None for _, paper in rows.values())
        looks = (("ours", CLEAN, "o", "full"), ("the paper's", ATTACK, "D", "none"))
        for number, (label, colour, marker, fill) in enumerate(looks[: 2 if both else 1]):
            values = factor * np.array([pair[number] for pair in rows.values()], dtype=np.float64)
            look: dict[str, Any] = {"marker": marker, "fillstyle": fill, "markersize": 7, "linestyle": ""}
            axis.plot(values, range(len(rows)), color=colour, label=label, **look)
        for place, (ours, paper) in enumerate(rows.values()):
            words = "-" if ours is None else f"{factor * ours:.2f}"
            if both:
                words += " | -" if paper is None else f" | {factor * paper:.2f}"
            axis.text(1.02, place, words, transform=axis.get_yaxis_transform(), va="center", fontsize=9)
        axis.set_yticks(range(len(rows)), list(rows), parse_math=False)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.margins(x=0.08)
        axis.set(xlabel=unit)
        if both:
            figure.legend(loc="outside upper right", ncols=2)
    return figure


@contextmanager
def _drawn(size: tuple[float, float] = (5.6, 3.3)) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure with one axis, to be drawn in the one style."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=size)
        yield figure, figure.subplots()


def _marker(rows: Sequence[Any]) -> str:
    """Return how a point looks: drawn only where there are few, since a line through one point is not seen."""
    return "o" if len(rows) <= 30 else ""


def _column(rows: Sequence[Mapping[str, Any]], part: str, name: str) -> NDArray[np.float64]:
    """Return a column of the journal, NaN where a row has no such number."""
    found = (row[part].get(name) for row in rows)
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def _mark_stages(axis: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw a line where a stage ends and another begins."""
    for place in range(1, len(rows)):
        if rows[place]["stage"] != rows[place - 1]["stage"]:
            axis.axvline(place + 0.5, color="dimgray", linewidth=0.8, linestyle=":")
