"""The pictures of a run, as data that stand within the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inputaware.evaluation.filters import FILTER_SETS, ORDERS
from inputaware.evaluation.words import short_number
from inputaware.figures.pictures import png, show_heat, show_pixels, show_residuals
from inputaware.figures.plots import (
    anomaly_by_class,
    anomaly_by_run,
    filter_bars,
    pruning_curve,
    score_histogram,
    training_curves,
)
from inputaware.figures.style import adaptive_svg
from inputaware.report.collect import CollectedRun, Defended
from inputaware.report.verdict import DEFENSE_TITLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Cell",
    "Plot",
    "Row",
    "beside_badnets",
    "class_shown",
    "compare_anomalies",
    "cross_matrix",
    "defense_plot",
    "gallery",
    "heat_maps",
    "said",
    "training_plot",
]

_MOST_SAMPLES = 50
"""Samples of a run that are shown: a data set of 43 classes, or five images of each of ten."""


_HEADS = {
    "clean image": "clean",
    "mask": "mask",
    "pattern": "pattern",
    "image with its trigger": "with trigger",
    "residual": "residual",
}
"""What stands above a column; the images themselves are described in full."""


@dataclass(frozen=True)
class Cell:
    """A small image.

    Attributes:
        source: a data URI.
        words: what it shows, for who cannot see it and as its caption when it is enlarged.
        said: keys of what the classifier says, in :func:`said`.
        kind: target, label or other where it is known what the classifier made of it.
        mark: what the classifier says of it, short enough to stand beneath.
    """

    source: str
    words: str
    said: tuple[str, ...]
    kind: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Row:
    """Small images in a row.

    Attributes:
        title: the row's name.
        cells: its images.
    """

    title: str
    cells: list[Cell]


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        source: a data URI.
        words: what it shows, for who cannot see it.
    """

    source: str
    words: str


def class_shown(run: CollectedRun, label: int) -> str:
    """Return a class's name as it is shown."""
    return f"class {run.spec.class_names[label]}"


def gallery(run: CollectedRun) -> tuple[list[str], list[Row], int]:
    """Return the columns and rows of the gallery, and how many samples are left out."""
    assert run.inspected is not None
    arrays, record = run.inspected.gallery, run.inspected.record
    shown = [("clean image", show_pixels(arrays["image"]))]
    if "mask" in arrays:
        shown += [
            ("mask", show_pixels(arrays["mask"])),
            ("pattern", show_pixels(arrays["pattern"])),
            ("image with its trigger", show_pixels(arrays["poisoned"])),
            ("residual", show_residuals(arrays["residual"])),
        ]
    rows = []
    for place, sample in enumerate(record["samples"][:_MOST_SAMPLES]):
        keys = tuple(f"{kind}{place}" for kind in (("clean", "backdoor") if "mask" in arrays else ("clean",)))
        name = f"test image {sample['index']}, {class_shown(run, sample['label'])}"
        rows.append(
            Row(
                run.spec.class_names[sample["label"]],
                [Cell(_picture(pictures[place]), f"{column}: {name}", keys) for column, pictures in shown],
            )
        )
    return [_HEADS[column] for column, _ in shown], rows, max(0, len(record["samples"]) - _MOST_SAMPLES)


def heat_maps(run: CollectedRun) -> tuple[list[str], list[Row]]:
    """Return the columns and rows of the Grad-CAM pairs (figures 2 and 7)."""
    assert run.inspected is not None
    arrays, heat = run.inspected.gallery, run.inspected.grad_cam
    pairs = [("clean", "clean image", show_pixels(arrays["image"]))]
    if "backdoor" in heat:
        pairs.append(("backdoor", "image with its trigger", show_pixels(arrays["poisoned"])))
    maps = {kind: show_heat(heat[kind], pictures) for kind, _, pictures in pairs}
    rows = []
    for place, sample in enumerate(run.inspected.record["samples"][:_MOST_SAMPLES]):
        name = f"test image {sample['index']}, {class_shown(run, sample['label'])}"
        cells = []
        for kind, column, pictures in pairs:
            words = f"{column}: {name}"
            cells.append(Cell(_picture(pictures[place]), words, (f"{kind}{place}",)))
            cells.append(Cell(_picture(maps[kind][place]), f"heat of the {words}", (f"{kind}{place}",)))
        rows.append(Row(run.spec.class_names[sample["label"]], cells))
    return [title for _, column, _ in pairs for title in (_HEADS[column], "its heat")], rows


