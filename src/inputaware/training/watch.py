"""Losses as numbers that the program can read, without making a GPU wait."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LossWatch"]


class LossWatch:
    """Reads losses; those of a GPU one look late, when they have long been computed.

    A program that reads a number of a GPU waits until all that it has launched is done, and then the GPU waits until
    the program has launched more. So a look only asks for the numbers, and the next one takes them.

    Args:
        device: where the losses are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.asked: tuple[int, tuple[str, ...], Tensor, torch.cuda.Event] | None = None

    def look(self, steps: int, losses: dict[str, Tensor], *, now: bool) -> tuple[int, dict[str, float]] | None:
        """Return steps and losses of the last look, or none where this is the first; on a CPU, or asked for now, these.

        Args:
            steps: of the epoch that are done.
            losses: scalars, by name.
            now: whether it may be waited for them.
        """
        before, self.asked = self.asked, None
        # In one piece, for each number is waited for.
        found = torch.stack([loss.detach().float() for loss in losses.values()])
        if now or self.device.type != "cuda":
            return steps, dict(zip(losses, found.tolist(), strict=True))
        host = torch.empty_like(found, device="cpu", pin_memory=True).copy_(found, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(self.device))
        self.asked = (steps, tuple(losses), host, arrived)
        if before is None:
            return None
        steps, names, host, arrived = before
        arrived.synchronize()
        return steps, dict(zip(names, host.tolist(), strict=True))
