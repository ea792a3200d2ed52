"""Tables and figures of the paper in one call: what is missing is run, what is there is kept, all is written anew."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from inputaware.config.checks import check_number, check_seed
from inputaware.config.datasets import DATASETS
from inputaware.config.fields import PrecisionName, PresetName
from inputaware.data.cache import load_images
from inputaware.errors import ConfigError, DataError, did_you_mean
from inputaware.evaluation.words import duration
from inputaware.report.collect import collect_run
from inputaware.reproduction.estimate import seconds_of_work, seconds_per_image
from inputaware.reproduction.items import ITEM_NAMES, ITEMS, Found, ItemName
from inputaware.reproduction.pages import check_index, write_index, write_item
from inputaware.reproduction.works import Place, Work
from inputaware.runs.environment import resolve_device
from inputaware.runs.files import read_json
from inputaware.training.loop import Listener

__all__ = ["Plan", "PlannedWork", "plan_reproduction", "reproduce"]


@dataclass(frozen=True)
class PlannedWork:
    """A piece of work with the seconds that it should take; 0 where it is done."""

    work: Work
    seconds: float
    done: bool


@dataclass(frozen=True)
class Plan:
    """What a reproduction will do.

    Attributes:
        place: where and how.
        dataset: the data set.
        seeds: of the runs.
        items: what will be made.
        works: the work that they need, in order.
        impossible: what cannot be made here, and why.
    """

    place: Place
    dataset: str
    seeds: tuple[int, ...]
    items: tuple[ItemName, ...]
    works: tuple[PlannedWork, ...]
    impossible: dict[ItemName, str]

    @property
    def seconds(self) -> float:
        """About how long what is missing takes."""
        return sum(planned.seconds for planned in self.works)


def plan_reproduction(
    items: Sequence[str] = ITEM_NAMES,
    *,
    dataset: str = "mnist",
    seeds: Sequence[int] = (0,),
    output: str | os.PathLike[str] = "reproduction",
    preset: PresetName = "fast",
    device: str = "auto",
    precision: PrecisionName = "auto",
    hours: float = 12.0,
) -> Plan:
    """Return what has to be run for tables and figures, and about how long that takes on this machine.

    A few steps are timed where something is missing, and the data set is read, which downloads and caches one that is
    not there; nothing is written to the folder.

    Args:
        items: which; see :data:`~inputaware.reproduction.items.ITEM_NAMES`.
        dataset: digits, mnist, cifar10 or gtsrb.
        seeds: of the runs; tables show all of them, figures the first.
        output: the folder of the reproduction.
        preset: how runs are trained.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, 32 or bf16.
        hours: an item whose missing work should take longer than this is left out.

    Raises:
        ConfigError: an item or the data set is unknown, there is no seed or one out of its range, the hours are no
            number, no item can be made here, or a run is there that was trained with other settings.
        DeviceError: the device is not there.
        RunFolderError: a file of a run that is there is corrupt, or was made with other settings or another seed; the
            folder cannot be made, or a README.md is in it that no reproduction wrote.
    """
    wanted = _check(items, dataset, seeds)
    check_number("hours", hours, 0)
    check_index(Path(output))
    place = Place(Path(output), preset, device, precision)
    used = resolve_device(device)
    needs = {name: ITEMS[name].needs(dataset, seeds) for name in wanted}
    works = dict.fromkeys(work for own in needs.values() for work in own)
    done = {work: place.done(work) for work in works}
    missing = [work for work in works if not done[work]]
    no_data = _data_missing(dataset) if any(work.kind != "latency" for work in missing) else None
    rates = seconds_per_image(dataset, used, precision) if missing else {}
    seconds = {}
    for work in works:
        seconds[work] = 0.0 if done[work] else seconds_of_work(work.kind, place.config(work.run), rates)
    impossible: dict[ItemName, str] = {}
    ahead = {name: sum(seconds[work] for work in own) for name, own in needs.items()}
    for name, own in needs.items():
        if no_data is not None and any(work.kind != "latency" and not done[work] for work in own):
            impossible[name] = no_data
        elif ahead[name] > 3600 * hours:
            impossible[name] = (
                f"its work should take about {duration(ahead[name])} on this {used.type}, more than "
                f"{duration(3600 * hours)}; run it on a machine with a GPU, or allow more with --hours"
            )
    possible = tuple(name for name in wanted if name not in impossible)
    if not possible:
        least = min(wanted, key=lambda name: ahead[name])
        raise ConfigError(
            f"item: expected at least one that can be made here; found none, not even {least}: {impossible[least]}"
        )
    used_works = dict.fromkeys(work for name in possible for work in needs[name])
    ordered = sorted(used_works, key=lambda work: work.kind != "train")
    planned = tuple(PlannedWork(work, seconds[work], done[work]) for work in ordered)
    return Plan(place, dataset, tuple(seeds), possible, planned, impossible)


def _check(items: Sequence[str], dataset: str, seeds: Sequence[int]) -> tuple[ItemName, ...]:
    """Return the items in the order of the page."""
    for name in items:
        if name not in ITEM_NAMES:
            raise ConfigError(f"item: expected one of {', '.join(ITEM_NAMES)}; found {name!r}")
    if dataset not in DATASETS:
        raise ConfigError(
            f"dataset: expected one of {', '.join(DATASETS)}; found {dataset!r}{did_you_mean(dataset, DATASETS)}"
        )
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds: expected at least one, each once; found {', '.join(map(str, seeds)) or 'none'}")
    for seed in seeds:
        check_seed(seed)
    return tuple(name for name in ITEM_NAMES if name in (items or ITEM_NAMES))


def _data_missing(dataset: str) -> str | None:
    """Return why a data set cannot be read; none where it can."""
    try:
        for split in ("train", "test"):
            load_images(dataset, split)
    except DataError as error:
        return str(error)
    return None


def reproduce(
    plan: Plan,
    *,
    listener: Callable[[Work], Listener | None] = lambda work: None,
    progress: Callable[[Work, float], None] = lambda work, share: None,
) -> Path:
    """Run what a plan misses, and write its tables, figures and the page with all of them.

    Args:
        plan: what :func:`plan_reproduction` returned.
        listener: returns who is told how the training of a run goes.
        progress: told the piece of work that is done, and the share of it that is behind.

    Returns:
        The page, ``README.md`` in the plan's folder.

    Raises:
        ConfigError: a run is there that was trained with other settings.
        DataError: the data set is missing or corrupt.
        DeviceError: the device or precision is not there.
        RunFolderError: a file is corrupt, or a run is in use.
        WriteError: the disk is full, or the folder is gone or cannot be written.
        TrainingError: a loss is not finite.
    """
    place = plan.place
    for planned in plan.works:
        if not planned.done:
            work = planned.work
            place.do(
                work,
                listener=listener(work) if work.kind == "train" else None,
                progress=lambda share, work=work: progress(work, share),  # type: ignore[misc]
            )
            progress(work, 1.0)
    keys = dict.fromkeys(planned.work.run for planned in plan.works if planned.work.kind != "latency")
    latency = place.latency(plan.dataset)
    found = Found(
        plan.dataset,
        plan.seeds,
        {key: collect_run(place.folder(key)) for key in keys},
        read_json(latency) if latency.exists() else None,
    )
    for name in plan.items:
        write_item(place, plan.dataset, name, ITEMS[name].make(found), plan.seeds)
    return write_index(place.output, plan.dataset, plan.impossible)