def cross_matrix(run: CollectedRun) -> tuple[list[Cell], list[Row]] | None:
    """Return the clean images, and a row for each trigger with every image that carries it; none for a clean model."""
    assert run.inspected is not None
    arrays = run.inspected.cross_trigger
    if arrays is None:
        return None
    crossed, probabilities = arrays["poisoned"], arrays["probabilities"]
    labels, targets, indices = arrays["label"], arrays["target"], arrays["index"]
    places = {int(index): place for place, index in enumerate(run.inspected.gallery["index"])}
    clean = show_pixels(run.inspected.gallery["image"])
    names = run.spec.class_names
    short = max(map(len, names)) <= 3
    columns = [
        Cell(
            _picture(clean[places[int(index)]]),
            f"clean image: test image {index}, {class_shown(run, int(label))}",
            (f"clean{places[int(index)]}",),
        )
        for index, label in zip(indices, labels, strict=True)
    ]
    rows = []
    for trigger, pictures in enumerate(show_pixels(images) for images in crossed):
        cells = []
        for image, picture in enumerate(pictures):
            predicted = int(probabilities[trigger, image].argmax())
            kind = "other"
            if predicted == labels[image]:  # first, since of an image of the attacker's class nothing is learned
                kind = "label"
            elif predicted == targets[image]:
                kind = "target"
            own = "its own trigger" if trigger == image else f"the trigger of test image {indices[trigger]}"
            cells.append(
                Cell(
                    _picture(picture),
                    f"test image {indices[image]}, {class_shown(run, int(labels[image]))}, with {own}: "
                    f"taken for {class_shown(run, predicted)}",
                    (f"cross{trigger}-{image}",),
                    kind,
                    names[predicted] if short else str(predicted),
                )
            )
        label = int(labels[trigger])
        rows.append(Row(names[label] if short else f"{label} {names[label]}", cells))
    return columns, rows


def beside_badnets(ours: CollectedRun, badnets: CollectedRun) -> list[Row] | None:
    """Return the rows of figure 1; none where the two inspections do not show the same images."""
    assert ours.inspected is not None
    assert badnets.inspected is not None
    first, second = ours.inspected.gallery, badnets.inspected.gallery
    if not np.array_equal(first["index"], second["index"]) or not np.array_equal(first["image"], second["image"]):
        return None
    shown = (
        ("clean", first["image"], "clean"),
        ("BadNets' trigger", second["pattern"] * second["mask"], ""),
        ("BadNets' image", second["poisoned"], ""),
        ("own trigger", first["pattern"] * first["mask"], "backdoor"),
        ("image with it", first["poisoned"], "backdoor"),
    )
    rows = []
    for title, images, kind in shown:
        cells = []
        for place, picture in enumerate(show_pixels(images)[: len(ours.inspected.record["samples"])][:10]):
            sample = ours.inspected.record["samples"][place]
            words = f"{title}: test image {sample['index']}, {class_shown(ours, sample['label'])}"
            cells.append(Cell(_picture(picture), words, (f"{kind}{place}",) if kind else ()))
        rows.append(Row(title, cells))
    return rows


def said(run: CollectedRun) -> dict[str, dict[str, Any]]:
    """Return what the classifier says of each shown image, by key: its title, labels and probabilities."""
    if run.inspected is None:
        return {}
    arrays, crossed = run.inspected.gallery, run.inspected.cross_trigger
    found = {}
    heads = set() if crossed is None else {int(index) for index in crossed["index"]}
    for kind, title in (("clean", "without trigger"), ("backdoor", "with its own trigger")):
        for place, row in enumerate(arrays.get(f"{kind}_probabilities", ())):
            # Those of the gallery, and those that stand above the matrix.
            if place >= _MOST_SAMPLES and int(arrays["index"][place]) not in heads:
                continue
            target = int(arrays["target"][place]) if "target" in arrays else None
            found[f"{kind}{place}"] = _answer(title, int(arrays["label"][place]), target, row)
    if crossed is not None:
        for trigger, rows in enumerate(crossed["probabilities"]):
            for image, row in enumerate(rows):
                title = "with its own trigger" if trigger == image else "with another image's trigger"
                label, target = int(crossed["label"][image]), int(crossed["target"][image])
                found[f"cross{trigger}-{image}"] = _answer(title, label, target, row)
    return found


def _answer(title: str, label: int, target: int | None, probabilities: NDArray[Any]) -> dict[str, Any]:
    return {
        "title": title,
        "label": label,
        "target": target,
        "probabilities": [round(float(value), 4) for value in probabilities],
    }


def training_plot(run: CollectedRun) -> Plot | None:
    """Return the training curves; none where there is no epoch yet."""
    if not run.epochs:
        return None
    last = run.epochs[-1]["validation"]
    words = ", ".join(
        f"{name.replace('_', ' ')} {100 * value:.1f} %" for name, value in last.items() if value is not None
    )
    shown, end = ("losses and accuracies", f"; last: {words}") if words else ("losses", "")
    return _plot(training_curves(run.epochs), f"{shown} over {len(run.epochs)} epochs{end}")


