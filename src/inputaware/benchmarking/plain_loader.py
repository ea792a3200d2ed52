"""The plain way to feed a training: each image changed by itself with Pillow, batches put together by a DataLoader."""

from __future__ import annotations

import random
from collections.abc import Generator

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from inputaware.config.fields import AugmentationConfig
from inputaware.data.loader import Batch

__all__ = ["PlainImages", "plain_batches", "prefetched"]

_PREFETCH = 2
"""Batches that a worker makes ahead; torch's default."""


class PlainImages(Dataset[tuple[Tensor, int]]):
    """Images that are padded, cropped, rotated, mirrored and made floating-point numbers one at a time.

    Args:
        images: the training images as bytes.
        labels: their classes.
        augmentation: the same random changes as the product's.
    """

    def __init__(
        self,
        images: UInt8[Tensor, "images channel height width"],
        labels: Int64[Tensor, " images"],
        augmentation: AugmentationConfig,
    ) -> None:
        pixels = images.cpu().permute(0, 2, 3, 1).contiguous().numpy()
        self.pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        self.labels: list[int] = labels.tolist()
        self.augmentation = augmentation

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "channel height width"], int]:
        """Return a changed image, pixels in [0, 1], and its class."""
        config = self.augmentation
        image = Image.fromarray(self.pixels[index])
        if config.crop_padding:
            padding = config.crop_padding
            left, top = random.randint(0, 2 * padding), random.randint(0, 2 * padding)
            width, height = image.size
            image = ImageOps.expand(image, border=padding, fill=0).crop((left, top, left + width, top + height))
        if config.rotation_degrees:
            angle = random.uniform(-config.rotation_degrees, config.rotation_degrees)
            image = image.rotate(angle, Image.Resampling.NEAREST)
        if config.horizontal_flip and random.random() < 0.5:
            image = ImageOps.mirror(image)
        pixels = torch.from_numpy(np.array(image))
        pixels = pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        return pixels.contiguous().float() / 255, self.labels[index]


def prefetched(workers: int) -> int:
    """Return how many batches may lie ready before the first one is asked for."""
    return _PREFETCH * workers


def plain_batches(
    dataset: PlainImages, *, batch_size: int, batches: int, workers: int, device: torch.device
) -> Generator[Batch, None, None]:
    """Serve batches in random order; the workers end with the iterator.

    Images may come more than once, so that any number of batches can be had.

    Args:
        dataset: the images.
        batch_size: images in a batch.
        batches: how many are to be had; the workers go on to this end whether they are fetched or not.
        workers: processes that make them; 0: this one.
        device: where they are wanted.
    """
    sampler = RandomSampler(dataset, replacement=True, num_samples=batch_size * batches)
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        prefetch_factor=_PREFETCH if workers else None,
        pin_memory=device.type == "cuda",
    )
    for images, labels in loader:
        yield Batch(
            images=images.to(device, non_blocking=True), labels=labels.to(device, non_blocking=True), partners=None
        )
