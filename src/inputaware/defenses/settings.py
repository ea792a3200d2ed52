"""The settings of the defenses: frozen dataclasses that are flags, help text and record in one.

Nothing here imports torch, so that the command line can answer ``--help`` at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from inputaware.errors import ConfigError

__all__ = [
    "DEFENSES",
    "DefenseName",
    "DefenseSettings",
    "FinePruningSettings",
    "ImageRegularizationSettings",
    "NeuralCleanseSettings",
    "StripSettings",
]

DefenseName = Literal["neural-cleanse", "strip", "fine-pruning", "image-regularization"]

DEFENSES: tuple[DefenseName, ...] = get_args(DefenseName)
"""All defenses, in the order in which they run."""


def _number(
    option: str, value: int | float, low: int | float, high: int | float = math.inf, *, open_low: bool = False
) -> None:
    """Refuse a setting that is out of its range."""
    expected = f"a number above {low:g}" if open_low else f"a number of at least {low:g}"
    if high != math.inf:
        expected += f" and at most {high:g}"
    if not (math.isfinite(value) and (value > low if open_low else value >= low) and value <= high):
        raise ConfigError(f"{option}: expected {expected}; found {value!r}")


@dataclass(frozen=True, kw_only=True)
class NeuralCleanseSettings:
    """Neural Cleanse."""

    threshold: float = 2.0
    """Anomaly index above which a class with a small trigger is flagged."""

    def check(self) -> None:
        """Check every range.

        Raises:
            ConfigError: a value is out of its range.
        """
        _number("neural_cleanse.threshold", self.threshold, 0, open_low=True)


@dataclass(frozen=True, kw_only=True)
class StripSettings:
    """STRIP."""

    overlays: int = 100
    """Clean images that each tested image is blended with."""

    def check(self) -> None:
        """Check every range.

        Raises:
            ConfigError: a value is out of its range.
        """
        _number("strip.overlays", self.overlays, 1)


@dataclass(frozen=True, kw_only=True)
class FinePruningSettings:
    """Fine-Pruning."""

    tolerance: float = 0.04
    """Clean accuracy that pruning may cost on held-out data."""

    def check(self) -> None:
        """Check every range.

        Raises:
            ConfigError: a value is out of its range.
        """
        _number("fine_pruning.tolerance", self.tolerance, 0, 1)


@dataclass(frozen=True, kw_only=True)
class ImageRegularizationSettings:
    """Image regularization."""

    kernels: tuple[int, ...] = (3, 5)
    """Sides of the smoothing windows, odd numbers of pixels."""
    bits: tuple[int, ...] = (3, 2, 1)
    """Colour depths in bits."""

    def check(self) -> None:
        """Check every range.

        Raises:
            ConfigError: a value is out of its range.
        """
        for kernel in self.kernels:
            _number("image_regularization.kernels", kernel, 3)
        for bits in self.bits:
            _number("image_regularization.bits", bits, 1, 8)


@dataclass(frozen=True, kw_only=True)
class DefenseSettings:
    """The settings of all defenses."""

    neural_cleanse: NeuralCleanseSettings = field(default_factory=NeuralCleanseSettings)
    """Neural Cleanse (Wang et al. 2019)."""
    strip: StripSettings = field(default_factory=StripSettings)
    """STRIP (Gao et al. 2019)."""
    fine_pruning: FinePruningSettings = field(default_factory=FinePruningSettings)
    """Fine-Pruning (Liu et al. 2018)."""
    image_regularization: ImageRegularizationSettings = field(default_factory=ImageRegularizationSettings)
    """Image regularization."""
