"""The rules of tests/conftest.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

PROBE = """
import pytest

@pytest.mark.parity
def test_marked_and_skipped():
    pytest.skip("no files")

@pytest.mark.parity
def test_marked_and_right():
    assert True

@pytest.mark.parity
@pytest.mark.skip(reason="by a mark")
def test_marked_twice():
    assert True

@pytest.mark.parity
@pytest.mark.xfail(reason="known")
def test_marked_and_known_to_fail():
    assert False

def test_plain_and_skipped():
    pytest.skip("no files")
"""


@pytest.mark.parametrize(("mark", "variable"), [("parity", "INPUTAWARE_GOLDEN"), ("browser", "INPUTAWARE_BROWSER")])
@pytest.mark.parametrize(
    ("value", "code", "summary"),
    [
        ("somewhere", 1, "1 failed, 1 passed, 1 skipped, 1 xfailed, 1 error"),
        ("", 0, "1 passed, 3 skipped, 1 xfailed"),
    ],
    ids=["set", "unset"],
)
def test_a_skipped_test_fails_where_what_it_needs_is_there(
    tmp_path: Path, mark: str, variable: str, value: str, code: int, summary: str
) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nmarkers = {mark}\n")
    (tmp_path / "test_probe.py").write_text(PROBE.replace("parity", mark))
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "INPUTAWARE_GOLDEN": "", "INPUTAWARE_BROWSER": "", variable: value},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == code, found.stdout + found.stderr
    assert summary in found.stdout
    assert ("must not be skipped; it was: Skipped: no files" in found.stdout) == bool(value)


def test_shapes_are_enforced() -> None:
    from inputaware.attacks.trigger import apply_trigger

    images = torch.zeros(2, 1, 28, 28)
    with pytest.raises(Exception, match="apply_trigger") as caught:
        apply_trigger(images, torch.zeros(2, 1, 28, 27), images)
    assert type(caught.value).__name__ == "TypeCheckError"


def test_cache_is_temporary(temporary_cache: Path) -> None:
    assert os.environ["INPUTAWARE_CACHE"] == str(temporary_cache)


def test_the_slowest_files_come_first_and_are_there(request: pytest.FixtureRequest) -> None:
    folder = Path(__file__).parent
    conftest = request.config.pluginmanager.get_plugin(str(folder / "conftest.py"))
    slowest = [folder / name for name in conftest.SLOWEST]
    assert [path for path in slowest if not path.exists()] == []
    paths = [folder / "attacks/test_base.py", slowest[2], folder / "data/test_cache.py", slowest[0]]
    items = [SimpleNamespace(path=path) for path in paths]
    conftest.pytest_collection_modifyitems(items)
    assert [item.path for item in items] == [slowest[0], slowest[2], paths[0], paths[2]]
