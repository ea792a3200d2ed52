"""Random changes of training images: batched, on the images' device, of any type of number.

:func:`augment` draws from a generator what is done to each image; :func:`crop_at`, :func:`rotate_by` and
:func:`flip_where` do it. They move pixels and compute none, so that they give the same on bytes as on floating-point
numbers in [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from inputaware.config.fields import AugmentationConfig
from inputaware.data.transfer import send

__all__ = ["augment", "crop_at", "flip_where", "rotate_by"]


def augment(
    images: Shaped[Tensor, "batch channel height width"], config: AugmentationConfig, generator: torch.Generator
) -> Shaped[Tensor, "batch channel height width"]:
    """Crop, rotate and mirror each image at random, in this order, as far as the configuration asks for it.

    A crop shifts by up to the padding each way, angles are drawn uniformly from plus or minus the degrees, and an
    image is mirrored with probability one half.

    Args:
        images: pixels of any type; what moves in from outside is 0.
        config: which changes, and how strong.
        generator: source of randomness, on the CPU.
    """
    count, device = len(images), images.device
    if config.crop_padding:
        offsets = torch.randint(2 * config.crop_padding + 1, (count, 2), generator=generator)
        images = crop_at(images, config.crop_padding, send(offsets, device))
    if config.rotation_degrees:
        angles = (2 * torch.rand(count, generator=generator) - 1) * config.rotation_degrees
        images = rotate_by(images, send(angles, device))
    if config.horizontal_flip:
        images = flip_where(images, send(torch.rand(count, generator=generator) < 0.5, device))
    return images


def crop_at(
    images: Shaped[Tensor, "batch channel height width"], padding: int, offsets: Int64[Tensor, "batch 2"]
) -> Shaped[Tensor, "batch channel height width"]:
    """Pad with zeros and cut each image out again at its offset.

    Args:
        images: pixels of any type.
        padding: pixels of zeros on each side.
        offsets: row and column of the cut's upper left corner in the padded image, 0 to ``2 * padding``;
            ``padding`` leaves the image as it is.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    # Every possible cut is a view; only the chosen ones are copied, a row of pixels at a time.
    cuts = padded.unfold(2, height, 1).unfold(3, width, 1)
    return cuts[torch.arange(count, device=images.device), :, offsets[:, 0], offsets[:, 1]]


def rotate_by(
    images: Shaped[Tensor, "batch channel height width"], angles: Float[Tensor, " batch"]
) -> Shaped[Tensor, "batch channel height width"]:
    """Rotate each image about its centre: nearest neighbour, zeros from outside, as torchvision's default.

    The pixel at ``(x, y)``, measured from the centre to pixel centres, comes from the pixel that holds
    ``(x cos a - y sin a, x sin a + y cos a)``.

    Args:
        images: pixels of any type.
        angles: degrees, counter-clockwise as one looks at the image.
    """
    count, channels, height, width = images.shape
    # float32 whatever the images are: some devices have no float64, and half precision would misplace pixels.
    radians = torch.deg2rad(angles.float()).view(-1, 1, 1)
    cosine, sine = radians.cos(), radians.sin()
    y = (torch.arange(height, device=images.device) + 0.5 - height / 2).view(-1, 1)
    x = (torch.arange(width, device=images.device) + 0.5 - width / 2).view(1, -1)
    column = (cosine * x - sine * y + width / 2).floor().long()
    row = (sine * x + cosine * y + height / 2).floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    source = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    source = source.view(count, 1, height * width).expand(-1, channels, -1)
    rotated = images.flatten(2).gather(2, source).view(images.shape)
    return rotated.masked_fill(~inside.unsqueeze(1), 0)


def flip_where(
    images: Shaped[Tensor, "batch channel height width"], mask: Bool[Tensor, " batch"]
) -> Shaped[Tensor, "batch channel height width"]:
    """Mirror the marked images left to right.

    Args:
        images: pixels of any type.
        mask: which images to mirror.
    """
    return torch.where(mask.view(-1, 1, 1, 1), images.flip(-1), images)
