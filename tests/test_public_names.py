"""Every module lists its public names: all of them, none that is not there, in ruff's order."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "inputaware"
MODULES = sorted(PACKAGE.rglob("*.py"))


def statements(tree: ast.Module) -> list[ast.stmt]:
    """Return what stands at the top level, and beneath an if or try there."""
    found: list[ast.stmt] = []
    ahead: list[ast.stmt] = list(tree.body)
    while ahead:
        node = ahead.pop(0)
        found.append(node)
        if isinstance(node, ast.If | ast.Try):
            handlers = [child for handler in getattr(node, "handlers", []) for child in handler.body]
            ahead = [*node.body, *handlers, *node.orelse, *ahead]
    return found


def assigned(node: ast.stmt) -> list[str]:
    """Return the names that a statement defines here; an import defines none."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def problems(source: str) -> list[str]:
    """Return what is wrong with the public names of a module."""
    body = statements(ast.parse(source))
    defined = [name for node in body for name in assigned(node)]
    imported = [alias.asname or alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names]
    if "__all__" not in defined:
        return ["no __all__"]
    value = next(node.value for node in body if "__all__" in assigned(node))  # type: ignore[attr-defined]
    listed: list[str] = ast.literal_eval(value)
    public = {name for name in defined if not name.startswith("_")}
    return [
        *(f"not listed: {name}" for name in sorted(public - set(listed))),
        *(f"not there: {name}" for name in listed if name not in {*defined, *imported}),
        *(["not in order"] if listed != sorted(set(listed), key=order) else []),
    ]


def order(name: str) -> tuple[int, str]:
    """Sort constants before classes before the rest, as ruff's rule RUF022 does."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(PACKAGE)) for path in MODULES])
def test_public_names(path: Path) -> None:
    assert problems(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(): pass", ["no __all__"]),
        ("__all__ = []\ndef f(): pass", ["not listed: f"]),
        ("__all__ = []\nclass A: pass\nLIMIT = 1\n_private = 3", ["not listed: A", "not listed: LIMIT"]),
        ("__all__ = []\nlower: int = 2", ["not listed: lower"]),
        ("__all__ = ['f']", ["not there: f"]),
        ("__all__ = ['f']\nif TYPE_CHECKING:\n    from x import f", []),
        ("__all__ = ['A', 'LIMIT', 'f']\nclass A: pass\nLIMIT = 1\ndef f(): pass", ["not in order"]),
        ("__all__ = ['f', 'f']\ndef f(): pass", ["not in order"]),
        ("__all__: list[str] = ['LIMIT', 'A', 'f']\nclass A: pass\nLIMIT = 1\ndef f(): pass", []),
        ("try:\n    x = 1\nexcept E:\n    y = 2\n__all__ = ['x', 'y']", []),
    ],
)
def test_problems_are_caught(source: str, expected: list[str]) -> None:
    assert problems(source) == expected
