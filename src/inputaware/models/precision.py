"""The arithmetic in which networks are judged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

__all__ = ["full_float32"]


@contextmanager
def full_float32() -> Iterator[None]:
    """Let networks compute in float32 whatever was asked for outside, and add in a fixed order on a GPU.

    Left alone convolutions round their factors to TF32's 10 bits on a GPU, and their gradients may come to other bits
    each time. Autocast, ``torch.set_float32_matmul_precision`` and ``torch.backends.fp32_precision`` are put off here.
    What a backward pass computes in is asked when it runs, so that it has to stand in here too.
    """
    # What inherits its value ("none") goes on to do so.
    changed = [
        (place, name, before, exact)
        for place, name, exact in _switches()
        if (before := getattr(place, name)) not in (exact, "none")
    ]
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        try:
            for place, name, _, exact in changed:
                setattr(place, name, exact)
            yield
        finally:
            for place, name, before, _ in changed:
                setattr(place, name, before)


def _switches() -> list[tuple[Any, str, str | bool]]:
    """Return what may round factors or add in any order: where it is set, its name, and its value for neither."""
    cudnn: Any = torch.backends.cudnn
    onednn: Any = torch.backends.mkldnn
    matmul = torch.backends.cuda.matmul
    order = (cudnn, "deterministic", True)
    if not hasattr(cudnn, "conv"):  # before torch 2.9
        return [order, (cudnn, "allow_tf32", False), (matmul, "allow_tf32", False)]
    # The older switches cannot be read where somebody has set the newer ones.
    return [
        order,
        *((part, "fp32_precision", "ieee") for part in (cudnn.conv, cudnn.rnn, matmul, onednn.conv, onednn.matmul)),
    ]
