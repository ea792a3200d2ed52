"""Two attacks of one's own: a pattern blended into every image, and the input-aware attack with a fainter trigger.

export INPUTAWARE_ATTACKS="'$PWD/examples/own_attack.py:Blended' '$PWD/examples/own_attack.py:Faint'"
inputaware train --dataset digits --attack blended --output runs/blended
inputaware train --dataset digits --attack faint --output runs/faint
inputaware defend runs/blended
"""

import torch
from torch import Tensor, nn

from inputaware.attacks.badnets import BadNets
from inputaware.attacks.input_aware import Attacked, InputAware, JointStage


class Blend(nn.Module):
    """A random pattern that shines through the whole image, in buffers, so that the run folder keeps it."""

    def __init__(self, shape: tuple[int, int, int], strength: float) -> None:
        super().__init__()
        noise = torch.rand(shape, generator=torch.Generator().manual_seed(0), device="cpu")
        self.register_buffer("mask", torch.full((1, *shape[1:]), strength))
        self.register_buffer("pattern", torch.empty(shape).copy_(noise))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return a mask and a pattern for each image."""
        count = len(images)
        mask, pattern = self.get_buffer("mask"), self.get_buffer("pattern")
        return mask.expand(count, -1, -1, -1), pattern.expand(count, -1, -1, -1)


class Blended(BadNets):
    """The blended attack of Chen et al. (2017, arXiv 1712.05526): BadNets with another trigger."""

    name = "blended"

    def make_patch(self) -> nn.Module:
        """Return the pattern in place of the patch."""
        return Blend(self.spec.shape, strength=0.2)


class FaintStage(JointStage):
    """The joint stage with one more term: how far triggers move the pixels, as a mean square."""

    def further_terms(self, attacked: Attacked) -> dict[str, Tensor]:
        """Return the term, with its weight."""
        return {"visible": 10.0 * (attacked.triggered - attacked.images).square().mean()}


class Faint(InputAware):
    """The input-aware attack, whose patterns learn to stay near the image."""

    name = "faint"
    joint_stage = FaintStage
