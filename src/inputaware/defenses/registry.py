"""Defenses by name."""

from __future__ import annotations

from inputaware.defenses.base import Defense
from inputaware.defenses.fine_pruning import FinePruning
from inputaware.defenses.image_regularization import ImageRegularization
from inputaware.defenses.neural_cleanse import NeuralCleanse
from inputaware.defenses.settings import DEFENSES, DefenseName, DefenseSettings
from inputaware.defenses.strip import Strip
from inputaware.errors import ConfigError

__all__ = ["build_defense"]

_CLASSES: dict[str, type[Defense]] = {
    defense.name: defense for defense in (NeuralCleanse, Strip, FinePruning, ImageRegularization)
}


def build_defense(name: DefenseName, settings: DefenseSettings | None = None) -> Defense:
    """Return a defense.

    Args:
        name: one of :data:`inputaware.defenses.settings.DEFENSES`.
        settings: the settings of all defenses; none: the defaults.

    Raises:
        ConfigError: the name is unknown, or a setting is out of its range.
    """
    if name not in DEFENSES:
        raise ConfigError(f"defense: expected one of {', '.join(DEFENSES)}; found {name!r}")
    return _CLASSES[name](getattr(settings or DefenseSettings(), name.replace("-", "_")))
