"""Images a second of both stages, beside the plain step and the plain loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from inputaware.attacks.base import StepLoss
from inputaware.benchmarking.memory import peak_memory
from inputaware.benchmarking.operations import count_operations
from inputaware.benchmarking.operators import seconds_by_operator
from inputaware.benchmarking.parts import seconds_by_part
from inputaware.benchmarking.plain_loader import PlainImages, plain_batches, prefetched
from inputaware.benchmarking.timing import seconds_of, take_turns, threads
from inputaware.benchmarking.workload import MIDDLE, StageName, Workload
from inputaware.data.loader import Batch
from inputaware.evaluation.statistics import ratios, summary
from inputaware.training.step import TrainingStep

__all__ = ["LoopSetting", "loop_settings", "measure_training"]


@dataclass(frozen=True)
class LoopSetting:
    """How a plain loop uses the machine.

    Attributes:
        workers: processes that make batches; 0: the training's own.
        threads: threads that torch computes with in the training's process.
    """

    workers: int
    threads: int


def loop_settings(cores: int) -> list[LoopSetting]:
    """Return the settings of the plain loop that are tried.

    Workers: 0, then powers of two up to the number of cores. Threads: all cores, and the cores that the workers leave.

    Args:
        cores: threads that torch computes with by default.
    """
    workers = [0, *(2**power for power in range(cores.bit_length()) if 2**power <= cores)]
    found = [LoopSetting(count, used) for count in workers for used in (cores, max(1, cores - count))]
    return list(dict.fromkeys(found))


def measure_training(
    dataset: str,
    stage: StageName,
    *,
    images: int,
    repeats: int,
    steps: int,
    device: torch.device,
    precision: Literal["32", "bf16"],
    peak_rate: float,
    batch_size: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """Return what is measured of a stage.

    Args:
        dataset: digits, mnist, cifar10 or gtsrb.
        stage: mask or joint.
        images: how many images there are to train on.
        repeats: rounds in which product and plain counterpart take turns.
        steps: steps that are timed in a round.
        device: where to compute.
        precision: the product's.
        peak_rate: the machine's floating-point operations a second in this precision.
        batch_size: images in a step; none takes the preset's.
        progress: told the share of the work that is done, about.

    Returns:
        The four rates, both speedups, operations, share of the peak, memory, and seconds by part and by operator.
    """
    workload = Workload.build(dataset, stage, images=images, device=device, precision=precision, batch_size=batch_size)
    plain = workload.plain_step()
    size = workload.stage.batch_size
    batches = workload.batches()
    batch = next(batches)

    def repeated(
        step: Callable[..., StepLoss],
        next_batch: Callable[[], Batch],
        arithmetic: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Callable[[], None]:
        """Return what takes a round's steps."""

        def run() -> None:
            with arithmetic():
                for _ in range(steps):
                    step(next_batch(), epoch=0, progress=MIDDLE)

        return run

    dataset_of_images = PlainImages(workload.images, workload.labels, workload.config.augmentation)

    def plain_loop(setting: LoopSetting) -> float:
        return _plain_loop_seconds(plain, dataset_of_images, size, steps, setting, device)

    turns = {
        "product": repeated(workload.step, lambda: batch, workload.arithmetic),
        "plain": repeated(plain, lambda: batch),
    }
    for warm_up in turns.values():
        warm_up()
    operations = _operations(workload.step, batch)
    if workload.step.captured is not None:
        turns["unrecorded"] = repeated(workload.step.unrecorded, lambda: batch, workload.arithmetic)
    found = take_turns({name: _timer(action, device) for name, action in turns.items()}, repeats)
    progress(0.3)
    tried = {setting: plain_loop(setting) for setting in loop_settings(torch.get_num_threads())}
    best = min(tried, key=lambda setting: tried[setting])
    progress(0.5)
    product_loop = repeated(workload.step, lambda: next(batches), workload.arithmetic)
    loops = take_turns({"product": _timer(product_loop, device), "plain": lambda: plain_loop(best)}, repeats)
    progress(0.8)
    memory = {
        variant: peak_memory(
            dataset, stage, variant, images=images, batch_size=size, device=device, precision=precision
        )
        for variant in ("product", "plain")
    }
    progress(0.9)
    parts = seconds_by_part(workload, max(steps, repeats))
    operators = seconds_by_operator(workload, steps)
    progress(1.0)
    step = _step_result(found, steps, size)
    rate_of_operations = operations / step["seconds"]["median"]
    return {
        "batch_size": size,
        "steps_in_a_round": steps,
        "step": step,
        "loop": _loop_result(loops, tried, best, steps * size),
        "step_speedup": summary(ratios(found["plain"], found["product"])),
        "loop_speedup": summary(ratios(loops["plain"], loops["product"])),
        "operations_per_step": operations,
        "plain_operations_per_step": _operations(plain, batch),
        "operations_per_second": rate_of_operations,
        "share_of_peak": rate_of_operations / peak_rate,
        "memory": memory,
        "seconds_by_part": parts,
        "seconds_by_operator": operators,
    }


def _step_result(found: Mapping[str, list[float]], steps: int, size: int) -> dict[str, Any]:
    """Return rates and times of the step from the seconds of each round."""

    def seconds(name: str) -> dict[str, Any]:
        return summary([value / steps for value in found[name]])

    return {
        "images_per_second": _rate(found["product"], steps * size),
        "seconds": seconds("product"),
        "plain_images_per_second": _rate(found["plain"], steps * size),
        "plain_seconds": seconds("plain"),
        "unrecorded_seconds": seconds("unrecorded") if "unrecorded" in found else None,
    }


def _loop_result(
    loops: Mapping[str, list[float]], tried: Mapping[LoopSetting, float], best: LoopSetting, images: int
) -> dict[str, Any]:
    """Return rates of the loops from the seconds of each round, and the settings of the plain one."""
    return {
        "images_per_second": _rate(loops["product"], images),
        "plain_images_per_second": _rate(loops["plain"], images),
        "plain_workers": best.workers,
        "plain_threads": best.threads,
        "plain_settings_tried": [
            {"workers": setting.workers, "threads": setting.threads, "images_per_second": images / value}
            for setting, value in tried.items()
        ],
    }


def _rate(seconds: list[float], images: int) -> dict[str, Any]:
    return summary([images / value for value in seconds])


def _operations(step: TrainingStep, batch: Batch) -> int:
    # A step that is replayed as a whole shows none.
    return count_operations(lambda: step.unrecorded(batch, epoch=0, progress=MIDDLE))


def _timer(action: Callable[[], None], device: torch.device) -> Callable[[], float]:
    return lambda: seconds_of(action, device)


def _plain_loop_seconds(
    step: TrainingStep,
    dataset: PlainImages,
    batch_size: int,
    steps: int,
    setting: LoopSetting,
    device: torch.device,
) -> float:
    """Return the seconds of some steps of the plain loop in its steady state.

    Workers are started for each measurement and ended after it, so that none makes batches while others are timed. The
    batches that they make while nobody asks are used up first, and they are still making more when the last is timed.
    """
    ready = prefetched(setting.workers)
    source = plain_batches(
        dataset, batch_size=batch_size, batches=steps + 2 * ready + 1, workers=setting.workers, device=device
    )
    with threads(setting.threads), closing(source) as batches:

        def run(count: int) -> None:
            for _ in range(count):
                step(next(batches), epoch=0, progress=MIDDLE)

        run(ready + 1)
        return seconds_of(lambda: run(steps), device)
