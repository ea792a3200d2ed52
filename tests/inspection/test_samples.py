"""Samples of every class."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from inputaware.errors import ConfigError
from inputaware.inspection.samples import choose_images, named_images


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


@pytest.mark.usefixtures("unchecked")
def test_named_images_keep_their_order() -> None:
    assert named_images([42, 3, 17], 43).tolist() == [42, 3, 17]
    assert named_images(np.array([0, 2]), 3).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([], "indices: expected one image of the test set or more; found none; name some, or leave it out"),
        ([0, 10], "indices: expected numbers from 0 to 9, places in the test set; found 10"),
        ([-1], "indices: expected numbers from 0 to 9, places in the test set; found -1"),
        ([True], "indices: expected whole numbers, places in the test set; found True"),
        ([1.0], "indices: expected whole numbers, places in the test set; found 1.0"),
        ([3, 5, 3], "indices: expected each image once; found 3 2 times; name it once"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_images_that_are_not_there_or_named_twice_are_refused(indices: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        named_images(indices, 10)
