"""The paper's items: what each needs, and how ours stands beside the paper's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from inputaware.config.fields import TargetName
from inputaware.evaluation.filters import ORDERS
from inputaware.evaluation.words import RATES, in_percent, percent
from inputaware.figures.panels import image_rows
from inputaware.figures.pictures import show_heat, show_pixels
from inputaware.figures.plots import (
    accuracy_points,
    anomaly_by_run,
    latency_points,
    pruning_curve,
    score_histogram,
)
from inputaware.report.collect import CollectedRun
from inputaware.reproduction.works import RunKey, Work, WorkKind
from inputaware.runs.results import device_in_words, published, published_filters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ITEMS", "ITEM_NAMES", "Found", "Item", "ItemName", "Made"]

ItemName = Literal[
    "main",
    "table2",
    "table3",
    "table4",
    "figure1",
    "figure2",
    "figure3",
    "figure4",
    "figure5",
    "figure6",
    "figure7",
]

ITEM_NAMES: tuple[ItemName, ...] = get_args(ItemName)

_IMAGES_IN_A_ROW = 10


@dataclass(frozen=True)
class Found:
    """What the work of an item gave.

    Attributes:
        dataset: the data set.
        seeds: of the runs; figures show the first.
        runs: the run folders that were read.
        latency: the latencies of the networks, where they were measured.
    """

    dataset: str
    seeds: Sequence[int]
    runs: Mapping[RunKey, CollectedRun]
    latency: Mapping[str, Any] | None = None

    def attack(self, target: TargetName, seed: int | None = None) -> CollectedRun:
        """Return the run of the paper's attack with a target."""
        return self.runs[_ours(self.dataset, target, self.seeds[0] if seed is None else seed)]


@dataclass(frozen=True)
class Made:
    """An item as it was made.

    Attributes:
        figure: its picture.
        rows: its numbers by column, as text; the first row's names are the columns.
        note: what was measured, in sentences.
    """

    figure: Figure
    rows: list[dict[str, str]] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Item:
    """A table or figure of the paper.

    Attributes:
        title: what the paper shows there.
        needs: the work that it takes, for a data set and seeds.
        make: draws it from what was found.
    """

    title: str
    needs: Callable[[str, Sequence[int]], list[Work]]
    make: Callable[[Found], Made]


def _ours(dataset: str, target: TargetName, seed: int) -> RunKey:
    return RunKey(dataset, "input-aware", target, seed)


def _controls(dataset: str, seed: int) -> list[RunKey]:
    return [RunKey(dataset, "badnets", "all-to-one", seed), RunKey(dataset, "none", "all-to-one", seed)]


def _trained(target: TargetName) -> Callable[[str, Sequence[int]], list[Work]]:
    """Return the training of the paper's attack, once for each seed."""
    return lambda dataset, seeds: [Work("train", _ours(dataset, target, seed)) for seed in seeds]


def _looked_at(target: TargetName, *kinds: WorkKind) -> Callable[[str, Sequence[int]], list[Work]]:
    """Return the training of one run of the paper's attack, and what is then done with it."""
    return lambda dataset, seeds: [Work(kind, _ours(dataset, target, seeds[0])) for kind in ("train", *kinds)]


def _beside_badnets(dataset: str, seeds: Sequence[int]) -> list[Work]:
    runs = (_ours(dataset, "all-to-one", seeds[0]), _controls(dataset, seeds[0])[0])
    return [Work(kind, run) for run in runs for kind in ("train", "inspect")]


def _judged(dataset: str, seeds: Sequence[int]) -> list[Work]:
    """Return Neural Cleanse on both targets, and on the controls that it must catch and leave alone."""
    targets: tuple[TargetName, ...] = ("all-to-all", "all-to-one")
    runs = [*(_ours(dataset, target, seeds[0]) for target in targets), *_controls(dataset, seeds[0])]
    return [Work(kind, run) for run in runs for kind in ("train", "neural-cleanse")]


def _points(ours: float | None, paper: float | None) -> str:
    return "-" if ours is None or paper is None else f"{100 * (ours - paper):+.2f}"


def _accuracies(target: TargetName) -> Callable[[Found], Made]:
    def make(found: Found) -> Made:
        runs = [found.attack(target, seed) for seed in found.seeds]
        paper = published(runs[0].config) or {}
        rows, points = [], {}
        for name, key in RATES.items():
            values = [run.result["evaluation"][key] for run in runs if run.result is not None]
            mean = statistics.fmean(values)
            rows.append(
                {
                    "test": name,
                    "ours, %": percent(mean),
                    "standard deviation": percent(statistics.stdev(values)) if len(values) > 1 else "-",
                    "paper, %": percent(paper.get(key)),
                    "difference, points": _points(mean, paper.get(key)),
                    **{f"seed {seed}": percent(value) for seed, value in zip(found.seeds, values, strict=True)},
                }
            )
            points[name] = (mean, paper.get(key))
        return Made(accuracy_points(points), rows, _words(runs))

    return make


