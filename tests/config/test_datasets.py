"""How many images there are to train on."""

from __future__ import annotations

from inputaware.config.datasets import IMAGE_COUNTS


def test_what_training_gets_of_each_data_set() -> None:
    counts = {name: (images.train, images.published, images.test) for name, images in IMAGE_COUNTS.items()}
    assert counts == {
        "digits": (1149, 1437, 360),
        "mnist": (50_000, 60_000, 10_000),
        "cifar10": (40_000, 50_000, 10_000),
        "gtsrb": (29_209, 39_209, 12_630),
    }
