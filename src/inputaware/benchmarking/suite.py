"""The whole benchmark: which parts are measured, how often, and what comes out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from inputaware.benchmarking.latency import LATENCY_DATASETS, measure_latency
from inputaware.benchmarking.operations import matrix_product_peak
from inputaware.benchmarking.plot import plot_benchmark
from inputaware.benchmarking.size import BATCH_SIZES, SHARES, seconds_of_epoch
from inputaware.benchmarking.startup import STARTS, measure_startup
from inputaware.benchmarking.training import measure_training
from inputaware.benchmarking.workload import STAGES
from inputaware.config.datasets import IMAGE_COUNTS
from inputaware.config.fields import PrecisionName
from inputaware.config.presets import preset_config
from inputaware.data.spec import dataset_spec
from inputaware.errors import ConfigError
from inputaware.runs.environment import (
    describe_environment,
    keep_freed_memory,
    resolve_device,
    resolve_precision,
    seeded,
)
from inputaware.runs.files import check_output_file, make_folder_for, write_json

__all__ = ["PARTS", "PartName", "benchmark"]

PartName = Literal["training", "latency", "size", "startup"]

PARTS: tuple[PartName, ...] = get_args(PartName)


@dataclass(frozen=True)
class _Effort:
    """How much is measured.

    Attributes:
        rounds: turns of training's product and counterpart.
        steps: steps in a round.
        passes: timed passes of a network at batch 1.
        warm_up: passes before them.
        images: what counts as all images in the part size.
        starts: timed starts of each command.
    """

    rounds: int
    steps: int
    passes: int
    warm_up: int
    images: int
    starts: int


def _effort(dataset: str, *, quick: bool, repeats: int | None) -> _Effort:
    grey = dataset_spec(dataset).shape[0] == 1
    everything = IMAGE_COUNTS[dataset].train
    if quick:
        rounds, epoch = repeats or 3, min(everything, 1024 if grey else 256)
        return _Effort(rounds, steps=3, passes=5 * rounds, warm_up=1, images=epoch, starts=repeats or 1)
    rounds = repeats or 11
    return _Effort(rounds, steps=10, passes=10 * rounds, warm_up=10, images=everything, starts=rounds)


def benchmark(
    *,
    dataset: str = "mnist",
    parts: Sequence[PartName] = PARTS,
    quick: bool = False,
    repeats: int | None = None,
    device: str = "auto",
    precision: PrecisionName = "auto",
    output: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    progress: Callable[[str, float], None] = lambda name, share: None,
) -> dict[str, Any]:
    """Measure how fast this package is on this machine.

    Images are random bytes of the data set's shape, as many as its training split has: no data set must be there.

    Args:
        dataset: digits, mnist, cifar10 or gtsrb: what training and size are measured on.
        parts: which parts to measure.
        quick: fewer rounds, and a small epoch in the part size.
        repeats: rounds in which what is compared takes turns, and timed starts of a command; none: 11, or 3 rounds
            and 1 start with quick.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: of training and size: 32, bf16, or auto, which is bf16 where it is faster.
        output: a new file for the result as JSON; none: it is only returned.
        plot: a new picture, ``.png`` or ``.svg``; none: nothing is drawn.
        progress: told which part is measured, and the share of it that is done.

    Returns:
        ``settings``, ``environment`` and a dictionary for each part. With the part training also ``mask_step_speedup``,
        ``mask_loop_speedup``, ``joint_step_speedup`` and ``joint_loop_speedup``.

    Raises:
        DataError: the data set is unknown.
        ConfigError: a part is unknown or none is named, repeats is below 1, or the picture has another ending or the
            result's file.
        DeviceError: the device or precision is not there.
        RunFolderError: a file exists or cannot be made.
        WriteError: the disk is full, or the folder is gone.
        InputAwareError: a command that is measured in a process of its own failed.
    """
    dataset_spec(dataset)
    _check_parts(parts)
    if repeats is not None and repeats < 1:
        raise ConfigError(f"repeats: expected a whole number of at least 1; found {repeats}")
    keep_freed_memory()  # the product's training does so too
    place = resolve_device(device)
    used = resolve_precision(precision, place)
    # Latency is float32 whatever is asked for, and start-up has nothing to do with it.
    recorded = used if {"training", "size"} & set(parts) else "32"
    _check_new_files(output, plot)

    effort = _effort(dataset, quick=quick, repeats=repeats)
    result: dict[str, Any] = {
        "settings": {"dataset": dataset, "parts": [*parts], "quick": quick, "repeats": effort.rounds},
        "environment": describe_environment(place, recorded),
    }
    measures: dict[PartName, Callable[[], None]] = {
        "training": lambda: _training(result, dataset, effort, place, used, progress),
        "latency": lambda: _latency(result, effort, place, progress),
        "size": lambda: _size(result, dataset, effort, place, used, progress),
        "startup": lambda: _startup(result, effort, progress),
    }
    with seeded(0, place):
        for part in PARTS:
            if part in parts:
                progress(part, 0.0)
                measures[part]()
                progress(part, 1.0)
    if output is not None:
        make_folder_for(Path(output))
        write_json(Path(output), result)
    if plot is not None:
        make_folder_for(Path(plot))
        plot_benchmark(result, Path(plot))
    return result


def _check_parts(parts: Sequence[str]) -> None:
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"parts: expected one of {', '.join(PARTS)}; found {part!r}")
    if not parts:
        raise ConfigError(f"parts: expected at least one of {', '.join(PARTS)}; found none")


def _check_new_files(output: str | os.PathLike[str] | None, plot: str | os.PathLike[str] | None) -> None:
    """Refuse, before any work, files that exist or cannot be made."""
    if plot is not None and Path(plot).suffix not in (".png", ".svg"):
        raise ConfigError(f"plot: expected a file that ends in .png or .svg; found {os.fspath(plot)!r}")
    for option, file in (("output", output), ("plot", plot)):
        if file is not None:
            check_output_file(Path(file), option=option)
    if output is not None and plot is not None and os.path.realpath(output) == os.path.realpath(plot):
        raise ConfigError(
            f"plot: expected another file than that of --output; found {os.fspath(plot)!r} for both; name another one"
        )


def _training(
    result: dict[str, Any],
    dataset: str,
    effort: _Effort,
    device: torch.device,
    precision: Literal["32", "bf16"],
    progress: Callable[[str, float], None],
) -> None:
    peak = matrix_product_peak(device, precision)
    result["training"] = {"images_are": "random bytes", "peak": peak}
    for number, stage in enumerate(STAGES):
        found = measure_training(
            dataset,
            stage,
            images=IMAGE_COUNTS[dataset].train,
            repeats=effort.rounds,
            steps=effort.steps,
            device=device,
            precision=precision,
            peak_rate=peak["operations_per_second"],
            progress=lambda share, number=number: progress("training", (number + share) / len(STAGES)),  # type: ignore[misc]
        )
        for kind in ("step", "loop"):
            result[f"{stage}_{kind}_speedup"] = found.pop(f"{kind}_speedup")
        result["training"][stage] = found


def _latency(
    result: dict[str, Any], effort: _Effort, device: torch.device, progress: Callable[[str, float], None]
) -> None:
    result["latency"] = {}
    for number, dataset in enumerate(LATENCY_DATASETS):
        result["latency"][dataset] = measure_latency(
            dataset, repeats=effort.passes, warm_up=effort.warm_up, device=device
        )
        progress("latency", (number + 1) / len(LATENCY_DATASETS))


def _size(
    result: dict[str, Any],
    dataset: str,
    effort: _Effort,
    device: torch.device,
    precision: Literal["32", "bf16"],
    progress: Callable[[str, float], None],
) -> None:
    counts = [round(share * effort.images) for share in SHARES]
    # All shares get the same batch size: the preset's, unless the smallest share has fewer images.
    usual = min(preset_config("fast", dataset=dataset).joint_stage.batch_size, counts[0])
    points = [("by_share", count, usual) for count in counts]
    # Each batch size gets an eighth of the images, or what two steps need.
    points += [
        ("by_batch_size", min(effort.images, max(counts[0], 2 * size)), size)
        for size in BATCH_SIZES
        if size <= effort.images
    ]
    result["size"] = {stage: {"by_share": [], "by_batch_size": []} for stage in STAGES}
    for number, (kind, images, batch_size) in enumerate(points):
        for stage in STAGES:
            row = seconds_of_epoch(
                dataset, stage, images=images, batch_size=batch_size, device=device, precision=precision
            )
            if kind == "by_share":
                row = {"share": SHARES[number], **row}
            result["size"][stage][kind].append(row)
        progress("size", (number + 1) / len(points))


def _startup(result: dict[str, Any], effort: _Effort, progress: Callable[[str, float], None]) -> None:
    result["startup"] = {}
    for number, start in enumerate(STARTS):
        result["startup"][f"{start}_seconds"] = measure_startup(start, repeats=effort.starts)
        progress("startup", (number + 1) / len(STARTS))
