"""Defenses that somebody else wrote, by the place of their code: ``FILE.py:CLASS`` or ``package.module:CLASS``."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any

from inputaware.config.record import override
from inputaware.defenses.base import Defense
from inputaware.defenses.registry import build_defense, check_defense, is_built_in
from inputaware.defenses.settings import DEFENSES, DefenseSettings, Settings, expand_all, field_of
from inputaware.errors import ConfigError
from inputaware.own_code import explained, import_own

__all__ = ["OwnDefense", "choose_defenses", "import_defense", "import_defenses", "make_defense", "settings_with"]


@dataclass(frozen=True)
class OwnDefense:
    """A defense that was imported by its place.

    Attributes:
        reference: the place, as it was given.
        made: the defense with its default settings. Its ``source_digest`` is of its file and of what this imports
            from its folder, or of all of its package; none where this process had loaded one of them before.
        kind: the class that makes it of settings; none where the place has an object that is made already.
    """

    reference: str
    made: Defense
    kind: type[Defense] | None = None

    def with_settings(self, settings: Settings | Mapping[str, Any]) -> Defense:
        """Return the defense with other settings.

        Args:
            settings: all of them, or those that depart from the defaults by name.

        Raises:
            ConfigError: a setting is unknown, out of its range or of the wrong type, or the class does not take any.
        """
        if not isinstance(settings, Settings):
            settings = override(self.made.settings, dict(settings))
        if settings == self.made.settings:
            return self.made
        if self.kind is None:
            raise ConfigError(
                f"{self.made.name}: expected a class, whose settings can be given, in {self.reference}; found an "
                "object that is made already; name its class"
            )
        try:
            found = self.kind(settings)
        except TypeError as error:
            raise ConfigError(
                f"{self.made.name}: expected a class that takes its settings in {self.reference}; found: {error}; hand "
                "them on to super().__init__(settings)"
            ) from error
        if found.settings != settings:
            raise ConfigError(
                f"{self.made.name}: expected a class that takes its settings in {self.reference}; found one that keeps "
                "others; hand them on to super().__init__(settings)"
            )
        found.source_digest = self.made.source_digest
        return found


def import_defenses(references: Sequence[str]) -> dict[str, OwnDefense]:
    """Return several of them by their place.

    Raises:
        ConfigError: as :func:`import_defense`, or their files lie in several folders.
    """
    places = [reference.rpartition(":")[0] for reference in references]
    if len(folders := {Path(place).resolve().parent for place in places if place.endswith(".py")}) > 1:
        raise ConfigError(
            f"defense: expected the files of your own defenses in one folder, since they import what lies beside them; "
            f"found {', '.join(sorted(map(str, folders)))}; take one folder at a time"
        )
    return {reference: import_defense(reference) for reference in references}


def choose_defenses(
    chosen: str | Defense | Sequence[str | Defense],
    settings: DefenseSettings | Settings | None = None,
) -> list[Defense]:
    """Return the defenses that are asked for, each once.

    Args:
        chosen: names of our own, ``all`` for all of them, and defenses that somebody else derived from
            :class:`Defense`, or the places of their code as in :func:`import_defense`; one may stand by itself.
        settings: the settings of those that are asked for by name, or of the one that is; none: the defaults.

    Raises:
        ConfigError: a name is unknown, taken, no name for a file, or stands twice; code cannot be imported; a setting
            is out of its range, or is another defense's.
    """
    asked: dict[str, tuple[object, Defense]] = {}
    for one in expand_all(list(chosen) if isinstance(chosen, Iterable) and not isinstance(chosen, str) else [chosen]):
        if not isinstance(one, str | Defense):
            raise ConfigError(
                f"defense: expected a name, or an object of a class that is derived from Defense; found {one!r}"
            )
        if isinstance(one, Defense):
            defense = one
        elif ":" in one:
            own = import_defense(one)
            defense = own.made
            if settings is not None and not isinstance(settings, DefenseSettings):
                defense = own.with_settings(settings)
        else:
            defense = build_defense(one, settings)
        check_defense(defense)
        name = defense.name
        if name not in asked:
            asked[name] = (one, defense)
        elif asked[name][0] != one:
            raise ConfigError(f"defense: expected each name once; found two of {name!r}")
    return [defense for _, defense in asked.values()]


def make_defense(reference: str, settings: Mapping[str, Any]) -> Defense:
    """Return a defense by its name or by the place of its code, with settings that depart from its defaults.

    Args:
        reference: one of :data:`inputaware.defenses.settings.DEFENSES`, or as in :func:`import_defense`.
        settings: by name.

    Raises:
        ConfigError: as :func:`import_defense`, or a setting is unknown, out of its range or of the wrong type.
    """
    if reference in DEFENSES:
        return build_defense(reference, override(DefenseSettings(), {field_of(reference): dict(settings)}))
    return import_defense(reference).with_settings(settings)


def settings_with(own: Sequence[OwnDefense]) -> DefenseSettings:
    """Return the default settings of all built-in defenses and of some more, which are fields of the same kind.

    Those of an object that is made already are left out: they are set where it is made.

    Args:
        own: the others.
    """
    parts = {
        field_of(one.made.name): one.made.settings for one in own if one.kind is not None and fields(one.made.settings)
    }
    kinds = [(name, type(part), field(default=part)) for name, part in parts.items()]
    made: DefenseSettings = make_dataclass(
        "DefenseSettings", kinds, bases=(DefenseSettings,), frozen=True, kw_only=True
    )()
    return made


def import_defense(reference: str) -> OwnDefense:
    """Return a defense that somebody else wrote; the Python code that the reference names is run.

    Args:
        reference: ``FILE.py:NAME`` or ``package.module:NAME``; the name is that of a class derived from
            :class:`Defense` that can be made without arguments, or of an object of one. Beside the file lies what it
            imports.

    Raises:
        ConfigError: there is no such file, module or name, its code fails, or it is something else.
    """
    found, digest = import_own(reference, Defense)  # type: ignore[type-abstract]
    kind = found if isinstance(found, type) else None
    if isinstance(found, type):
        _check_class(found, reference)
        with explained(reference, "defense"):
            found = found()
    check_defense(found)
    found.source_digest = digest
    return OwnDefense(reference, found, kind)


def _check_class(kind: type[Defense], reference: str) -> None:
    """Check that a class is somebody's own, and can be made without arguments."""
    place, _, name = reference.rpartition(":")
    if is_built_in(kind):
        raise ConfigError(
            f"defense: expected a class of your own in {reference}; found a built-in one; say {kind.name}"
        )
    if inspect.isabstract(kind):
        raise ConfigError(
            f"defense: expected a class with examine and score in {reference}; found one without "
            f"{', '.join(sorted(kind.__abstractmethods__))}; write it"
        )
    try:
        inspect.signature(kind).bind()
    except TypeError as error:
        raise ConfigError(
            f"defense: expected a class that can be made without arguments in {reference}; found: {error}; make one in "
            f"the code, my_defense = {name}(...), and say {place}:my_defense"
        ) from error
