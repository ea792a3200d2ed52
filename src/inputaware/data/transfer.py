"""The way of small tensors from the CPU to the device."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["send"]


def send(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; none that goes to a GPU waits for the work that is queued there.

    A copy from ordinary memory to a GPU makes the program wait until all that was launched before is done. From pinned
    memory it is one more item of the queue.

    Args:
        values: on the CPU, or on the device already.
        device: where they are wanted.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
