"""Attacks by name."""

from __future__ import annotations

from inputaware.attacks.badnets import BadNets, Clean
from inputaware.attacks.base import Attack
from inputaware.attacks.input_aware import InputAware
from inputaware.config.fields import Config
from inputaware.data.spec import DatasetSpec

__all__ = ["build_attack"]

_ATTACKS: dict[str, type[InputAware] | type[BadNets] | type[Clean]] = {
    "badnets": BadNets,
    "input-aware": InputAware,
    "none": Clean,
}


def build_attack(config: Config, spec: DatasetSpec) -> Attack:
    """Return the attack that a configuration names, its networks freshly initialised.

    Raises:
        ConfigError: the target class is not one of the data set's, or the architecture does not fit.
    """
    spec.check_target_class(config.target_class)
    return _ATTACKS[config.attack](config, spec)
