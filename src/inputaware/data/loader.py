"""Batches for training, made on the device where the whole data set lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from inputaware.config.fields import AugmentationConfig, PartnerRule
from inputaware.data.augment import augment
from inputaware.data.transfer import send
from inputaware.errors import ConfigError

__all__ = ["Batch", "Loader", "derangement", "in_chunks", "to_pixels"]

_CHUNK = {"cpu": 128}
"""Images in a forward pass outside of training: on a CPU as many as leave a layer's output in the cache."""
_CHUNK_ELSEWHERE = 1024


@dataclass
class Batch:
    """Images of one training step."""

    images: Float[Tensor, "batch channel height width"]
    """Pixels in [0, 1], augmented."""
    labels: Int64[Tensor, " batch"]
    """The images' classes."""
    partners: Float[Tensor, "batch channel height width"] | None
    """The other image x' for each image; none where the attack pairs the batch's own images."""


class Loader:
    """Serve a data set in random order; each iteration is an epoch, the last incomplete batch is dropped.

    The generator is all the state there is: with its state restored, the next epoch comes out the same bit
    for bit. It is drawn from on the CPU, so that the order does not depend on the device.

    Args:
        images: the whole split as bytes, on the device where the batches are wanted.
        labels: its classes, on the same device.
        batch_size: images in a step, at most as many as there are.
        augmentation: random changes of each image.
        partners: where x' comes from. derangement: from the batch itself, nothing is drawn here.
            second-order: a second random order of the split, with changes of its own; an image may meet itself.
            distinct-order: the same, but where an image would meet itself the pair is left out, for the paper
            requires that x' differs from x. A batch is then a little smaller now and then; should nothing be
            left of it, it is left out as well.
        generator: source of randomness, on the CPU.

    Attributes:
        started: the generator's state when the present epoch began.
        served: how many of its batches were served since, those that were left out included.

    Raises:
        ConfigError: the batch is larger than the data set.
    """

    def __init__(
        self,
        images: UInt8[Tensor, "images channel height width"],
        labels: Int64[Tensor, " images"],
        *,
        batch_size: int,
        augmentation: AugmentationConfig,
        partners: PartnerRule,
        generator: torch.Generator,
    ) -> None:
        if batch_size > len(images):
            raise ConfigError(
                f"batch_size: expected at most {len(images)}, the images of the training split; found {batch_size}"
            )
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.partners = partners
        self.generator = generator
        self.started = generator.get_state()
        self.served = 0

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self.images) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        """Serve one epoch in a new order."""
        self.started, self.served = self.generator.get_state(), 0
        return self.rest()

    def rest(self) -> Iterator[Batch]:
        """Serve what is left, after ``served`` batches, of the epoch that began in the state ``started``."""
        size, now = self.batch_size, self.generator.get_state()
        self.generator.set_state(self.started)
        order = torch.randperm(len(self.images), generator=self.generator)
        second = None
        if self.partners != "derangement":
            second = torch.randperm(len(self.images), generator=self.generator)
        if self.served:
            self.generator.set_state(now)
        for start in range(self.served * size, len(self) * size, size):
            self.served += 1
            chosen = order[start : start + size]
            if second is None:
                yield self._batch(chosen, None)
                continue
            others = second[start : start + size]
            if self.partners == "distinct-order":
                different = chosen != others
                chosen, others = chosen[different], others[different]
            if len(chosen):
                yield self._batch(chosen, others)

    def _batch(self, chosen: Int64[Tensor, " batch"], others: Int64[Tensor, " batch"] | None) -> Batch:
        chosen = send(chosen, self.images.device)
        return Batch(
            images=self._pixels(chosen),
            labels=self.labels[chosen],
            partners=None if others is None else self._pixels(send(others, self.images.device)),
        )

    def _pixels(self, chosen: Int64[Tensor, " batch"]) -> Float[Tensor, "batch channel height width"]:
        # Changed as bytes, a quarter of the memory traffic; the changes only move pixels.
        return augment(self.images[chosen], self.augmentation, self.generator).float() / 255


def derangement(count: int, generator: torch.Generator) -> Int64[Tensor, " count"]:
    """Draw a partner for each of ``count`` images, never the image itself: a random cyclic order.

    Args:
        count: number of images, 2 or more.
        generator: source of randomness, on the CPU.

    Returns:
        A permutation without a fixed point.

    Raises:
        ValueError: one image has no other.
    """
    if count < 2:
        raise ValueError(f"count: expected at least 2 images, an image and its partner; found {count}")
    order = torch.randperm(count, generator=generator)
    partners = torch.empty_like(order)
    partners[order] = order.roll(1)
    return partners


def to_pixels(images: UInt8[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel height width"]:
    """Return 8-bit images as pixels in [0, 1], in the memory layout that the networks are fast in."""
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)


def in_chunks(values: Float[Tensor, "batch channel height width"]) -> tuple[Tensor, ...]:
    """Return values in parts that are small enough for a forward pass without gradients.

    Args:
        values: images, or maps of features.
    """
    return torch.split(values, _CHUNK.get(values.device.type, _CHUNK_ELSEWHERE))
