"""The benchmark as a picture: one panel for each part that was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from inputaware.benchmarking.latency import NETWORKS
from inputaware.benchmarking.parts import PARTS
from inputaware.benchmarking.workload import STAGES
from inputaware.figures.style import COLOURS, png_figure, style, svg_figure
from inputaware.runs.files import write_bytes
from inputaware.runs.results import device_in_words

__all__ = ["plot_benchmark"]

_PANEL = (5.0, 3.8)
"""Width and height of a panel in inches."""


def plot_benchmark(result: dict[str, Any], path: Path) -> None:
    """Draw what :func:`inputaware.benchmarking.benchmark` returned.

    Args:
        result: the result, with any of its parts.
        path: the picture; ``.png`` or ``.svg``.

    Raises:
        WriteError: the picture cannot be written.
    """
    from matplotlib.figure import Figure  # here, since it takes a tenth of a second and more

    panels: list[Callable[[Any, dict[str, Any]], None]] = []
    if "training" in result:
        panels += [_draw_rates, _draw_parts]
    if "latency" in result:
        panels.append(_draw_latency)
    if "size" in result:
        panels += [_draw_shares, _draw_batches]
    if "startup" in result:
        panels.append(_draw_startup)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with style():
        figure = Figure(figsize=(columns * _PANEL[0], rows * _PANEL[1]))
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for draw, axis in zip(panels, axes, strict=False):
            draw(axis, result)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        settings, environment = result["settings"], result["environment"]
        place = device_in_words(environment)
        figure.suptitle(
            f"{settings['dataset']}, {place}, {environment['threads']} threads, precision {environment['precision']}"
        )
        write_bytes(path, (png_figure if path.suffix == ".png" else svg_figure)(figure))


def _draw_rates(axis: Any, result: dict[str, Any]) -> None:
    bars = (
        ("step", "step", "images_per_second", COLOURS[0]),
        ("plain step", "step", "plain_images_per_second", COLOURS[5]),
        ("loop", "loop", "images_per_second", COLOURS[2]),
        ("plain loop", "loop", "plain_images_per_second", COLOURS[4]),
    )
    width = 0.8 / len(bars)
    for number, (label, kind, key, colour) in enumerate(bars):
        found = [result["training"][stage][kind][key] for stage in STAGES]
        medians = [value["median"] for value in found]
        spread = [
            [value["median"] - value["lowest"] for value in found],
            [value["highest"] - value["median"] for value in found],
        ]
        places = [index + (number - 1.5) * width for index in range(len(STAGES))]
        axis.bar(places, medians, width, yerr=spread, label=label, color=colour, ecolor="dimgray")
    axis.set_xticks(range(len(STAGES)), [f"{stage} stage" for stage in STAGES])
    axis.set(title="training", ylabel="images a second")
    axis.legend(fontsize="small")


def _draw_parts(axis: Any, result: dict[str, Any]) -> None:
    below = [0.0] * len(STAGES)
    for part in PARTS:
        found = [1e3 * result["training"][stage]["seconds_by_part"][part] for stage in STAGES]
        axis.bar(range(len(STAGES)), found, 0.6, bottom=below, label=part)
        below = [low + value for low, value in zip(below, found, strict=True)]
    axis.set_xticks(range(len(STAGES)), [f"{stage} stage" for stage in STAGES])
    # Room for the legend beside the bars.
    axis.set(title="time of a step by part", ylabel="milliseconds", xlim=(-0.5, len(STAGES) + 0.2))
    axis.legend(fontsize="small", loc="center right", reverse=True)


def _draw_latency(axis: Any, result: dict[str, Any]) -> None:
    found = result["latency"]
    names = [(dataset, network) for dataset in found for network in NETWORKS]
    short = {"classifier": "f", "mask_generator": "$g_m$", "pattern_generator": "$g_p$"}
    sizes = next(iter(found.values()))["classifier"]["batch"]
    for size, marker in zip(sizes, "os^v", strict=False):
        values = [found[dataset][network]["batch"][size]["median_ms"] for dataset, network in names]
        axis.plot(range(len(names)), values, marker, label=f"here, batch {size}")
    published = [found[dataset][network]["published_ms"] for dataset, network in names]
    axis.plot(range(len(names)), published, "kx", label="the paper")
    axis.set_xticks(
        range(len(names)), [f"{dataset} {short[network]}" for dataset, network in names], rotation=45, ha="right"
    )
    axis.set(title="latency", ylabel="milliseconds", yscale="log")
    axis.legend(fontsize="small")


def _draw_shares(axis: Any, result: dict[str, Any]) -> None:
    for stage in STAGES:
        rows = result["size"][stage]["by_share"]
        images = [row["images"] for row in rows]
        (line,) = axis.plot(images, [row["seconds"] for row in rows], "o-", label=f"{stage} stage")
        last = rows[-1]
        slope = last["seconds"] / last["images"]
        axis.plot(images, [slope * count for count in images], ":", color=line.get_color())
    axis.set(title="an epoch by its images (dotted: linear)", xlabel="images", ylabel="seconds")
    axis.set(xscale="log", yscale="log")
    axis.legend(fontsize="small")


def _draw_batches(axis: Any, result: dict[str, Any]) -> None:
    for stage in STAGES:
        rows = result["size"][stage]["by_batch_size"]
        sizes = [row["batch_size"] for row in rows]
        axis.plot(sizes, [row["images_per_second"] for row in rows], "o-", label=f"{stage} stage")
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.set(title="images a second by batch size", xlabel="images in a batch", ylabel="images a second")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize="small")


def _draw_startup(axis: Any, result: dict[str, Any]) -> None:
    found = {name.removesuffix("_seconds"): value["median"] for name, value in result["startup"].items()}
    axis.barh(list(found), list(found.values()), color=COLOURS[0])
    axis.set(title="start-up", xlabel="seconds")
