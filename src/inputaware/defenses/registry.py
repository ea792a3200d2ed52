"""Defenses by name."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from inputaware.defenses.base import Defense
from inputaware.defenses.fine_pruning import FinePruning
from inputaware.defenses.image_regularization import ImageRegularization
from inputaware.defenses.neural_cleanse import NeuralCleanse
from inputaware.defenses.settings import DEFENSES, DefenseName, DefenseSettings, Settings
from inputaware.defenses.strip import Strip
from inputaware.errors import ConfigError

__all__ = ["build_defense", "choose_defenses", "import_defense"]

_LONGEST_NAME = 60

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


def choose_defenses(
    chosen: DefenseName | Defense | Sequence[DefenseName | Defense], settings: DefenseSettings | None = None
) -> list[Defense]:
    """Return the defenses that are asked for, each once.

    Args:
        chosen: names of our own, or defenses that somebody else derived from :class:`Defense`; one may stand by itself.
        settings: the settings of those that are asked for by name; none: the defaults.

    Raises:
        ConfigError: a name is unknown, taken, no name for a file, or stands twice; a setting is out of its range.
    """
    asked: dict[str, tuple[object, Defense]] = {}
    for one in chosen if isinstance(chosen, Iterable) and not isinstance(chosen, str) else [chosen]:
        if not isinstance(one, str | Defense):
            raise ConfigError(
                f"defense: expected a name, or an object of a class that is derived from Defense; found {one!r}"
            )
        defense = one if isinstance(one, Defense) else build_defense(one, settings)
        kind, name = type(defense), getattr(defense, "name", None)
        if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) or len(name) > _LONGEST_NAME:
            raise ConfigError(
                f"{kind.__name__}.name: expected at most {_LONGEST_NAME} small letters, digits and hyphens, since "
                f"files are called by it; found {name!r}"
            )
        if kind is not _CLASSES.get(name, kind):
            raise ConfigError(
                f"{kind.__name__}.name: expected a name that no built-in defense has; found {name!r}; choose another"
            )
        if not isinstance(getattr(defense, "settings", None), Settings):
            raise ConfigError(
                f"{kind.__name__}: expected settings; found none; call super().__init__(settings) in its __init__"
            )
        if name not in asked:
            asked[name] = (one, defense)
        elif asked[name][0] != one:
            raise ConfigError(f"defense: expected each name once; found two of {name!r}")
    return [defense for _, defense in asked.values()]


def import_defense(reference: str) -> Defense:
    """Return a defense that somebody else wrote; the Python code that the reference names is run.

    Args:
        reference: ``FILE.py:NAME`` or ``package.module:NAME``; the name is that of a class derived from
            :class:`Defense` that can be made without arguments, or of an object of one. Beside the file lies what it
            imports.

    Raises:
        ConfigError: there is no such file, module or name, its code fails, or it is something else.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise ConfigError(f"defense: expected FILE.py:CLASS, or module:CLASS; found {reference!r}")
    try:
        module = _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and not place.endswith(".py") and place.startswith(str(error.name)):
            raise ConfigError(
                f"defense: expected an installed module, or one in PYTHONPATH, in {reference}; found none; for a "
                f"file say {place.replace('.', '/')}.py:{name}"
            ) from None
        raise ConfigError(
            f"defense: expected code that can be imported in {reference}; found {type(error).__name__}: {error}"
            f"{_where(error, Path(place))}; mend it"
        ) from error
    found: Any = getattr(module, name, None)
    if isinstance(found, type) and issubclass(found, Defense):
        if found in _CLASSES.values():
            raise ConfigError(
                f"defense: expected a class of your own in {reference}; found a built-in one; say {found.name}"
            )
        try:
            found = found()
        except TypeError as error:
            raise ConfigError(
                f"defense: expected a class that can be made without arguments in {reference}; found: {error}"
                f"{_where(error, Path(place))}; make one in the code, my_defense = {name}(...), and say "
                f"{place}:my_defense"
            ) from error
    if not isinstance(found, Defense):
        held = f"no {name!r}" if found is None else f"{name!r}, which is something else"
        raise ConfigError(
            f"defense: expected a class derived from Defense, or an object of one, in {reference}; found {held}"
        )
    return found


def _where(error: BaseException, path: Path) -> str:
    """Return the last line of a file that an error passed on its way; nothing where it passed none."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    return f" ({path}, line {lines[-1]})" if lines else ""


def _import_file(path: Path) -> ModuleType:
    """Run a file as a module of its own, which is registered since dataclasses look their module up."""
    if not path.is_file():
        raise ConfigError(f"defense: expected a file with Python code at {path}; found none")
    name = f"{path.stem} (a file)"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # Last, so that no file there hides a module of Python's own.
    sys.path.append(str(path.parent.resolve()))
    spec.loader.exec_module(module)
    return module
