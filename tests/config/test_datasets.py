"""How many images there are to train on, and which have colour."""

from __future__ import annotations

from inputaware.config.datasets import COLOURED, DATASETS, IMAGE_COUNTS
from inputaware.data.spec import dataset_spec


def test_what_training_gets_of_each_data_set() -> None:
    counts = {name: (images.train, images.published, images.test) for name, images in IMAGE_COUNTS.items()}
    assert counts == {
        "digits": (1149, 1437, 360),
        "mnist": (50_000, 60_000, 10_000),
        "cifar10": (40_000, 50_000, 10_000),
        "gtsrb": (29_209, 39_209, 12_630),
    }


def test_the_coloured_ones_are_those_of_three_channels() -> None:
    assert [name for name in DATASETS if dataset_spec(name).shape[0] == 3] == list(COLOURED)
