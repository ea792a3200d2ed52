"""How long work should take on this machine, from a few timed steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from inputaware.benchmarking.timing import seconds_of
from inputaware.benchmarking.workload import MIDDLE, STAGES, StageName, Workload
from inputaware.config.datasets import COLOURED, IMAGE_COUNTS
from inputaware.config.fields import Config, PrecisionName
from inputaware.data.spec import dataset_spec
from inputaware.defenses.settings import DefenseSettings
from inputaware.reproduction.works import WorkKind
from inputaware.runs.environment import resolve_precision, seeded

__all__ = ["seconds_of_work", "seconds_per_image"]

_STEPS, _ROUNDS = 3, 3
_SMALL_BATCH = 32
"""Images in a step of colour images on a CPU, where the preset's batch takes many seconds."""

_SHARE_OF_PASS = 1 / 3
"""A pass that only predicts, beside one that trains: it has no way back."""

_SHARE_OF_SEARCH = 0.45
"""Passes of Neural Cleanse beside as many that train: no gradients of weights, and searches that end early."""


def seconds_per_image(dataset: str, device: torch.device, precision: PrecisionName = "auto") -> dict[StageName, float]:
    """Return how long a training image takes in each stage.

    Args:
        dataset: digits, mnist, cifar10 or gtsrb.
        device: where to compute.
        precision: auto, 32 or bf16.
    """
    found: dict[StageName, float] = {}
    used = resolve_precision(precision, device)
    batch_size = _SMALL_BATCH if device.type == "cpu" and dataset in COLOURED else None
    for stage in STAGES:
        with seeded(0, device):
            work = Workload.build(dataset, stage, images=256, device=device, precision=used, batch_size=batch_size)
            batch = next(work.batches())

            def steps(work: Workload = work, batch: object = batch) -> None:
                for _ in range(_STEPS):
                    work.step(batch, epoch=0, progress=MIDDLE)  # type: ignore[arg-type]

            with work.arithmetic():
                work.step(batch, epoch=0, progress=MIDDLE)
                # The fastest: whatever else the machine does for a moment only adds.
                seconds = min(seconds_of(steps, device) for _ in range(_ROUNDS))
                found[stage] = seconds / (_STEPS * work.stage.batch_size)
    return found


def seconds_of_work(kind: WorkKind, config: Config, rates: Mapping[StageName, float]) -> float:
    """Return about how long a piece of work takes, from the number of images that pass through the networks.

    Args:
        kind: what is done.
        config: the configuration of the run.
        rates: seconds that a training image takes in each stage.
    """
    images = IMAGE_COUNTS[config.dataset]
    train, test, defender = images.train, images.test, images.held_out
    classes = dataset_spec(config.dataset).classes
    settings, way = DefenseSettings(), rates["joint"]
    look = _SHARE_OF_PASS * way
    cleanse, strip, pruning = settings.neural_cleanse, settings.strip, settings.fine_pruning
    filters = 2 * (len(settings.image_regularization.kernels) + len(settings.image_regularization.bits))
    if kind == "train":
        mask = config.mask_stage.epochs * train * rates["mask"] if config.attack == "input-aware" else 0.0
        return mask + config.joint_stage.epochs * train * way + 9 * test * look
    return {
        "inspect": 3000 * way,
        "latency": 20_000 * look,
        "neural-cleanse": _SHARE_OF_SEARCH * (classes * cleanse.rounds * min(cleanse.images_per_round, defender) * way),
        "strip": strip.overlays * 2 * (min(strip.images, test) + min(strip.images, defender // 2)) * look,
        "fine-pruning": 4 * test * look + pruning.epochs * (1 - pruning.held_out) * defender * way,
        "image-regularization": filters * (3 * test + defender) * look,
    }[kind]
