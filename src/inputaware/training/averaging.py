"""A moving average of a network's weights, which is steadier than the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage", "check_alike"]


class WeightAverage:
    """Exponential moving average of parameters and batch-norm statistics.

    After step ``s`` the average is ``a <- d a + (1 - d) w`` with ``d = min(decay, (1 + s) / (10 + s))``, so that
    the first steps do not weigh more than they should.

    Args:
        module: the network to follow.
        decay: the share of the old average that a step keeps, in (0, 1).
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.module = module
        self.decay = decay
        self.steps = torch.zeros((), dtype=torch.int64)
        # The network's own tensors, which training changes in place.
        self.current: dict[str, Tensor] = dict(module.state_dict())
        self.tensors: dict[str, Tensor] = {name: tensor.clone() for name, tensor in self.current.items()}
        self.floating = [name for name, tensor in self.tensors.items() if tensor.is_floating_point()]
        self.others = [name for name in self.tensors if name not in self.floating]

    def update(self) -> None:
        """Move the average towards the network's present weights."""
        self.steps += 1
        steps = int(self.steps)
        weight = 1 - min(self.decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(
            [self.tensors[name] for name in self.floating], [self.current[name] for name in self.floating], weight
        )
        if self.others:
            torch._foreach_copy_(
                [self.tensors[name] for name in self.others], [self.current[name] for name in self.others]
            )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the network have the average's weights for a while."""
        kept = {name: tensor.clone() for name, tensor in self.current.items()}
        self.module.load_state_dict(self.tensors)
        try:
            yield
        finally:
            self.module.load_state_dict(kept)

    def apply(self) -> None:
        """Give the network the average's weights for good."""
        self.module.load_state_dict(self.tensors)

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps."""
        return {"steps": self.steps, **self.tensors}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what :meth:`state` returned.

        Raises:
            LookupError: a tensor is missing.
            ValueError: a tensor has another shape or kind of numbers.
        """
        check_alike(state["steps"], self.steps)
        self.steps = state["steps"].clone()
        for name, tensor in self.tensors.items():
            check_alike(state[name], tensor)
            tensor.copy_(state[name])


def check_alike(found: Tensor, expected: Tensor) -> None:
    """Check that a tensor of a file can take another's place: ``copy_`` would spread or convert one that cannot.

    Raises:
        ValueError: it has another shape or kind of numbers.
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise ValueError(
            f"expected shape {tuple(expected.shape)} in {expected.dtype}; found {tuple(found.shape)} in {found.dtype}"
        )
