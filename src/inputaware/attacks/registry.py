"""Attacks by name: those of this package, and those that somebody else wrote."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import shlex
import sys
from pathlib import Path
from typing import TypeVar, get_args

from inputaware.attacks.badnets import BadNets, Clean
from inputaware.attacks.base import Attack
from inputaware.attacks.input_aware import InputAware
from inputaware.config.checks import OWN_ATTACKS
from inputaware.config.fields import AttackName, Config
from inputaware.data.spec import DatasetSpec
from inputaware.errors import ConfigError
from inputaware.own_code import import_own

__all__ = ["attack_code", "build_attack", "import_attacks", "register_attack"]

_Kind = TypeVar("_Kind", bound=type[Attack])

_ATTACKS: dict[str, type[Attack]] = {kind.name: kind for kind in (InputAware, BadNets, Clean)}

_CODE: dict[str, str] = {}
"""Digests of the code of attacks that were imported, by name."""

_VARIABLE = "INPUTAWARE_ATTACKS"


def register_attack(kind: _Kind) -> _Kind:
    """Make an attack that somebody else wrote known by its name; a decorator of its class.

    Args:
        kind: a class derived from :class:`Attack` that is made of a configuration and a data set. Its ``name``, in
            small letters, digits and dashes, is what a configuration's ``attack`` is to be. A class of the same name
            that was registered before makes room, as where a cell of a notebook is run again.

    Raises:
        ConfigError: it is no such class.
    """
    if not isinstance(kind, type) or not issubclass(kind, Attack):
        raise ConfigError(f"attack: expected a class derived from Attack; found {kind!r}")
    if inspect.isabstract(kind):
        raise ConfigError(
            f"attack: expected a class with __init__ and stages; found {kind.__name__} without "
            f"{', '.join(sorted(kind.__abstractmethods__))}; write it"
        )
    name = vars(kind).get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) or name in get_args(AttackName):
        raise ConfigError(
            f"attack: expected a name of its own in {kind.__name__}, in small letters, digits and dashes, that none of "
            f'{", ".join(get_args(AttackName))} has; found {name!r}; write name = "my-attack" into the class'
        )
    _ATTACKS[name] = kind
    _CODE.pop(name, None)
    OWN_ATTACKS[name] = next((ours.name for ours in (InputAware, BadNets) if issubclass(kind, ours)), "")
    return kind


def import_attacks() -> None:
    """Register the attacks whose code the environment names; that code is run.

    ``INPUTAWARE_ATTACKS`` has the places of one or more, as words of a shell: ``/path/to/FILE.py:CLASS`` or
    ``package.module:CLASS``. A path is absolute, since the variable holds wherever a command is run: a file that lies
    in a folder that somebody sent must not be taken for it. What the code prints goes to stderr.

    Raises:
        ConfigError: a path is not absolute, there is no such file, module or class, its code fails, it is no attack, or
            two have one name.
    """
    places: dict[str, str] = {}
    try:
        references = shlex.split(given := os.environ.get(_VARIABLE, ""))
    except ValueError as error:
        raise ConfigError(f"{_VARIABLE}: expected words of a shell; found {given!r}: {error}; mend it") from None
    for reference in references:
        place = reference.rpartition(":")[0]
        if place.endswith(".py") and not os.path.isabs(place):
            raise ConfigError(
                f"{_VARIABLE}: expected an absolute path; found {place!r}, which is another file in each folder; say "
                f"{Path(place).absolute()}"
            )
        if not place:
            raise ConfigError(
                f"{_VARIABLE}: expected /path/to/FILE.py:CLASS, or module:CLASS; found {reference!r}; a path with "
                "spaces stands in quotation marks of its own"
            )
        with contextlib.redirect_stdout(sys.stderr):
            found, digest = import_own(reference, Attack)  # type: ignore[type-abstract]
        if not isinstance(found, type):
            raise ConfigError(f"attack: expected a class in {reference}; found an object; name its class")
        register_attack(found)
        if (other := places.setdefault(found.name, reference)) != reference:
            raise ConfigError(
                f"{_VARIABLE}: expected attacks with names of their own; found {found.name!r} in {other} and in "
                f"{reference}; rename one"
            )
        if digest is not None:
            _CODE[found.name] = digest


def attack_code(name: str) -> str | None:
    """Return the digest of an attack's code; none of ours, and of what was not imported by its place.

    Args:
        name: what a configuration calls it.
    """
    return _CODE.get(name)


def build_attack(config: Config, spec: DatasetSpec) -> Attack:
    """Return the attack that a configuration names, its networks freshly initialised.

    Raises:
        ConfigError: the attack is not known, the target class is not one of the data set's, or the architecture does
            not fit.
    """
    spec.check_target_class(config.target_class)
    if config.attack not in _ATTACKS:
        import_attacks()
    if config.attack not in _ATTACKS:
        raise ConfigError(
            f"attack: expected the code of {config.attack}, an attack of somebody's own; found none; name it with "
            f"{_VARIABLE}=/path/to/FILE.py:CLASS, or in Python with register_attack"
        )
    return _ATTACKS[config.attack](config, spec)
