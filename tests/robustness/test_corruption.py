"""A short version of ``scripts/fault-tests corruption``: the same kinds of files, fewer attempts."""

from __future__ import annotations

import random

import pytest
from robustness.corruption import SUBJECTS, Material, Subject, attack, damage
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
