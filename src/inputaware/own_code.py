"""Code that somebody else wrote, by its place: ``FILE.py:NAME`` or ``package.module:NAME``."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from inputaware.errors import ConfigError, did_you_mean

__all__ = ["explained", "import_own"]

_T = TypeVar("_T")


def import_own(reference: str, base: type[_T]) -> tuple[type[_T] | _T, str | None]:
    """Import what is derived from one of our classes; the Python code that the reference names is run.

    Args:
        reference: ``FILE.py:NAME`` or ``package.module:NAME``; the name is that of a class, or of an object of one.
            Beside the file lies what it imports.
        base: which of our classes; its name in small letters is what messages call it.

    Returns:
        The class or the object, and a digest of its code: of its file and of what this imports from its folder, or of
        all of its package; none where this process had loaded one of them before.

    Raises:
        ConfigError: there is no such file, module or name, its code fails, or it is something else.
    """
    what = base.__name__.lower()
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise ConfigError(f"{what}: expected FILE.py:CLASS, or module:CLASS; found {reference!r}")
    with explained(reference, what):
        module, digest = _import_file(Path(place), what) if place.endswith(".py") else _import_module(place)
        found: Any = getattr(module, name, None)
    if isinstance(found, base) or (isinstance(found, type) and issubclass(found, base)):
        return found, digest
    held = f"{name!r}, which is something else"
    if found is None:
        kinds = [one for one, kind in vars(module).items() if isinstance(kind, type) and issubclass(kind, base)]
        held = f"no {name!r}{did_you_mean(name, kinds)}"
    raise ConfigError(
        f"{what}: expected a class derived from {base.__name__}, or an object of one, in {reference}; found {held}"
    )


@contextmanager
def explained(reference: str, what: str) -> Iterator[None]:
    """Say of somebody's code that fails within where it does.

    Args:
        reference: its place.
        what: what it is called.

    Raises:
        ConfigError: it failed.
    """
    place, _, name = reference.rpartition(":")
    try:
        yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        missing = str(error.name) if isinstance(error, ModuleNotFoundError) else ""
        if missing and not place.endswith(".py") and f"{place}.".startswith(f"{missing}."):
            raise ConfigError(
                f"{what}: expected an installed module, or one in PYTHONPATH, in {reference}; found none; for a "
                f"file say {place.replace('.', '/')}.py:{name}"
            ) from None
        raise ConfigError(
            f"{what}: expected code that can be imported in {reference}; found {type(error).__name__}: {error}"
            f"{_where(error, Path(place))}; mend it"
        ) from error


def _where(error: BaseException, path: Path) -> str:
    """Return the last line of a file that an error passed on its way; nothing where it passed none."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    return f" ({path}, line {lines[-1]})" if lines else ""


_PACKAGE = Path(__file__).resolve().parent

_IMPORTED: dict[Path, tuple[str, ModuleType]] = {}
"""The files that this process has run, with the digest of their code at that time."""
_SEEN: dict[Path, bytes | None] = {}
"""The digest of each file of somebody's code before this process loaded it; none where it was loaded by then."""


def _import_file(path: Path, what: str) -> tuple[ModuleType, str | None]:
    """Run a file as a module of its own, which is registered since dataclasses look their module up.

    It is not run again before something of its code has changed.

    Returns:
        The module, and the digest of its code: the file, and what it imports from its folder.
    """
    if not path.is_file():
        raise ConfigError(f"{what}: expected a file with Python code at {path}; found none")
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
