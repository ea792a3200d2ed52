"""Peak memory of training, each in a process of its own: the memory of one process never comes down reliably."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Literal

import torch

from inputaware.benchmarking.workload import MIDDLE, StageName, Workload
from inputaware.errors import InputAwareError
from inputaware.runs.environment import peak_memory_mib

__all__ = ["Variant", "main", "peak_memory"]

Variant = Literal["product", "plain"]

_STEPS = 3

_PROGRAM = """
import json, sys
from inputaware.benchmarking.memory import main
print(json.dumps(main(**json.loads(sys.argv[1]))))
"""


def peak_memory(
    dataset: str,
    stage: StageName,
    variant: Variant,
    *,
    images: int,
    batch_size: int,
    device: torch.device,
    precision: Literal["32", "bf16"],
) -> dict[str, int]:
    """Return the peak memory in MiB of a process that does a few steps.

    On a CPU it is the process's resident memory, Python and torch included; on a GPU what torch allocated there.

    Args:
        dataset: digits, mnist, cifar10 or gtsrb.
        stage: mask or joint.
        variant: product or plain.
        images: how many images there are to train on.
        batch_size: images in a step.
        device: where to compute.
        precision: the product's; the plain step computes in float32.

    Returns:
        ``before_mib``, with networks and images in memory, and ``peak_mib``, after some steps.

    Raises:
        InputAwareError: the process failed, as it does where there is not enough memory.
    """
    options = {"dataset": dataset, "stage": stage, "images": images, "batch_size": batch_size, "precision": precision}
    # The process is to compute with as many threads as this one.
    options |= {"variant": variant, "device": str(device), "threads": torch.get_num_threads()}
    command = [sys.executable, "-c", _PROGRAM, json.dumps(options)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
        raise InputAwareError(
            f"memory: expected {_STEPS} {variant} steps of the {stage} stage in a process of their own; found exit "
            f"code {answer.returncode}: {last}; free memory, or leave the part out"
        )
    found: dict[str, int] = json.loads(answer.stdout)
    return found


def main(*, variant: Variant, device: str, threads: int, **options: Any) -> dict[str, int]:
    """Do some steps in this process and return its memory; the options are those of :func:`peak_memory`."""
    torch.set_num_threads(threads)
    place = torch.device(device)
    workload = Workload.build(device=place, **options)
    step: Any = workload.step if variant == "product" else workload.plain_step()
    before = peak_memory_mib(place)
    batches = workload.batches()
    with workload.arithmetic():
        for _ in range(_STEPS):
            step(next(batches), epoch=0, progress=MIDDLE)
    return {"before_mib": before, "peak_mib": peak_memory_mib(place)}
