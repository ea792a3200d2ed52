"""The arithmetic in which networks are judged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["full_float32"]


@contextmanager
def full_float32() -> Iterator[None]:
    """Let convolutions on a GPU compute in float32; left alone they round their factors to TF32's 10 bits.

    What a backward pass computes in is asked when it runs, so that it has to stand in here too.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
