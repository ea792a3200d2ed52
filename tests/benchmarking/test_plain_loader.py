"""The plain loader serves the images that it was given, changed as the product changes them."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from inputaware.benchmarking.plain_loader import PlainImages, plain_batches, prefetched
from inputaware.config.fields import AugmentationConfig
from inputaware.data.augment import crop_at, flip_where, rotate_by

CPU = torch.device("cpu")
STILL = AugmentationConfig(crop_padding=0)


def some_images(channels: int, count: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, channels, 8, 8), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("workers", [0, 1])
def test_every_batch_holds_images_with_their_labels(channels: int, workers: int) -> None:
    images = some_images(channels)
    dataset = PlainImages(images, torch.arange(12), STILL)
    assert len(dataset) == 12
    batches = list(plain_batches(dataset, batch_size=5, batches=4, workers=workers, device=CPU))
    assert len(batches) == 4
    for batch in batches:
        assert batch.images.shape == (5, channels, 8, 8)
        assert batch.partners is None
        torch.testing.assert_close(batch.images, images[batch.labels].float() / 255, rtol=0, atol=0)


def test_the_changes_are_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    images = some_images(3)
    config = AugmentationConfig(crop_padding=2, rotation_degrees=10.0, horizontal_flip=True)
    left, top, angle = 1, 4, 7.0
    drawn = iter([left, top])
    monkeypatch.setattr(random, "randint", lambda low, high: next(drawn))
    monkeypatch.setattr(random, "uniform", lambda low, high: angle)
    monkeypatch.setattr(random, "random", lambda: 0.1)
    found, label = PlainImages(images, torch.arange(12), config)[3]
    expected = crop_at(images[3:4], 2, torch.tensor([[top, left]]))
    expected = rotate_by(expected, torch.tensor([angle]))
    expected = flip_where(expected, torch.tensor([True]))
    torch.testing.assert_close(found, expected[0].float() / 255, rtol=0, atol=0)
    assert label == 3


def test_workers_make_batches_ahead() -> None:
    assert (prefetched(0), prefetched(3)) == (0, 6)
