"""Samples of every class."""

from __future__ import annotations

import re

import pytest
import torch

from inputaware.errors import ConfigError
from inputaware.inspection.samples import choose_images


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
