"""How the time of an epoch grows with the data and falls with the batch."""

from __future__ import annotations

from typing import Any, Literal

import torch

from inputaware.benchmarking.timing import seconds_of
from inputaware.benchmarking.workload import MIDDLE, StageName, Workload

__all__ = ["BATCH_SIZES", "SHARES", "seconds_of_epoch"]

SHARES = (0.125, 0.25, 0.5, 1.0)
BATCH_SIZES = (32, 64, 128, 256, 512, 1024)


def seconds_of_epoch(
    dataset: str,
    stage: StageName,
    *,
    images: int,
    batch_size: int,
    device: torch.device,
    precision: Literal["32", "bf16"],
) -> dict[str, Any]:
    """Time a whole epoch of the product: loader, steps, no validation and no files.

    Args:
        dataset: digits, mnist, cifar10 or gtsrb.
        stage: mask or joint.
        images: how many images there are to train on.
        batch_size: images in a step, at most as many.
        device: where to compute.
        precision: 32, or bf16 for mixed precision.

    Returns:
        ``images``, ``batch_size``, ``steps``, ``seconds``, ``images_per_second``, and ``seconds_per_step``.
    """
    workload = Workload.build(dataset, stage, images=images, device=device, precision=precision, batch_size=batch_size)
    loader = workload.loader()

    def epoch() -> None:
        for batch in loader:
            workload.step(batch, epoch=0, progress=MIDDLE)

    with workload.arithmetic():
        # The first step makes what is made only once, the optimisers' memory for instance.
        workload.step(next(iter(loader)), epoch=0, progress=MIDDLE)
        seconds = seconds_of(epoch, device)
    size, steps = workload.stage.batch_size, len(loader)
    return {
        "images": images,
        "batch_size": size,
        "steps": steps,
        "seconds": seconds,
        "images_per_second": steps * size / seconds,
        "seconds_per_step": seconds / steps,
    }
