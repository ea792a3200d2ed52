"""The arithmetic in which networks are judged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["full_float32"]


@contextmanager
def full_float32() -> Iterator[None]:
    """Let convolutions on a GPU compute in float32, and add in a fixed order.

    Left alone they round their factors to TF32's 10 bits, and their gradients may come to other bits each time.
    What a backward pass computes in is asked when it runs, so that it has to stand in here too.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.deterministic
    cudnn.allow_tf32, cudnn.deterministic = False, True
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.deterministic = before
