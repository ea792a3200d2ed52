"""Defenses that somebody else wrote, by the place of their code: ``FILE.py:CLASS`` or ``package.module:CLASS``."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from inputaware.config.record import override
from inputaware.defenses.base import Defense
from inputaware.defenses.registry import build_defense, check_defense, is_built_in
from inputaware.defenses.settings import DEFENSES, DefenseSettings, Settings, field_of
from inputaware.errors import ConfigError, did_you_mean

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
        chosen: names of our own, and defenses that somebody else derived from :class:`Defense`, or the places of their
            code as in :func:`import_defense`; one may stand by itself.
        settings: the settings of those that are asked for by name, or of the one that is; none: the defaults.

    Raises:
        ConfigError: a name is unknown, taken, no name for a file, or stands twice; code cannot be imported; a setting
            is out of its range, or is another defense's.
    """
    asked: dict[str, tuple[object, Defense]] = {}
    for one in chosen if isinstance(chosen, Iterable) and not isinstance(chosen, str) else [chosen]:
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
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise ConfigError(f"defense: expected FILE.py:CLASS, or module:CLASS; found {reference!r}")
    try:
        module, digest = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
        found: Any = getattr(module, name, None)
        kind = found if isinstance(found, type) and issubclass(found, Defense) else None
        if kind is not None:
            _check_class(kind, reference)
            found = kind()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        missing = str(error.name) if isinstance(error, ModuleNotFoundError) else ""
        if missing and not place.endswith(".py") and f"{place}.".startswith(f"{missing}."):
            raise ConfigError(
                f"defense: expected an installed module, or one in PYTHONPATH, in {reference}; found none; for a "
                f"file say {place.replace('.', '/')}.py:{name}"
            ) from None
        raise ConfigError(
            f"defense: expected code that can be imported in {reference}; found {type(error).__name__}: {error}"
            f"{_where(error, Path(place))}; mend it"
        ) from error
    if not isinstance(found, Defense):
        held = f"{name!r}, which is something else"
        if found is None:
            kinds = [one for one, kind in vars(module).items() if isinstance(kind, type) and issubclass(kind, Defense)]
            held = f"no {name!r}{did_you_mean(name, kinds)}"
        raise ConfigError(
            f"defense: expected a class derived from Defense, or an object of one, in {reference}; found {held}"
        )
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


def _where(error: BaseException, path: Path) -> str:
    """Return the last line of a file that an error passed on its way; nothing where it passed none."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    return f" ({path}, line {lines[-1]})" if lines else ""


_PACKAGE = Path(__file__).resolve().parents[1]

_IMPORTED: dict[Path, tuple[str, ModuleType]] = {}
"""The files that this process has run, with the digest of their code at that time."""
_SEEN: dict[Path, bytes | None] = {}
"""The digest of each file of a defense's code before this process loaded it; none where it was loaded by then."""


def _import_file(path: Path) -> tuple[ModuleType, str | None]:
    """Run a file as a module of its own, which is registered since dataclasses look their module up.

    It is not run again before something of its code has changed.

    Returns:
        The module, and the digest of its code: the file, and what it imports from its folder.
    """
    if not path.is_file():
        raise ConfigError(f"defense: expected a file with Python code at {path}; found none")
    path = path.resolve()
    files = _reached(path)
    now, known = _digest(path.parent, files), _known(files)
    if path in _IMPORTED and _IMPORTED[path][0] == now:
        return _IMPORTED[path][1], now if known else None
    # Files of one name keep apart. Without dots, behind which pickle takes it for a part of a package.
    name = f"{path.stem} (a file, {hashlib.sha256(os.fsencode(path)).hexdigest()[:12]})".replace(".", "_")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        # Last, so that no file there hides a module of Python's own.
        sys.path.append(str(path.parent))
    spec.loader.exec_module(module)
    _IMPORTED[path] = (now, module)
    return module, now if known else None


def _import_module(place: str) -> tuple[ModuleType, str | None]:
    """Import a module, and return it with the digest of its package; of a module by itself with that of its file."""
    try:
        spec = importlib.util.find_spec(place.partition(".")[0])
    except (ImportError, ValueError):  # made by hand, or what the import itself will name
        spec = None
    roots = [] if spec is None else list(spec.submodule_search_locations or [spec.origin or ""])
    root = Path(roots[0]).resolve() if len(roots) == 1 else None
    digest = None
    if root is not None and root.exists():
        files = _sources(root)
        digest = _digest(root, files) if _known(files) else None
    return importlib.import_module(place), digest


def _known(files: Sequence[Path]) -> bool:
    """Return whether what this process has loaded of some files, if anything, is what they hold now."""
    loaded = {
        Path(file).resolve()
        for name, module in list(sys.modules.items())
        if name != "__main__" and isinstance(file := getattr(module, "__file__", None), str)
    }
    known = True
    for path in files:
        now = hashlib.sha256(path.read_bytes()).digest()
        if path not in _SEEN:
            _SEEN[path] = None if path.resolve() in loaded else now
        known = known and _SEEN[path] == now
    return known


def _digest(root: Path, files: Sequence[Path]) -> str:
    """Return a digest of some Python files, by their places below a folder."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(os.fsencode(os.path.relpath(path, root)) + b"\n" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _reached(file: Path) -> list[Path]:
    """Return a Python file and those of its folder that its import statements reach, and theirs in turn."""
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(path, file.parent)
    return sorted(found)


def _imported(file: Path, root: Path) -> Iterator[Path]:
    """Yield the files of a folder that the import statements of one of them name, those within functions too."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # what is wrong is said when it is run
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files_of(root, alias.name)
        elif isinstance(node, ast.ImportFrom):
            folder = root if node.level == 0 else Path(file, *[".."] * node.level)
            for alias in node.names:
                yield from _files_of(folder, f"{node.module or ''}.{alias.name}")
                if alias.name == "*":  # with the modules that the package names
                    yield from Path(folder, *(node.module or "").split(".")).glob("*.py")


def _files_of(folder: Path, module: str) -> Iterator[Path]:
    """Yield the files of a module and of the packages that it is in, as far as they lie in a folder."""
    place = Path(os.path.normpath(folder))
    for part in filter(None, module.split(".")):
        place = place / part
        yield from (path for path in (place.parent / f"{part}.py", place / "__init__.py") if path.is_file())


def _sources(root: Path) -> list[Path]:
    """Return the Python files in a folder, and in those below it that have some; of a file that file.

    Hidden folders, environments with installed packages, and this package itself are left out.
    """
    if not root.is_dir():
        return [root]
    found: list[Path] = []
    for folder, below, names in os.walk(root):
        here = [Path(folder, name) for name in sorted(names) if name.endswith(".py") and not name.startswith(".")]
        here = [path for path in here if path.is_file()]  # no link that leads nowhere
        if not here and folder != str(root):
            below.clear()
        below[:] = sorted(
            name
            for name in below
            if not name.startswith((".", "__pycache__")) and name != "site-packages" and Path(folder, name) != _PACKAGE
        )
        found += here
    return found
