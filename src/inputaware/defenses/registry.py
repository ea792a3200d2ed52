"""Defenses by name."""

from __future__ import annotations

import re
from keyword import iskeyword

from inputaware.defenses.adversarial_neuron_pruning import AdversarialNeuronPruning
from inputaware.defenses.base import Defense
from inputaware.defenses.beatrix import Beatrix
from inputaware.defenses.fine_pruning import FinePruning
from inputaware.defenses.image_regularization import ImageRegularization
from inputaware.defenses.neural_cleanse import NeuralCleanse
from inputaware.defenses.scale_up import ScaleUp
from inputaware.defenses.settings import DEFENSES, DefenseSettings, Settings, field_of
from inputaware.defenses.strip import Strip
from inputaware.errors import ConfigError, did_you_mean

__all__ = ["build_defense", "check_defense", "is_built_in"]

_LONGEST_NAME = 60
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_CLASSES: dict[str, type[Defense]] = {
    defense.name: defense
    for defense in (
        NeuralCleanse,
        Strip,
        FinePruning,
        ImageRegularization,
        ScaleUp,
        Beatrix,
        AdversarialNeuronPruning,
    )
}


def build_defense(name: str, settings: DefenseSettings | Settings | None = None) -> Defense:
    """Return a defense.

    Args:
        name: one of :data:`inputaware.defenses.settings.DEFENSES`.
        settings: its own settings, or those of all defenses; none: the defaults.

    Raises:
        ConfigError: the name is unknown, or a setting is out of its range, or the settings are another defense's.
    """
    if name not in DEFENSES:
        raise ConfigError(
            f"defense: expected one of {', '.join(DEFENSES)}; found {name!r}{did_you_mean(name, DEFENSES)}"
        )
    usual = getattr(DefenseSettings(), field_of(name))
    own = getattr(settings, field_of(name)) if isinstance(settings, DefenseSettings) else settings
    if not isinstance(own, type(usual) | None):
        kind = type(usual).__name__
        raise ConfigError(
            f"{name}: expected its settings, an object of {kind}; found {own!r}; "
            f"give {kind}(...), or DefenseSettings({field_of(name)}={kind}(...)) where there are several defenses"
        )
    return _CLASSES[name](usual if own is None else own)


def check_defense(defense: Defense) -> None:
    """Check what a defense is called, and that it has settings.

    Raises:
        ConfigError: its name is taken or no name for a file, or it was not made whole.
    """
    kind, name = type(defense), getattr(defense, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME or iskeyword(name):
        raise ConfigError(
            f"{kind.__name__}.name: expected at most {_LONGEST_NAME} small letters, digits and hyphens, a letter "
            f"first, and no word of Python's, since files and options are called by it; found {name!r}"
        )
    if name == "all" or kind is not _CLASSES.get(name, kind):
        raise ConfigError(
            f"{kind.__name__}.name: expected a name that no built-in defense has, and not all; found {name!r}; "
            "choose another"
        )
    if not isinstance(getattr(defense, "settings", None), Settings):
        raise ConfigError(
            f"{kind.__name__}: expected settings; found none; call super().__init__(settings) in its __init__"
        )


def is_built_in(kind: type[Defense]) -> bool:
    """Return whether a class is one of our own."""
    return kind in _CLASSES.values()