def defense_plot(name: str, defended: Defended) -> Plot | None:
    """Return the figure of a defense: 4, 5, 6, table 4 as bars, a histogram of any detector; none of others."""
    record = defended.record
    scores, scoring = record["scores"], record["scoring"]["scores"]
    if name == "neural-cleanse":
        figure = anomaly_by_class(scores["anomaly_scores"], scores["threshold"], scoring["targets"])
        listed = ", ".join(
            f"{label}: {'none' if value is None else f'{value:.2f}'}"
            for label, value in enumerate(scores["anomaly_scores"])
        )
        return _plot(figure, f"signed anomaly index of each class's reversed trigger: {listed}")
    if name in ("fine-pruning", "adversarial-neuron-pruning"):
        return _pruning_plot(defended)
    if name == "image-regularization":
        return _plot(filter_bars(_filters(scoring)), "clean accuracy and attack under each filter, in both orders")
    # Results of STRIP from before there were other detectors do not say what they are of.
    kept = {"scoring_bin_edges", "scoring_clean_histogram"} <= defended.arrays.keys()
    if kept and (name == "strip" or f"mean_{scores.get('measure')}_clean" in scoring):
        return _detector_plot(defended)
    return None


def _pruning_plot(defended: Defended) -> Plot:
    """Return clean accuracy and attack with more and more pruned: by number of channels, or by a threshold."""
    scores, arrays = defended.record["scores"], defended.arrays
    clean, attack = arrays["scoring_clean_accuracy"], arrays.get("scoring_attack_success_rate")
    if (places := arrays.get("scoring_thresholds")) is None:
        figure = pruning_curve(clean, attack, scores["pruned_channels"])
        return _plot(figure, f"clean accuracy and attack for 0 to {len(clean) - 1} pruned channels")
    figure = pruning_curve(
        clean, attack, scores["threshold"], places=places, axis_name="masks pruned up to", marked="threshold"
    )
    return _plot(figure, f"clean accuracy and attack for thresholds from {places[0]:g} to {places[-1]:g}")


def _detector_plot(defended: Defended) -> Plot:
    """Return how the numbers of a detector are distributed."""
    scores, scoring, arrays = defended.record["scores"], defended.record["scoring"]["scores"], defended.arrays
    measure, unit = scores.get("measure", "entropy"), scores.get("unit", "bits")
    figure = score_histogram(
        arrays["scoring_bin_edges"],
        arrays["scoring_clean_histogram"],
        arrays.get("scoring_triggered_histogram"),
        scores["threshold"],
        measure=measure,
        unit=unit,
        refuses=scores.get("refuses", "below"),
    )
    means = [
        f"{words} {short_number(value)} {unit}".rstrip()
        for kind, words in (("clean", "of clean images"), ("triggered", "with triggers"))
        if (value := scoring[f"mean_{measure}_{kind}"]) is not None
    ]
    outside = scoring.get("outside_histogram")
    beyond = f"; {outside} numbers beyond the ends are counted in the outermost bins" if outside else ""
    return _plot(figure, f"distribution of the images' {measure}: mean {', '.join(means)}{beyond}")


def _filters(scoring: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return the rates of each filter as the bars have them."""
    original = scoring["original"]
    attack = None if original["attack"] is None else original["attack"]["attack_success_rate"]
    rows = {"no filter": {"clean": original["clean_accuracy"], **dict.fromkeys(ORDERS, attack)}}
    for kind, short in zip(FILTER_SETS, ("", "*"), strict=True):
        for name, rates in scoring.get(kind, {}).items():
            rows[f"{name}{short}"] = {
                "clean": rates["clean_accuracy"],
                **{order: (rates[order] or {}).get("attack_success_rate") for order in ORDERS},
            }
    return rows


def compare_anomalies(runs: Sequence[CollectedRun]) -> Plot | None:
    """Return figure 6: the anomaly index of each run; none where fewer than two were judged."""
    judged = {
        f"{place}: {run.name}": run.defenses["neural-cleanse"].record["scores"]
        for place, run in enumerate(runs, 1)
        if "neural-cleanse" in run.defenses
    }
    if len(judged) < 2:
        return None
    indices = {name: scores["anomaly_index"] for name, scores in judged.items()}
    thresholds = {name: float(scores["threshold"]) for name, scores in judged.items()}
    listed = ", ".join(f"{name} {'none' if index is None else f'{index:.2f}'}" for name, index in indices.items())
    title = DEFENSE_TITLES["neural-cleanse"]
    return _plot(anomaly_by_run(indices, thresholds), f"{title}, anomaly index of each run: {listed}")


def _picture(picture: NDArray[np.uint8]) -> str:
    return _uri("image/png", png(picture))


def _plot(figure: Figure, words: str) -> Plot:
    return Plot(_uri("image/svg+xml", adaptive_svg(figure)), words)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
