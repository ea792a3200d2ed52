"""Imports go up the list of rooms, never down; within a room they make no circle; light modules load no torch."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = "inputaware"

ROOMS = [
    "errors",
    "own_code",
    "config",
    "data",
    "models",
    "attacks",
    "runs",
    "evaluation",
    "training",
    "defenses",
    "figures",
    "inspection",
    "report",
    "api",
    "poisoning",
    "benchmarking",
    "reproduction",
    "sweeps",
    "console",
    "commands",
    "arguments",
    "cli",
    "__main__",
]
"""A module imports from the rooms above its own, and from its own."""

LIGHT = [
    "errors",
    "own_code",
    "config",
    "data.spec",
    "evaluation.aggregate",
    "evaluation.filters",
    "evaluation.statistics",
    "evaluation.words",
    "runs.description",
    "runs.files",
    "runs.findings",
    "runs.journal",
    "runs.results",
    "defenses.settings",
    "figures",
    "report",
    "sweeps.grid",
    "sweeps.progress",
    "console",
    "commands",
    "arguments",
    "cli",
]
"""Modules and rooms that are imported without torch; a function in them may import it when it is called."""


class Import(NamedTuple):
    """An import of a module; ``lazy`` where it happens in a function or for the type checker only."""

    target: str
    lazy: bool


def imports_of(source: str, module: str, is_package: bool, modules: Iterable[str]) -> set[Import]:
    """Return what a module imports, by full name; ``from package import module`` counts as that module."""
    known = set(modules)
    found: set[Import] = set()

    def visit(node: ast.AST, lazy: bool) -> None:
        if isinstance(node, ast.Import):
            found.update(Import(alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".") if is_package else module.split(".")[:-1]
                base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.add(Import(full if full in known else base, lazy))
        deferred = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, True)
            for child in node.orelse:
                visit(child, lazy)
            return
        for child in ast.iter_child_nodes(node):
            visit(child, deferred)

    visit(ast.parse(source), False)
    return found


def read_package() -> dict[str, set[Import]]:
    """Return the imports of each module of the package, by the module's full name."""
    files = {}
    for path in sorted((SOURCE / PACKAGE).rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {
        name: imports_of(path.read_text(encoding="utf-8"), name, path.name == "__init__.py", files)
        for name, path in files.items()
    }


def room_of(module: str) -> str | None:
    """Return the room of a module; none for the package itself, which holds only the version, and for strangers."""
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


def offences(graph: Mapping[str, set[Import]], rooms: list[str]) -> list[str]:
    """Return the imports that go down the list of rooms, and the modules that are in no room."""
    found = []
    for module, imports in graph.items():
        room = room_of(module)
        if room is None:
            continue
        if room not in rooms:
            found.append(f"{module}: room {room} is not in the list")
            continue
        for target in {item.target for item in imports}:
            other = room_of(target)
            if other is not None and (other not in rooms or rooms.index(other) > rooms.index(room)):
                found.append(f"{module} imports {target}")
    return sorted(found)


def circles(graph: Mapping[str, set[Import]]) -> list[str]:
    """Return the modules that can be reached from themselves within their room."""
    inner = {
        module: {item.target for item in imports if item.target in graph and room_of(item.target) == room_of(module)}
        for module, imports in graph.items()
        if room_of(module) is not None
    }
    found = []
    for start in inner:
        reached: set[str] = set()
        ahead = list(inner[start])
        while ahead:
            module = ahead.pop()
            if module not in reached:
                reached.add(module)
                ahead.extend(inner.get(module, ()))
        if start in reached:
            found.append(start)
    return found


def loads_torch(graph: Mapping[str, set[Import]], module: str) -> bool:
    """Return whether importing a module imports torch, by itself or through others of the package."""
    reached: set[str] = set()
    ahead = [module]
    while ahead:
        name = ahead.pop()
        if name.split(".")[0] in ("torch", "torchvision"):
            return True
        # Importing a module imports the packages around it.
        parents = [".".join(name.split(".")[:length]) for length in range(1, name.count(".") + 1)]
        for known in (name, *parents):
            if known in graph and known not in reached:
                reached.add(known)
                ahead.extend(item.target for item in graph[known] if not item.lazy)
    return False


GRAPH = read_package()


def test_the_package_was_read() -> None:
    assert {
        f"{PACKAGE}.errors",
        f"{PACKAGE}.config.checks",
        f"{PACKAGE}.attacks.base",
        f"{PACKAGE}.cli",
    } <= GRAPH.keys()
    assert Import(f"{PACKAGE}.errors", False) in GRAPH[f"{PACKAGE}.config.checks"]


def test_imports_go_up() -> None:
    assert offences(GRAPH, ROOMS) == []


def test_no_circles_within_a_room() -> None:
    assert circles(GRAPH) == []


@pytest.mark.parametrize(
    "module", [name for name in GRAPH if any(f"{name}.".startswith(f"{PACKAGE}.{light}.") for light in LIGHT)]
)
def test_light_modules_load_no_torch(module: str) -> None:
    assert not loads_torch(GRAPH, module)


# What the functions above must catch: a made-up package.

MADE_UP = ["inputaware", "inputaware.errors", "inputaware.data", "inputaware.data.spec", "inputaware.models.cnn"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch.nn as nn", Import("torch.nn", False)),
        ("from inputaware.errors import DataError", Import("inputaware.errors", False)),
        ("from inputaware.data import spec", Import("inputaware.data.spec", False)),
        ("from .spec import x", Import("inputaware.data.spec", False)),
        ("from ..models import cnn", Import("inputaware.models.cnn", False)),
        ("from . import spec", Import("inputaware.data.spec", False)),
        ("def f():\n    import torch", Import("torch", True)),
        ("if TYPE_CHECKING:\n    import torch", Import("torch", True)),
        ("if typing.TYPE_CHECKING:\n    pass\nelse:\n    import torch", Import("torch", False)),
        ("try:\n    import torch\nexcept ImportError:\n    pass", Import("torch", False)),
        ("class A:\n    import torch", Import("torch", False)),
    ],
)
def test_imports_are_found(source: str, expected: Import) -> None:
    assert imports_of(source, "inputaware.data.sources", False, MADE_UP) == {expected}


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"inputaware.data.cache": {Import("inputaware.errors", False)}}, []),
        ({"inputaware.data.cache": {Import("inputaware", False)}}, []),
        ({"inputaware.data.cache": {Import("inputaware.data.spec", False)}}, []),
        (
            {"inputaware.data.cache": {Import("inputaware.models.cnn", False)}},
            ["inputaware.data.cache imports inputaware.models.cnn"],
        ),
        (
            {"inputaware.errors": {Import("inputaware.data", True)}},
            ["inputaware.errors imports inputaware.data"],
        ),
        ({"inputaware.utils": set()}, ["inputaware.utils: room utils is not in the list"]),
        (
            {"inputaware.data": {Import("inputaware.utils", False)}},
            ["inputaware.data imports inputaware.utils"],
        ),
    ],
)
def test_offences_are_caught(graph: dict[str, set[Import]], expected: list[str]) -> None:
    assert offences(graph, ["errors", "data", "models"]) == expected


def test_circles_are_caught() -> None:
    graph = {
        "inputaware.data.spec": {Import("inputaware.data.cache", False)},
        "inputaware.data.cache": {Import("inputaware.data.sources", True)},
        "inputaware.data.sources": {Import("inputaware.data.spec", False)},
        "inputaware.data.loader": {Import("inputaware.data.spec", False)},
        "inputaware.models.cnn": {Import("inputaware.models.cnn", False)},
    }
    assert sorted(circles(graph)) == [
        "inputaware.data.cache",
        "inputaware.data.sources",
        "inputaware.data.spec",
        "inputaware.models.cnn",
    ]


def test_torch_is_seen_through_other_modules() -> None:
    graph = {
        "inputaware.cli": {Import("inputaware.data.spec", False), Import("torch", True)},
        "inputaware.data.spec": {Import("inputaware.errors", False)},
        "inputaware.errors": set(),
    }
    assert not loads_torch(graph, "inputaware.cli")
    assert loads_torch(graph | {"inputaware.errors": {Import("torch.nn", False)}}, "inputaware.cli")
    assert loads_torch(graph | {"inputaware.data": {Import("torch", False)}}, "inputaware.cli")
