"""A defense of one's own, by the file or the module that it is in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from inputaware.defenses.base import Defense
from inputaware.defenses.registry import import_defense
from inputaware.defenses.settings import Settings
from inputaware.errors import ConfigError

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
import numpy
from inputaware.defenses.base import Defense, Examination, Score
from inputaware.defenses.settings import Settings
from helper_of_own import SIDE

@dataclass(frozen=True, kw_only=True)
class OwnSettings(Settings):
    side: int = SIDE

class Own(Defense):
    name = "own"
    settings: OwnSettings

    def examine(self, suspect, clean, seed, progress):
        return Examination("no-verdict", "It was.", {})

    def score(self, finding, suspect, trial, *, progress=lambda share: None):
        return Score("So it was.", {})

made = Own(OwnSettings(side=7))
number = 3
array = numpy.zeros(2)

class Half(Own):
    def __init__(self, side):
        super().__init__(OwnSettings(side=side))

class Lost(Own):
    settings: Nowhere

class Perhaps(Own):
    settings: OwnSettings | None

class Aside(Own):
    # There for the type checker alone.
    cache: Tensor
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "helper_of_own.py").write_text("SIDE = 5\n", encoding="utf-8")
    # Named like a module of Python's own, which must stay what it is.
    path = tmp_path / "string.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def side(defense: Defense) -> int:
    settings = defense.settings
    assert isinstance(settings, Settings)
    found: int = settings.side  # type: ignore[attr-defined]
    return found


def test_a_class_of_a_file_is_made_with_the_settings_it_is_annotated_with(file: Path) -> None:
    assert side(import_defense(f"{file}:Own")) == 5
    assert side(import_defense(f"{file}:made")) == 7
    assert side(import_defense(f"{file}:Aside")) == 5
    import string

    assert string.digits == "0123456789"


def test_a_module_is_imported_by_its_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(file.parent))
    file.rename(file.with_name("mine_alone.py"))
    assert side(import_defense("mine_alone:Own")) == 5


def test_a_built_in_class_is_no_defense_of_ones_own() -> None:
    with pytest.raises(ConfigError) as error:
        import_defense("inputaware.defenses.strip:Strip")
    assert str(error.value) == (
        "defense: expected a class of your own in inputaware.defenses.strip:Strip; found a built-in one; say strip"
    )


@pytest.mark.parametrize("reference", ["own.py:", ":Own"])
def test_half_a_reference_is_named(reference: str) -> None:
    with pytest.raises(ConfigError) as error:
        import_defense(reference)
    assert str(error.value) == f"defense: expected FILE.py:CLASS, or module:CLASS; found {reference!r}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "number",
            "defense: expected a class derived from Defense, or an object of one, in {file}:number; found 'number', "
            "which is something else",
        ),
        (
            "none",
            "defense: expected a class derived from Defense, or an object of one, in {file}:none; found no 'none'",
        ),
        (
            "Half",
            "defense: expected a class that can be made without arguments in {file}:Half; found: Half.__init__() "
            "missing 1 required positional argument: 'side'; make one in the code, my_defense = Half(...), and say "
            "{file}:my_defense",
        ),
    ],
)
def test_what_is_no_defense_is_named(file: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        import_defense(f"{file}:{name}")
    assert str(error.value) == message.format(file=file)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Lost",
            "Lost.settings: expected the annotation of a class that is there when the code runs; found 'Nowhere' (name "
            "'Nowhere' is not defined); import the class, or hand the settings over",
        ),
        (
            "Perhaps",
            "Perhaps.settings: expected the annotation of a class derived from Settings; found {kind}; annotate it, or "
            "hand the settings over",
        ),
    ],
)
def test_an_annotation_that_is_no_settings_is_named(file: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        import_defense(f"{file}:{name}")
    found = str(error.value)
    start, _, end = message.partition("{kind}")
    assert found.startswith(start)
    assert found.endswith(end)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("value = 1\nvalue / 0\n", "ZeroDivisionError: division by zero ({file}, line 2)"),
        ("raise SystemExit('bye')\n", "SystemExit: bye ({file}, line 1)"),
    ],
)
def test_code_that_fails_or_ends_python_is_named_with_its_line(file: Path, code: str, found: str) -> None:
    file.write_text(code, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        import_defense(f"{file}:Own")
    assert str(error.value) == (
        f"defense: expected code that can be imported in {file}:Own; found {found.format(file=file)}; mend it"
    )


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "own.py"
    if kind == "folder":
        path.mkdir()
    with pytest.raises(ConfigError) as error:
        import_defense(f"{path}:Own")
    assert str(error.value) == f"defense: expected a file with Python code at {path}; found none"


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError) as error:
        import_defense("nowhere_at_all:Own")
    assert str(error.value) == (
        "defense: expected an installed module, or one in PYTHONPATH, in nowhere_at_all:Own; found none; for a file "
        "say nowhere_at_all.py:Own"
    )
