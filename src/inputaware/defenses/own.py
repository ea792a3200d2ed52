"""Defenses that somebody else wrote, by the place of their code: ``FILE.py:CLASS`` or ``package.module:CLASS``."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from inputaware.config import override
from inputaware.defenses.base import Defense
from inputaware.defenses.registry import build_defense, check_defense, is_built_in
from inputaware.defenses.settings import DEFENSES, DefenseSettings, Settings, field_of
from inputaware.errors import ConfigError

__all__ = ["OwnDefense", "import_defense", "import_defenses", "make_defense", "settings_with"]


@dataclass(frozen=True)
class OwnDefense:
    """A defense that was imported by its place.

    Attributes:
        reference: the place, as it was given.
        made: the defense with its default settings. Its ``code`` is a digest of the file that it came from, and of
            what that imports from beside it.
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
        found.code = self.made.code
        return found


def import_defenses(references: Sequence[str]) -> dict[str, OwnDefense]:
    """Return several of them by their place.

    Raises:
        ConfigError: as :func:`import_defense`, or their files lie in several folders.
    """
    places = [Path(reference.rpartition(":")[0]) for reference in references if ".py:" in reference]
    if len(folders := {place.resolve().parent for place in places}) > 1:
        raise ConfigError(
            f"defense: expected the files of your own defenses in one folder, since they import what lies beside them; "
            f"found {', '.join(sorted(map(str, folders)))}; take one folder at a time"
        )
    return {reference: import_defense(reference) for reference in references}


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
    kind = None
    if isinstance(found, type) and issubclass(found, Defense):
        kind = found
        if is_built_in(kind):
            raise ConfigError(
                f"defense: expected a class of your own in {reference}; found a built-in one; say {kind.name}"
            )
        try:
            found = kind()
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
    check_defense(found)
    found.code = _digest(module)
    return OwnDefense(reference, found, kind)


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


def _digest(module: ModuleType) -> str | None:
    """Return a digest of a module's file and of those beside it that it imports; none where it has no file."""
    if not getattr(module, "__file__", None):
        return None
    digest = hashlib.sha256()
    for path in sorted(_sources(Path(str(module.__file__)).resolve(), set())):
        digest.update(f"{path.name}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _sources(path: Path, found: set[Path]) -> set[Path]:
    """Return a file, and the files and packages beside it that it imports, and so on.

    They are read, not looked up among the loaded modules, so that it does not matter what else was imported before.
    """
    found.add(path)
    for node in ast.walk(ast.parse(path.read_bytes())) if path.suffix == ".py" else ():
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
        for part in {part for name in names for part in name.split(".")} - {"", "*"}:
            file, package = path.with_name(f"{part}.py"), path.with_name(part)
            for other in [file] if file.is_file() else sorted(package.rglob("*.py")):
                if other not in found:
                    _sources(other, found)
    return found
