"""The classifier for colour images."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from inputaware.models.normalize import Normalize

__all__ = ["PreActResNet18"]

_CHANNELS = (64, 128, 256, 512)
"""Channels of the four groups of blocks at width 1."""


class PreActResNet18(nn.Module):
    """The residual network with pre-activation of He et al. (2016), 18 layers, for small images.

    A convolution 3x3, four groups of two blocks, the mean over all pixels, a linear layer. Each group after
    the first halves the resolution.

    Deviation: nothing stands between the last block and the mean over the pixels, where He et al. have
    batch-norm and ReLU. So it is in the authors' release.

    Args:
        classes: how many classes there are.
        channels: channels of the images.
        width: multiplier of the channel counts 64, 128, 256, 512; each is rounded to a multiple of 8, and at least 8:
            with others, laid out channels last, torch 2.13 writes beyond its memory on a CPU with one thread.
        normalize: step from pixels to normalised values; none: the network reads pixels as they are.
    """

    def __init__(
        self, classes: int, *, channels: int = 3, width: float = 1.0, normalize: Normalize | None = None
    ) -> None:
        super().__init__()
        counts = [max(8, 8 * round(count * width / 8)) for count in _CHANNELS]
        self.normalize = nn.Identity() if normalize is None else normalize
        self.convolution = nn.Conv2d(channels, counts[0], 3, padding=1, bias=False)
        self.groups = nn.Sequential()
        before = counts[0]
        for number, after in enumerate(counts):
            self.groups.append(
                nn.Sequential(_Block(before, after, stride=1 if number == 0 else 2), _Block(after, after, stride=1))
            )
            before = after
        self.output = nn.Linear(before, classes)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits.

        Args:
            images: pixels in [0, 1].
        """
        return self.head(self.groups(self.convolution(self.normalize(images))))

    def head(self, features: Float[Tensor, "batch features rows columns"]) -> Float[Tensor, "batch classes"]:
        """Return the logits that follow from the last block's output, the last map of features.

        Args:
            features: that map.
        """
        logits: Tensor = self.output(features.mean((2, 3)))
        return logits


class _Block(nn.Module):
    """Batch-norm, ReLU, convolution, twice, and a shortcut.

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input; elsewhere it is the
    input itself, not activated.
    """

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.first_norm = nn.BatchNorm2d(before)
        self.first_convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(after)
        self.second_convolution = nn.Conv2d(after, after, 3, padding=1, bias=False)
        changes = stride != 1 or before != after
        self.shortcut = nn.Conv2d(before, after, 1, stride=stride, bias=False) if changes else None

    def forward(
        self, values: Float[Tensor, "batch before height width"]
    ) -> Float[Tensor, "batch after new_height new_width"]:
        activated = F.relu(self.first_norm(values))
        shortcut = values if self.shortcut is None else self.shortcut(activated)
        result = self.second_convolution(F.relu(self.second_norm(self.first_convolution(activated))))
        summed: Tensor = result + shortcut
        return summed
