"""A trigger for the tests of detectors."""

from __future__ import annotations

import torch
from torch import Tensor

from inputaware.attacks.base import Backdoor


class WhitePixel(Backdoor):
    """A white first pixel, for class 0 of three."""

    universal = True

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__(shape=shape, classes=3, target="all-to-one", target_class=0)

    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.zeros_like(images[:, :1])
        mask[:, :, 0, 0] = 1
        return mask, torch.ones_like(images)
