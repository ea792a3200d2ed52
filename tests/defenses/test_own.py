"""A defense of one's own, by the file or the module that it is in, and with its settings."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from inputaware import own_code
from inputaware.config.record import override
from inputaware.defenses.base import Defense
from inputaware.defenses.own import choose_defenses, import_defense, import_defenses, make_defense, settings_with
from inputaware.defenses.settings import DEFENSES, DefenseSettings, Settings, StripSettings
from inputaware.errors import ConfigError

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
import numpy
from inputaware.defenses.base import Defense, Examination, Score
from inputaware.config.record import override
from inputaware.defenses.settings import DefenseSettings, Settings
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

class Unwritten(Defense):
    name = "unwritten"

class Failing(Own):
    def __init__(self):
        super().__init__("side" + 5)

class Ending(Own):
    def __init__(self):
        raise SystemExit("bye")

class Deaf(Own):
    def __init__(self, settings=None):
        super().__init__()

class Bare(Own):
    def __init__(self):
        super().__init__()

class Taken(Own):
    name = "strip"

class Without(Own):
    name = "without"
    settings: Settings

class Aside(Own):
    # There for the type checker alone.
    cache: Tensor
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "helper_of_own.py").write_text("SIDE = 5\n", encoding="utf-8")
    # Named like a module of Python's own, which must stay what it is.
    path = tmp_path / "string.py"
    path.write_text(SOURCE, encoding="utf-8")
    yield path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def side(defense: Defense) -> int:
    settings = defense.settings
    assert isinstance(settings, Settings)
    found: int = settings.side  # type: ignore[attr-defined]
    return found


def test_a_class_of_a_file_is_made_with_the_settings_it_is_annotated_with(file: Path) -> None:
    assert side(import_defense(f"{file}:Own").made) == 5
    assert side(import_defense(f"{file}:made").made) == 7
    assert side(import_defense(f"{file}:Aside").made) == 5
    import string

    assert string.digits == "0123456789"


def test_files_of_one_name_keep_apart(file: Path) -> None:
    other = file.parent / "other" / file.name
    other.parent.mkdir()
    other.write_text("from dataclasses import dataclass\n", encoding="utf-8")
    first = import_defense(f"{file}:Own")
    with pytest.raises(ConfigError):
        import_defense(f"{other}:Own")
    assert side(import_defense(f"{file}:Own").made) == 5
    assert import_defense(f"{file}:Own").kind is first.kind


def test_what_a_file_defines_can_be_pickled(file: Path) -> None:
    kind = import_defense(f"{file}:Own").kind
    assert pickle.loads(pickle.dumps(kind)) is kind


def test_a_module_is_imported_by_its_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(file.parent))
    file.rename(file.with_name("mine_alone.py"))
    assert side(import_defense("mine_alone:Own").made) == 5


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
            "unwriten",
            "defense: expected a class derived from Defense, or an object of one, in {file}:unwriten; found no "
            "'unwriten'; did you mean Unwritten?",
        ),
        (
            "Half",
            "defense: expected a class that can be made without arguments in {file}:Half; found: missing a required "
            "argument: 'side'; make one in the code, my_defense = Half(...), and say {file}:my_defense",
        ),
        (
            "Unwritten",
            "defense: expected a class with examine and score in {file}:Unwritten; found one without examine, score; "
            "write it",
        ),
        (
            "Failing",
            "defense: expected code that can be imported in {file}:Failing; found TypeError: can only concatenate str "
            '(not "int") to str ({file}, line 43); mend it',
        ),
        (
            "Ending",
            "defense: expected code that can be imported in {file}:Ending; found SystemExit: bye ({file}, line 47); "
            "mend it",
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


def test_a_name_that_is_taken_is_refused_where_the_code_is(file: Path) -> None:
    with pytest.raises(ConfigError) as error:
        import_defense(f"{file}:Taken")
    assert str(error.value) == (
        "Taken.name: expected a name that no built-in defense has, and not all; found 'strip'; choose another"
    )


def test_files_lie_in_one_folder(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    elsewhere = tmp_path / "other" / "own.py"
    assert list(import_defenses([f"{file}:Own", f"{file}:made"])) == [f"{file}:Own", f"{file}:made"]
    with pytest.raises(ConfigError) as error:
        import_defenses([f"{file}:Own", f"{elsewhere}:Own"])
    assert str(error.value) == (
        "defense: expected the files of your own defenses in one folder, since they import what lies beside them; "
        f"found {file.parent}, {elsewhere.parent}; take one folder at a time"
    )


def test_settings_make_another_one(file: Path) -> None:
    mine = import_defense(f"{file}:Own")
    assert mine.with_settings({}) is mine.made
    assert mine.with_settings(mine.made.settings) is mine.made
    other = mine.with_settings({"side": 9})
    assert (side(other), side(mine.made)) == (9, 5)
    assert type(other) is type(mine.made)
    assert other.source_digest == mine.made.source_digest is not None
    assert side(make_defense(f"{file}:Own", {"side": 11})) == 11


def test_the_settings_of_one_are_its_own(file: Path) -> None:
    own = StripSettings(overlays=7)
    assert [defense.settings for defense in choose_defenses("strip", own)] == [own]
    place = f"{file}:Own"
    changed = override(import_defense(place).made.settings, {"side": 11})
    assert [side(defense) for defense in choose_defenses(place, changed)] == [11]
    assert [side(defense) for defense in choose_defenses([place, "strip"], DefenseSettings(strip=own))[:1]] == [5]


def test_a_built_in_one_is_made_by_its_name() -> None:
    assert make_defense("strip", {"overlays": 7}).settings == DefenseSettings().strip.__class__(overlays=7)
    with pytest.raises(
        ConfigError, match=r"^strip\.overlay: unknown option; expected one of images, false_rejection_rate, overlays"
    ):
        make_defense("strip", {"overlay": 7})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 9}, "size: unknown option; expected one of side; did you mean side?"),
        ({"side": "9"}, "side: expected a whole number; found '9'"),
    ],
)
def test_settings_that_do_not_fit_are_named(file: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        import_defense(f"{file}:Own").with_settings(changes)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "made",
            "own: expected a class, whose settings can be given, in {file}:made; found an object that is made already; "
            "name its class",
        ),
        (
            "Bare",
            "own: expected a class that takes its settings in {file}:Bare; found: Bare.__init__() takes 1 positional "
            "argument but 2 were given; hand them on to super().__init__(settings)",
        ),
        (
            "Deaf",
            "own: expected a class that takes its settings in {file}:Deaf; found one that keeps others; hand them on "
            "to super().__init__(settings)",
        ),
    ],
)
def test_what_takes_no_settings_is_named(file: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        import_defense(f"{file}:{name}").with_settings({"side": 9})
    assert str(error.value) == message.format(file=file)


def test_settings_stand_among_those_of_the_others(file: Path) -> None:
    # Of an object they are set where it is made, and the last one has none.
    settings = settings_with([import_defense(f"{file}:{name}") for name in ("Own", "Without")])
    assert isinstance(settings, DefenseSettings)
    assert not hasattr(settings, "without")
    assert not hasattr(settings_with([import_defense(f"{file}:made")]), "own")
    changed = override(settings, {"own": {"side": 9}, "strip": {"overlays": 7}})
    assert changed.own.side == 9  # type: ignore[attr-defined]
    assert changed.strip.overlays == 7
    with pytest.raises(ConfigError, match=r"^own\.size: unknown option; expected one of side; did you mean side\?$"):
        override(settings, {"own": {"size": 9}})


def digest(file: Path) -> str | None:
    """Return the digest that a new process would have."""
    own_code._SEEN.clear()
    own_code._IMPORTED.clear()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(file.parent)):
            del sys.modules[name]
    return import_defense(f"{file}:Own").made.source_digest


def test_code_is_known_again_by_what_it_imports_from_its_folder(file: Path) -> None:
    package = file.parent / "beside"
    package.mkdir()
    (package / "__init__.py").write_text("from beside import part\n", encoding="utf-8")
    (package / "part.py").write_text("VALUE = 1\n\ndef late():\n    from . import later\n", encoding="utf-8")
    (package / "later.py").write_text("import deeper.still\n", encoding="utf-8")
    (file.parent / "deeper").mkdir()
    (file.parent / "deeper/still.py").touch()
    (file.parent / "starred").mkdir()
    (file.parent / "starred/__init__.py").write_text("__all__ = ['within']\n", encoding="utf-8")
    (file.parent / "starred/within.py").touch()
    file.write_text(
        SOURCE.replace("import numpy\n", "import beside\nfrom starred import *\nimport numpy\n"), encoding="utf-8"
    )
    first = digest(file)
    assert first is not None
    assert digest(file) == first
    # What it does not import is none of its code, a script that plots its results for one.
    for other in ("notes.txt", "plot.py", "beside/unused.py"):
        (file.parent / other).write_text("print 'no Python of today'", encoding="utf-8")
    assert digest(file) == first
    seen = {first}
    helper = file.parent / "helper_of_own.py"
    parts = (package / "part.py", package / "later.py", package / "__init__.py", file.parent / "deeper/still.py")
    parts = (*parts, file.parent / "starred/within.py")
    for changed in (file, helper, *parts):
        changed.write_text(changed.read_text(encoding="utf-8") + "# another\n", encoding="utf-8")
        seen.add(digest(file))
    assert len(seen) == 8
    (file.parent / ".hidden").mkdir()
    link = file.parent / ".hidden" / "link.py"
    link.symlink_to(file)
    assert digest(file) == import_defense(f"{link}:Own").made.source_digest


def test_code_that_changed_while_a_process_runs_is_not_known(file: Path) -> None:
    first = import_defense(f"{file}:Own")
    assert first.made.source_digest is not None
    # It is not run again for a second class.
    again = import_defense(f"{file.parent}/../{file.parent.name}/{file.name}:Own")
    assert again.kind is first.kind
    assert again.made.source_digest == first.made.source_digest
    # The file is, but what it imports is not imported anew.
    (file.parent / "helper_of_own.py").write_text("SIDE = 6\n", encoding="utf-8")
    changed = import_defense(f"{file}:Own")
    assert (side(changed.made), changed.made.source_digest) == (5, None)
    assert changed.kind is not first.kind


def test_code_that_was_imported_elsewise_before_is_not_known(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(file.parent))
    importlib.import_module("helper_of_own")
    assert import_defense(f"{file}:Own").made.source_digest is None


def test_code_with_a_helper_that_another_defense_has_loaded_is_known(file: Path) -> None:
    first = import_defense(f"{file}:Own").made.source_digest
    other = file.with_name("other.py")
    other.write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    assert import_defense(f"{other}:Own").made.source_digest not in (None, first)
    (file.parent / "helper_of_own.py").write_text("SIDE = 6\n", encoding="utf-8")
    third = file.with_name("third.py")
    third.write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    assert import_defense(f"{third}:Own").made.source_digest is None


def test_code_without_a_file_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("of_no_file")
    monkeypatch.setitem(sys.modules, "of_no_file", module)
    exec(SOURCE.replace("from helper_of_own import SIDE", "SIDE = 5"), module.__dict__)
    assert import_defense("of_no_file:Own").made.source_digest is None


def test_a_module_is_known_by_its_package(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = file.parent / "somebodys"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "common.py").write_text("VALUE = 1\n", encoding="utf-8")
    (package / "mine.py").write_text(SOURCE.replace("import numpy\n", "import numpy\nfrom . import common\n"), "utf-8")
    monkeypatch.syspath_prepend(str(file.parent))
    first = import_defense("somebodys.mine:Own").made.source_digest
    assert first is not None
    assert import_defense("somebodys.mine:made").made.source_digest == first
    (package / "common.py").write_text("VALUE = 2\n", encoding="utf-8")
    assert import_defense("somebodys.mine:made").made.source_digest is None


def test_all_stands_for_every_built_in_defense() -> None:
    assert [defense.name for defense in choose_defenses("all")] == list(DEFENSES)
    assert [defense.name for defense in choose_defenses(["strip", "all"])] == [
        "strip",
        *(name for name in DEFENSES if name != "strip"),
    ]


def test_a_built_in_defense_stands_beside_itself_with_other_settings() -> None:
    place = f"{Path(__file__).parents[2] / 'examples/beatrix_last.py'}:last"
    one, other = choose_defenses(["beatrix", place])
    assert (one.name, other.name) == ("beatrix", "beatrix-last")
    assert (other.settings.map, other.settings.per_class) == ("last", False)
