"""How many images there are to train on."""

from __future__ import annotations

from inputaware.config.datasets import IMAGE_COUNTS


def test_what_training_gets_of_each_data_set() -> None:
    trained_on = {name: images.train for name, images in IMAGE_COUNTS.items()}
    assert trained_on == {"digits": 1149, "mnist": 50_000, "cifar10": 40_000, "gtsrb": 29_209}
