"""Samples of every class, with their triggers."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from inputaware.attacks.base import Backdoor
from inputaware.errors import ConfigError
from inputaware.inspection.gallery import choose_images, make_gallery

SHAPE = (3, 4, 5)


class HalfRed(Backdoor):
    """Half of a red pattern in the upper rows."""

    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.zeros(len(images), 1, *SHAPE[1:])
        mask[:, :, :2] = 0.5
        pattern = torch.zeros_like(images)
        pattern[:, 0] = 1
        return mask, pattern


def test_a_gallery_holds_what_was_applied() -> None:
    images = torch.randint(0, 256, (3, *SHAPE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    backdoor = HalfRed(shape=SHAPE, classes=4, target="all-to-all", target_class=0)
    gallery = make_gallery(backdoor, images, torch.tensor([0, 2, 3]))
    pixels = images.double() / 255
    expected = pixels.clone()
    expected[:, :, :2] /= 2
    expected[:, 0, :2] += 0.5
    torch.testing.assert_close(gallery.images.double(), pixels, rtol=0, atol=1e-7)
    torch.testing.assert_close(gallery.poisoned.double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(gallery.residuals.double(), expected - pixels, rtol=0, atol=1e-6)
    assert gallery.targets.tolist() == [1, 3, 0]
    assert not gallery.residuals[:, :, 2:].any()


def test_samples_are_drawn_from_each_class() -> None:
    labels = torch.tensor([4, 0, 1, 1, 0, 4, 1, 0, 4, 4])
    chosen = choose_images(labels, 2, 0)
    assert labels[chosen].tolist() == [0, 0, 1, 1, 4, 4]
    assert len(set(chosen.tolist())) == 6
    assert torch.equal(chosen, choose_images(labels, 2, 0))
    assert len({tuple(choose_images(labels, 2, seed).tolist()) for seed in range(10)}) > 3
    # Asking for more keeps those that were there.
    assert set(choose_images(labels, 1, 0).tolist()) < set(chosen.tolist())


@pytest.mark.parametrize(
    ("each", "message"),
    [
        (0, "images: expected a number of at least 1, the images of each class; found 0"),
        (4, "images: expected at most 3, the test images of class 1; found 4"),
    ],
)
def test_a_wrong_number_of_samples_is_refused(each: int, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        choose_images(torch.tensor([0, 0, 0, 0, 1, 1, 1, 3, 3, 3]), each, 0)
