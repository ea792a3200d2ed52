"""A short version of ``scripts/fault-tests corruption``: the same kinds of files, fewer attempts."""

from __future__ import annotations

import argparse
import random
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest
from robustness.corruption import SUBJECTS, Material, Subject, attack, damage, limited
from robustness.material import make_material

ATTEMPTS = 12


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return make_material(tmp_path_factory.mktemp("material"))


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_a_damaged_file_gives_its_content_or_our_error(subject: Subject, material: Material) -> None:
    count = attack(subject, material, ATTEMPTS, seed=1)
    assert count.losses == []
    assert count.attempts == count.right + count.refused + count.unnoticed == ATTEMPTS
    assert count.unnoticed == 0 or not subject.checked


def test_damage_is_damage_and_repeats_itself() -> None:
    content = bytes(range(256)) * 8
    first, second = ([damage(content, random.Random(seed)) for seed in range(200)] for _ in range(2))
    assert first == second
    assert sum(changed != content for _, changed in first) > 180
    assert {words.split(" at ")[0] for words, _ in first} == {
        *("bit", "byte", "bytes", "zeros", "truncated", "cut out", "inserted", "doubled", "swapped")
    }


def test_what_is_read_in_silence_counts_as_a_loss(material: Material) -> None:
    file = material.folder / "unchecked.txt"
    file.write_bytes(b"nobody looks at me" * 50)
    unchecked = Subject("unchecked", lambda _: (file, file.read_bytes))
    assert len(attack(unchecked, material, 20).losses) > 15
    broken = Subject("broken", lambda _: (file, lambda: {900: 1}[len(file.read_bytes())]))
    assert any("KeyError" in loss for loss in attack(broken, material, 200).losses)
    assert file.read_bytes() == b"nobody looks at me" * 50


CHILD = """import json, sys
kinds = sys.argv[sys.argv.index("--kinds") + 1].split(",")
print("warning " * 50_000, file=sys.stderr)  # more than a pipe holds
for kind in kinds:
    print(json.dumps({{"attempts": 1, "refused": 1, "right": 0, "unnoticed": 0, "losses": []}}), flush=True)
print("the end", file=sys.stderr)
sys.exit({code})
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return ``scripts/fault-tests`` as a module."""
    path = Path(__file__).parents[2] / "scripts" / "fault-tests"
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader = SourceFileLoader("fault_tests", str(path))
    spec = spec_from_loader("fault_tests", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize("code", [0, 3])
def test_a_child_may_say_much_and_its_crash_after_the_last_kind_is_a_loss(
    code: int, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child.py"
    child.write_text(CHILD.format(code=code))
    monkeypatch.setattr(script, "__file__", str(child))
    with limited(60):
        found = script.corruption(argparse.Namespace(attempts=1, seed=0), tmp_path)
    assert (found["attempts"], found["kinds"]) == (len(SUBJECTS), len(SUBJECTS))
    assert len(found["losses"]) == (code > 0)
    if code:
        assert found["losses"][0].startswith("after the last kind: exit code 3: ")
        assert found["losses"][0].endswith("warning \nthe end\n")
