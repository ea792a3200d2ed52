"""A process's share of a batch, where several processes train one run.

Every process holds the whole batch, for all draw the same one. Each part of it, attack, cross and clean, is divided
evenly, and each process computes its share. Triggers that others need are exchanged, so that the losses of all
processes add up to the loss of the whole batch, and their gradients to its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from inputaware.errors import TrainingError

__all__ = ["WHOLE", "Share"]


@dataclass(frozen=True)
class Share:
    """Which part of everything is a process's own.

    Attributes:
        rank: the process's number, from 0.
        count: how many processes there are.
    """

    rank: int = 0
    count: int = 1

    def part(self, size: int) -> slice:
        """Return this process's part of ``size`` images; no two processes' parts differ by more than one image."""
        return slice(size * self.rank // self.count, size * (self.rank + 1) // self.count)

    def mine(self, values: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "own ..."]:
        """Return this process's part of something that there is one of for each image."""
        # Not a slice of everything: another node in the graph could change the order in which gradients are added.
        return values if self.count == 1 else values[self.part(len(values))]

    def apply(
        self, network: Callable[[Tensor], Tensor], images: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch result_channel result_height result_width"]:
        """Return what a network makes of each image; each process runs it on its part, and all get the whole.

        Gradients that other processes send for this one's part are added to its own.

        Args:
            network: maps a batch to as many maps.
            images: the same in every process.

        Raises:
            TrainingError: there are fewer images than processes.
        """
        if self.count == 1:
            return network(images)
        if len(images) < self.count:
            raise TrainingError(
                f"processes: expected at least one image for each of the {self.count} processes in a part of a batch "
                f"that has triggers; found {len(images)} images; take larger batches or fewer processes"
            )
        made = network(self.mine(images))
        whole: Tensor = _Exchange.apply(made, self.part(len(images)).start, len(images))  # type: ignore[no-untyped-call]
        return whole

    def weigh(self, mean: Float[Tensor, ""], own: int, size: int) -> Float[Tensor, ""]:
        """Return what a mean over this process's part adds to the mean over the whole.

        Args:
            mean: over the part.
            own: how many the part has, 1 or more.
            size: how many the whole has.
        """
        return mean if own == size else mean * (own / size)


WHOLE = Share()
"""The share of a process that trains alone."""


class _Exchange(torch.autograd.Function):
    """Every process's part, put together in all processes."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, start: int, size: int) -> Tensor:
        ctx.start, ctx.stop = start, start + len(part)
        # In float32 at least: not every backend adds half precision, and sums with zeros are exact.
        precision = torch.promote_types(part.dtype, torch.float32)
        whole = torch.zeros((size, *part.shape[1:]), dtype=precision, device=part.device)
        whole[ctx.start : ctx.stop] = part
        torch.distributed.all_reduce(whole)
        return whole.to(part.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        precision = torch.promote_types(gradients[0].dtype, torch.float32)
        whole = gradients[0].to(precision, copy=True).contiguous()
        torch.distributed.all_reduce(whole)
        return whole[ctx.start : ctx.stop].to(gradients[0].dtype), None, None
