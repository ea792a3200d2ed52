"""What is known of a data set before its images are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from inputaware.errors import ConfigError, DataError, did_you_mean

__all__ = ["DatasetSpec", "dataset_spec", "spec_of_images"]


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Shape, classes and normalisation of a data set."""

    name: str
    """The data set's name, or the path it was read from."""
    shape: tuple[int, int, int]
    """Channels, height and width of an image."""
    classes: int
    """Number of classes."""
    mean: tuple[float, ...]
    """Mean of each channel for normalisation, in pixels of [0, 1]."""
    std: tuple[float, ...]
    """Standard deviation of each channel for normalisation, in the same unit."""
    class_names: tuple[str, ...]
    """Name of each class, by label."""

    def check_target_class(self, target_class: int) -> None:
        """Check that a target class is one of the data set's.

        Raises:
            ConfigError: it is not.
        """
        if not 0 <= target_class < self.classes:
            raise ConfigError(f"target_class: expected a class from 0 to {self.classes - 1}; found {target_class}")


_DIGIT_NAMES = tuple("0123456789")

_CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_GTSRB_NAMES = (
    "speed limit 20",
    "speed limit 30",
    "speed limit 50",
    "speed limit 60",
    "speed limit 70",
    "speed limit 80",
    "end of speed limit 80",
    "speed limit 100",
    "speed limit 120",
    "no passing",
    "no passing for trucks",
    "priority at next junction",
    "priority road",
    "yield",
    "stop",
    "no vehicles",
    "no trucks",
    "no entry",
    "danger",
    "bend left",
    "bend right",
    "double bend",
    "bumpy road",
    "slippery road",
    "road narrows right",
    "road works",
    "traffic signals",
    "pedestrians",
    "children",
    "bicycles",
    "ice or snow",
    "wild animals",
    "end of all limits",
    "turn right ahead",
    "turn left ahead",
    "ahead only",
    "ahead or right",
    "ahead or left",
    "keep right",
    "keep left",
    "roundabout",
    "end of no passing",
    "end of no passing for trucks",
)


def _named(
    name: str,
    shape: tuple[int, int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    class_names: tuple[str, ...],
) -> DatasetSpec:
    return DatasetSpec(name=name, shape=shape, classes=len(class_names), mean=mean, std=std, class_names=class_names)


_SPECS = {
    spec.name: spec
    for spec in (
        _named("digits", (1, 28, 28), (0.5,), (0.5,), _DIGIT_NAMES),
        _named("mnist", (1, 28, 28), (0.5,), (0.5,), _DIGIT_NAMES),
        _named("cifar10", (3, 32, 32), (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261), _CIFAR10_NAMES),
        _named("gtsrb", (3, 32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), _GTSRB_NAMES),
    )
}


def dataset_spec(name: str) -> DatasetSpec:
    """Return the specification of a data set that is known by name.

    The normalisation is the one of the authors' release; mean 0 and standard deviation 1 (GTSRB) is none.

    Args:
        name: digits, mnist, cifar10 or gtsrb.

    Raises:
        DataError: the name is not one of these.
    """
    if name not in _SPECS:
        raise DataError(f"dataset: expected one of {', '.join(_SPECS)}; found {name!r}{did_you_mean(name, _SPECS)}")
    return _SPECS[name]


def spec_of_images(name: str, channels: Literal[1, 3], class_names: Sequence[str]) -> DatasetSpec:
    """Return the specification of a user's own images.

    Grey images take MNIST's shape and networks, colour images the others'. The normalisation is mean 0.5 and
    standard deviation 0.5 in every channel: it maps [0, 1] to [-1, 1] whatever the images are, so that a
    trained network never depends on statistics of one particular folder.

    Args:
        name: the path of the images.
        channels: 1 for grey, 3 for colour.
        class_names: name of each class, by label.
    """
    side = 28 if channels == 1 else 32
    half = (0.5,) * channels
    return _named(name, (channels, side, side), half, half, tuple(class_names))
