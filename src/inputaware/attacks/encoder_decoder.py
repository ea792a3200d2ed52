"""The two generators of a trigger: one network design, two classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from inputaware.data.spec import DatasetSpec
from inputaware.models.normalize import Normalize

__all__ = ["EncoderDecoder", "MaskGenerator", "PatternGenerator", "build_generators"]

_MOMENTUM = 0.05
"""Momentum of batch-norm's running statistics."""
_GREY_STAGES = (16, 32)
_COLOUR_STAGES = (32, 64, 128)


class EncoderDecoder(nn.Module):
    """An image-to-image network whose output lies in [0, 1].

    Each stage of the encoder is two blocks of convolution 3x3, batch-norm and ReLU, then max-pooling 2x2. One
    block stands in the middle. Each stage of the decoder doubles the resolution (bilinear) and has two blocks;
    the very last block has no ReLU. (Both generators share this design: supplement, section 1.3; the sizes are the
    release's.)

    The output is squashed with ``tanh(v) / (2 + 1e-7) + 0.5``, the release's expression. In float32 the
    denominator is exactly 2; in float64 the 1e-7 is needed to agree with the release.

    Args:
        in_channels: channels of the images.
        out_channels: channels of the output.
        stages: channels of each encoder stage; height and width must divide by 2 to the power of their number.
        normalize: step from pixels to normalised values.
    """

    def __init__(self, in_channels: int, out_channels: int, stages: tuple[int, ...], normalize: Normalize) -> None:
        super().__init__()
        self.normalize = normalize
        before = (in_channels, *stages[:-1])
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(_Block(first, last), _Block(last, last), nn.MaxPool2d(2))
                for first, last in zip(before, stages, strict=True)
            )
        )
        self.middle = _Block(stages[-1], stages[-1])
        after = (out_channels, *stages[:-1])
        self.decoder = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                    _Block(first, first),
                    _Block(first, after[number], relu=number > 0),
                )
                for number, first in reversed(list(enumerate(stages)))
            )
        )

    def forward(
        self, images: Float[Tensor, "batch in_channel height width"]
    ) -> Float[Tensor, "batch out_channel height width"]:
        """Return the squashed output, in the precision of the images also under autocast.

        Args:
            images: pixels in [0, 1].
        """
        values = self.decoder(self.middle(self.encoder(self.normalize(images))))
        return _squash(values.to(images.dtype))


class MaskGenerator(EncoderDecoder):
    """The paper's ``g_m``: where and how strongly the trigger of an image shows, one channel in [0, 1].

    After squashing, a soft threshold pushes the values towards 0 and 1: ``tanh(20 m - 10) / (2 + 1e-7) + 0.5``.

    Args:
        in_channels: channels of the images.
        stages: channels of each encoder stage.
        normalize: step from pixels to normalised values.
    """

    def __init__(self, in_channels: int, stages: tuple[int, ...], normalize: Normalize) -> None:
        super().__init__(in_channels, 1, stages, normalize)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch 1 height width"]:
        """Return the masks after the soft threshold.

        Args:
            images: pixels in [0, 1].
        """
        return _squash(20 * super().forward(images) - 10)


class PatternGenerator(EncoderDecoder):
    """The paper's ``g_p``: what the trigger of an image shows, pixels in [0, 1].

    The release normalises the pattern before it blends. Here patterns stay pixels and the classifier normalises
    the blended image, which is the same: see :func:`inputaware.attacks.trigger.apply_trigger`.

    Args:
        in_channels: channels of the images, and of the patterns.
        stages: channels of each encoder stage.
        normalize: step from pixels to normalised values, for the generator's input.
    """

    def __init__(self, in_channels: int, stages: tuple[int, ...], normalize: Normalize) -> None:
        super().__init__(in_channels, in_channels, stages, normalize)


def build_generators(spec: DatasetSpec) -> tuple[MaskGenerator, PatternGenerator]:
    """Return both generators for a data set, with fresh weights.

    Grey images take two stages of 16 and 32 channels, colour images three of 32, 64 and 128.

    Args:
        spec: the data set, for the number of channels and the normalisation.
    """
    channels = spec.shape[0]
    stages = _GREY_STAGES if channels == 1 else _COLOUR_STAGES
    return (
        MaskGenerator(channels, stages, Normalize(spec.mean, spec.std)),
        PatternGenerator(channels, stages, Normalize(spec.mean, spec.std)),
    )


class _Block(nn.Module):
    """Convolution 3x3, batch-norm and, unless it is switched off, ReLU."""

    def __init__(self, before: int, after: int, *, relu: bool = True) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, after, 3, padding=1)
        self.norm = nn.BatchNorm2d(after, momentum=_MOMENTUM)
        self.relu = relu

    def forward(self, values: Float[Tensor, "batch before height width"]) -> Float[Tensor, "batch after height width"]:
        values = self.norm(self.convolution(values))
        # In place: neither batch-norm nor ReLU needs what stood here before.
        return F.relu(values, inplace=True) if self.relu else values


def _squash(values: Tensor) -> Tensor:
    """Return values in [0, 1]."""
    return torch.tanh(values) / (2 + 1e-7) + 0.5