def _words(runs: Sequence[CollectedRun]) -> str:
    """Return how the runs were made; where not all in one way, each way with its seeds."""
    results = [run.result for run in runs if run.result is not None]
    first = results[0]
    ways: dict[str, list[str]] = {}
    for result in results:
        way = f"{result['device']}, {_threads(result['threads'])}, precision {result['precision']}"
        ways.setdefault(way, []).append(str(result["seed"]))
    made = "; ".join(f"{way} ({_seeds(own)})" if len(ways) > 1 else way for way, own in ways.items())
    seconds = ", ".join(f"{result['wall_seconds']:.0f}" for result in results)
    return (
        f"{first['evaluation']['test_images']} test images; preset {first['preset']}, trained on "
        f"{first['trained_on']}, {_seeds([str(result['seed']) for result in results])}: {seconds} seconds on {made}."
    )


def _seeds(seeds: Sequence[str]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"


def _latencies(found: Found) -> Made:
    assert found.latency is not None
    networks, environment = found.latency["networks"], found.latency["environment"]
    rows, points = [], {}
    for name, network in networks.items():
        times = {size: network["batch"][size]["median_ms"] for size in network["batch"]}
        paper = network["published_ms"]
        rows.append(
            {
                "network": name.replace("_", " "),
                **{f"ours, batch {size}, ms": f"{value:.2f}" for size, value in times.items()},
                "paper, ms": "-" if paper is None else f"{paper:.2f}",
            }
        )
        points[name.replace("_", " ")] = (times["1"], paper)
    place = device_in_words(environment)
    note = (
        f"Medians, evaluation mode, float32, on {place}, {_threads(environment['threads'])}. The paper's are from an "
        "RTX 2080 Ti and an i7-9700K; it names no batch size."
    )
    return Made(latency_points(points), rows, note)


def _filters(found: Found) -> Made:
    run = found.attack("all-to-all")
    scores = run.defenses["image-regularization"].record["scoring"]["scores"]
    paper = published_filters(found.dataset) or {}
    rows: list[dict[str, str]] = []
    points: dict[str, tuple[float | None, float | None]] = {}
    shown = {"original": {"clean_accuracy": scores["original"]["clean_accuracy"]}} | scores["release"]
    for name, rates in shown.items():
        orders = dict.fromkeys(ORDERS, scores["original"]["attack"]) if name == "original" else rates
        attack, after = (orders[order]["attack_success_rate"] for order in ORDERS)
        theirs = paper.get(name, {})
        rows.append(
            {
                "filter": name,
                "clean, ours, %": percent(rates["clean_accuracy"]),
                "clean, paper, %": percent(theirs.get("clean_accuracy")),
                "clean, difference": _points(rates["clean_accuracy"], theirs.get("clean_accuracy")),
                "attack, ours, %": percent(attack),
                "attack, paper, %": percent(theirs.get("attack_success_rate")),
                "attack, difference": _points(attack, theirs.get("attack_success_rate")),
                "filter over the trigger, ours, %": percent(after),
            }
        )
        points[f"{name}: clean"] = (rates["clean_accuracy"], theirs.get("clean_accuracy"))
        points[f"{name}: attack"] = (attack, theirs.get("attack_success_rate"))
    note = (
        f"{_words([run])} The release's filters. As in the paper the trigger is made for the filtered image; in the "
        "last column the filter is laid over the triggered image, which is what a defender can do."
    )
    return Made(accuracy_points(points), rows, note)


def _arrays(run: CollectedRun) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    assert run.inspected is not None
    return run.inspected.gallery, run.inspected.grad_cam


def _threads(count: int | str) -> str:
    return f"{count} thread{'s' if int(count) > 1 else ''}"


def _few(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the first images of a row as bytes."""
    return show_pixels(images[:_IMAGES_IN_A_ROW])


def _samples_beside_badnets(found: Found) -> Made:
    run = found.attack("all-to-one")
    (ours, _), (theirs, _) = _arrays(run), _arrays(found.runs[_controls(found.dataset, found.seeds[0])[0]])
    rows = {
        "clean": _few(ours["image"]),
        "BadNets' pattern": _few(theirs["pattern"] * theirs["mask"]),
        "BadNets' image": _few(theirs["poisoned"]),
        "our pattern": _few(ours["pattern"] * ours["mask"]),
        "our image": _few(ours["poisoned"]),
    }
    return Made(image_rows(rows), note=f"Test images drawn at random, one of a class. {_words([run])}")


def _samples(found: Found) -> Made:
    run = found.attack("all-to-all")
    arrays, _ = _arrays(run)
    rows = {
        "clean": _few(arrays["image"]),
        "trigger": _few(arrays["pattern"] * arrays["mask"]),
        "backdoor": _few(arrays["poisoned"]),
    }
    return Made(image_rows(rows), note=f"Test images drawn at random, one of a class. {_words([run])}")


def _heat(target: TargetName) -> Callable[[Found], Made]:
    def make(found: Found) -> Made:
        run = found.attack(target)
        arrays, heat = _arrays(run)
        rows = {}
        for name, images, kind in (("clean", "image", "clean"), ("backdoor", "poisoned", "backdoor")):
            rows[name] = _few(arrays[images])
            rows[f"{name}: heat"] = show_heat(heat[kind][:_IMAGES_IN_A_ROW], rows[name])
        assert run.inspected is not None
        measured = run.inspected.record["heat_on_trigger"]
        note = (
            f"Grad-CAM for the predicted class. Of {measured['images']} triggered images, "
            f"{in_percent(measured['backdoor']['heat_share'])} of the heat lies on the masks, which cover "
            f"{in_percent(measured['mask_area'])} of the area. {_words([run])}"
        )
        return Made(image_rows(rows), note=note)

    return make


def _pruning(found: Found) -> Made:
    run = found.attack("all-to-all")
    defended = run.defenses["fine-pruning"]
    clean, attack = defended.arrays["scoring_clean_accuracy"], defended.arrays["scoring_attack_success_rate"]
    rows = [
        {"channels pruned": str(count), "clean, %": percent(float(one)), "attack, %": percent(float(other))}
        for count, (one, other) in enumerate(zip(clean, attack, strict=True))
    ]
    figure = pruning_curve(clean, attack, defended.record["scores"]["pruned_channels"])
    return Made(figure, rows, f"{defended.record['scoring']['sentence']} {_words([run])}")


def _entropies(found: Found) -> Made:
    run = found.attack("all-to-all")
    defended = run.defenses["strip"]
    edges, clean, triggered = (
        defended.arrays[f"scoring_{name}"] for name in ("bin_edges", "clean_histogram", "triggered_histogram")
    )
    rows = [
        {"from, bits": f"{low:.4f}", "to, bits": f"{high:.4f}", "clean images": str(one), "with trigger": str(other)}
        for low, high, one, other in zip(edges[:-1], edges[1:], clean, triggered, strict=True)
    ]
    figure = score_histogram(edges, clean, triggered, defended.record["scores"]["threshold"])
    return Made(figure, rows, f"{defended.record['scoring']['sentence']} {_words([run])}")


def _anomalies(found: Found) -> Made:
    names = {
        _ours(found.dataset, "all-to-all", found.seeds[0]): "input-aware, all-to-all",
        _ours(found.dataset, "all-to-one", found.seeds[0]): "input-aware, all-to-one",
        **dict(zip(_controls(found.dataset, found.seeds[0]), ("BadNets", "clean model"), strict=True)),
    }
    records = {name: found.runs[run].defenses["neural-cleanse"].record for run, name in names.items()}
    indices = {name: record["scores"]["anomaly_index"] for name, record in records.items()}
    rows = [
        {
            "model": name,
            "anomaly index": "-" if indices[name] is None else f"{indices[name]:.2f}",
            "verdict": record["verdict"],
            "what came out": record["scoring"]["sentence"],
        }
        for name, record in records.items()
    ]
    thresholds = {name: float(record["scores"]["threshold"]) for name, record in records.items()}
    note = "The paper's figure has the attack and a clean model; BadNets shows whether the defense works at all."
    return Made(anomaly_by_run(indices, thresholds), rows, note)


ITEMS: dict[ItemName, Item] = {
    "main": Item("Main paper: the attack with one target", _trained("all-to-one"), _accuracies("all-to-one")),
    "table2": Item(
        "Table 2: inference time",
        lambda dataset, seeds: [Work("latency", _ours(dataset, "all-to-one", seeds[0]))],
        _latencies,
    ),
    "table3": Item("Table 3: the all-to-all attack", _trained("all-to-all"), _accuracies("all-to-all")),
    "table4": Item(
        "Table 4: image regularization, all-to-all", _looked_at("all-to-all", "image-regularization"), _filters
    ),
    "figure1": Item("Figure 1: samples beside BadNets", _beside_badnets, _samples_beside_badnets),
    "figure2": Item("Figure 2: heat maps, all-to-one", _looked_at("all-to-one", "inspect"), _heat("all-to-one")),
    "figure3": Item("Figure 3: samples, all-to-all", _looked_at("all-to-all", "inspect"), _samples),
    "figure4": Item("Figure 4: Fine-Pruning, all-to-all", _looked_at("all-to-all", "fine-pruning"), _pruning),
    "figure5": Item("Figure 5: STRIP, all-to-all", _looked_at("all-to-all", "strip"), _entropies),
    "figure6": Item("Figure 6: Neural Cleanse", _judged, _anomalies),
    "figure7": Item("Figure 7: heat maps, all-to-all", _looked_at("all-to-all", "inspect"), _heat("all-to-all")),
}
"""Every item of the supplement, and the main paper's attack, in the order of the page."""
