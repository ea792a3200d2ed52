"""How long the three networks take for a batch: table 2 of the paper."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inputaware.attacks.registry import build_attack
from inputaware.benchmarking.baseline import plain_copy
from inputaware.benchmarking.timing import seconds_of, take_turns
from inputaware.benchmarking.workload import random_images
from inputaware.config.presets import preset_config
from inputaware.data.loader import to_pixels
from inputaware.data.spec import dataset_spec
from inputaware.evaluation.statistics import ratios, summary
from inputaware.models.precision import full_float32
from inputaware.runs.results import published_latency

__all__ = ["LATENCY_BATCHES", "LATENCY_DATASETS", "NETWORKS", "measure_latency"]

LATENCY_DATASETS = ("mnist", "cifar10", "gtsrb")
LATENCY_BATCHES = (1, 128)
NETWORKS = ("classifier", "mask_generator", "pattern_generator")
"""The paper's f, g_m and g_p."""


def measure_latency(
    dataset: str,
    *,
    repeats: int,
    warm_up: int,
    device: torch.device,
    batches: tuple[int, ...] = LATENCY_BATCHES,
) -> dict[str, Any]:
    """Return the latency of each network for each size of a batch, in milliseconds.

    As a finished run is used: evaluation mode, float32, no gradients, images on the device.

    Args:
        dataset: mnist, cifar10 or gtsrb (or digits, whose networks are MNIST's).
        repeats: timed passes of each network at batch 1, a quarter of them at larger ones; product and plain
            counterpart take turns.
        warm_up: passes of each before.
        device: where to compute.
        batches: sizes of a batch.

    Returns:
        By network: the paper's ``published_ms`` (none where it has none), and by size of the ``batch`` the
        ``median_ms`` and ``percentile_95_ms`` of the product and of its ``plain`` counterpart, and the ``speedup``,
        the plain one's time over the product's.
    """
    spec = dataset_spec(dataset)
    config = preset_config("fast", dataset=dataset)
    attack = build_attack(config, spec)
    # None for the digits, which the paper does not have.
    paper = published_latency(dataset) or {}
    found: dict[str, Any] = {}
    for name in NETWORKS:
        module = attack.modules[name].to(device).eval().requires_grad_(False)
        plain = plain_copy(module)
        row: dict[str, Any] = {"published_ms": paper.get(name), "batch": {}}
        for size in batches:
            images = to_pixels(random_images(spec, size, device)[0])
            # Large batches take longer and vary less.
            count = repeats if size == 1 else max(1, repeats // 4)
            row["batch"][str(size)] = _compare(module, plain, images, count, warm_up)
        found[name] = row
    return found


def _compare(product: nn.Module, plain: nn.Module, images: Tensor, repeats: int, warm_up: int) -> dict[str, Any]:
    with torch.no_grad(), full_float32():
        plainly = images.contiguous()
        timers = {
            "product": lambda: seconds_of(lambda: product(images), images.device),
            "plain": lambda: seconds_of(lambda: plain(plainly), images.device),
        }
        take_turns(timers, warm_up)
        seconds = take_turns(timers, repeats)
    return {
        **_milliseconds(seconds["product"]),
        "plain": _milliseconds(seconds["plain"]),
        "speedup": summary(ratios(seconds["plain"], seconds["product"])),
    }


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    return {"median_ms": 1e3 * statistics.median(seconds), "percentile_95_ms": 1e3 * float(np.percentile(seconds, 95))}
