"""Floating-point operations: counted while a step runs, and the most that the machine does in a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from inputaware.benchmarking.timing import seconds_of

__all__ = ["count_operations", "matrix_product_peak"]

_SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192), "mps": (2048, 4096)}
"""Sides of the matrices that are multiplied, by the kind of device."""


def count_operations(action: Callable[[], object]) -> int:
    """Return the floating-point operations of the convolutions and matrix products in an action.

    A multiplication and an addition count as two. What is counted is what reaches torch's kernels, forward and
    backward, the hand-written gradients in ``models`` included: they call the same kernels. Not counted is what is
    done to one element at a time (batch-norm, ReLU, dropout, pooling, resizing, blending, losses, optimisers).

    Args:
        action: does it once; it should have been done before, so that what is made only once is there.
    """
    with FlopCounterMode(display=False) as counter:
        action()
    return int(counter.get_total_flops())


def matrix_product_peak(
    device: torch.device, precision: Literal["32", "bf16"], *, sides: tuple[int, ...] | None = None, tries: int = 5
) -> dict[str, Any]:
    """Return the highest rate at which the machine multiplies square matrices.

    Args:
        device: where to compute.
        precision: 32 for float32, bf16 for bfloat16.
        sides: sides of the matrices; none takes some that are large enough for the kind of device.
        tries: how often each is multiplied; the fastest counts.

    Returns:
        ``operations_per_second``, and the ``side`` of the matrices and the ``precision`` it was reached with.
    """
    dtype = torch.float32 if precision == "32" else torch.bfloat16
    best: dict[str, Any] = {"operations_per_second": 0.0, "side": 0, "precision": precision}
    for side in sides or _SIDES[device.type]:
        first, second = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
        result = torch.empty(side, side, device=device, dtype=dtype)

        def multiply(first: Any = first, second: Any = second, result: Any = result) -> None:
            torch.mm(first, second, out=result)

        multiply()
        seconds = min(seconds_of(multiply, device) for _ in range(tries))
        rate = 2 * side**3 / seconds
        if rate > best["operations_per_second"]:
            best |= {"operations_per_second": rate, "side": side}
    return best
