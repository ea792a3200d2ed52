"""Samples of every class, and pictures whose bytes say what the pixels are."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from inputaware.attacks.base import Backdoor
from inputaware.errors import ConfigError
from inputaware.inspection.gallery import choose_images, enlarge, grid, make_gallery, show_pixels, show_residuals

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


def test_pixels_are_shown_as_they_are() -> None:
    grey = torch.tensor([0.2, 0.4, 100 / 255]).view(1, 1, 1, 3)
    np.testing.assert_array_equal(show_pixels(grey)[0, 0], [[51] * 3, [102] * 3, [100] * 3])
    colour = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)
    assert show_pixels(colour)[0, 0, 0].tolist() == [0, 128, 255]


def test_residuals_have_a_fixed_scale() -> None:
    residuals = torch.tensor([-1.0, -0.2, 0.0, 0.2, 1.0]).view(1, 1, 1, 5)
    assert show_residuals(residuals)[0, 0, :, 0].tolist() == [0, 102, 128, 153, 255]


def test_enlarged_pixels_are_crisp_squares() -> None:
    cells = np.random.RandomState(0).randint(0, 256, (2, 3, 4, 3)).astype(np.uint8)
    large = enlarge(cells, 3)
    assert large.shape == (2, 9, 12, 3)
    np.testing.assert_array_equal(large, np.kron(cells, np.ones((1, 3, 3, 1), dtype=np.uint8)))


def test_a_grid_has_a_row_for_each_image() -> None:
    left, right = (np.full((2, 3, 4, 3), value, dtype=np.uint8) for value in (10, 20))
    right[1] = 30
    found = grid([left, right], 2)
    assert found.shape == (2 + 2 * 5, 2 + 2 * 6, 3)
    assert (found[2:5, 2:6] == 10).all()
    assert (found[7:10, 8:12] == 30).all()
    outside = np.ones(found.shape[:2], dtype=bool)
    for top in (2, 7):
        for start in (2, 8):
            outside[top : top + 3, start : start + 4] = False
    assert (found[outside] == 255).all()
