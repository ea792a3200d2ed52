"""Rows are added whole, and a line torn by a kill does no harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inputaware.errors import RunFolderError, WriteError
from inputaware.runs.files import unseal
from inputaware.runs.journal import Journal, last_of_each

ROWS = [{"epoch": index, "losses": {"total": index / 3}, "words": "é\n"} for index in range(4)]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "metrics.jsonl")
    for row in ROWS:
        journal.append(row)
    return journal


def test_rows_come_back_and_each_is_a_line(journal: Journal) -> None:
    assert journal.rows() == ROWS
    lines = journal.path.read_text(encoding="utf-8").splitlines()
    assert [unseal(json.loads(line)) for line in lines] == ROWS


def test_a_journal_that_was_never_written_is_empty(tmp_path: Path) -> None:
    assert Journal(tmp_path / "none.jsonl").rows() == []


@pytest.mark.parametrize("kept", range(1, 10))
def test_a_torn_last_line_is_left_out_and_gives_way_to_the_next_row(journal: Journal, kept: int) -> None:
    content = journal.path.read_bytes()
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    journal.path.write_bytes(content[: last + kept])
    assert journal.rows() == ROWS[:3]
    journal.append({"epoch": 3})
    assert journal.rows() == [*ROWS[:3], {"epoch": 3}]


@pytest.mark.parametrize("torn", [b"", b'{"ep', b"\xff\xfe"])
@pytest.mark.parametrize("count", range(5))
def test_cut_keeps_the_first_rows(journal: Journal, count: int, torn: bytes) -> None:
    journal.path.write_bytes(journal.path.read_bytes() + torn)
    journal.cut(count)
    assert journal.rows() == ROWS[:count]
    journal.append({"epoch": 9})
    assert journal.rows() == [*ROWS[:count], {"epoch": 9}]


def test_cut_to_nothing_makes_the_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.cut(0)
    assert journal.path.read_text() == ""


def test_cut_refuses_a_journal_that_is_too_short(journal: Journal) -> None:
    with pytest.raises(RunFolderError) as caught:
        journal.cut(5)
    assert str(caught.value) == (
        f"{journal.path}: expected 5 rows, as the checkpoint says; found 4; "
        "the folder was changed: train again into another one"
    )
    assert journal.rows() == ROWS


@pytest.mark.parametrize("line", ["{'a': 1}", "[1]", "3", "", "null", "[" * 100_000], ids=lambda line: line[:8])
def test_a_corrupt_line_is_named(journal: Journal, line: str) -> None:
    lines = journal.path.read_text(encoding="utf-8").splitlines()
    lines[2] = line
    journal.path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(RunFolderError) as caught:
        journal.rows()
    assert str(caught.value) == f"{journal.path}, line 3: expected a JSON object; found {line[:60]!r}"


def test_a_row_that_was_changed_is_named(journal: Journal) -> None:
    journal.path.write_text(journal.path.read_text().replace('"epoch": 2', '"epoch": 7'))
    with pytest.raises(RunFolderError) as caught:
        journal.rows()
    assert str(caught.value) == (
        f"{journal.path}, line 3: expected the row that was written; found other entries than those whose digest was "
        "recorded: the file is corrupt or was changed; restore it"
    )


def test_a_row_without_a_digest_is_refused(journal: Journal) -> None:
    journal.path.write_text(journal.path.read_text() + '{"epoch": 9}\n')
    with pytest.raises(RunFolderError, match=r"line 5: .* found one without a digest; restore it"):
        journal.rows()


def test_a_number_that_json_lacks_is_refused_and_adds_nothing(journal: Journal) -> None:
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        journal.append({"loss": float("nan")})
    assert journal.rows() == ROWS


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WriteError) as caught:
        Journal(tmp_path).append({})
    assert str(caught.value) == (
        f"{tmp_path}: expected to write this; found: Is a directory; choose another place, and try again"
    )
    with pytest.raises(RunFolderError) as caught:
        Journal(tmp_path).rows()
    assert str(caught.value) == f"{tmp_path}: expected to read this file; found: Is a directory"


def test_mending_writes_again_what_was_cut_and_appended(journal: Journal) -> None:
    other = Journal(journal.path)
    other.cut(2)
    other.append({"epoch": 9}, after=2)
    whole = journal.path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole + b"{}\n"):
        journal.path.write_bytes(content)
        other.mend()
        assert journal.path.read_bytes() == whole
    journal.path.unlink()
    other.mend()
    assert [row["epoch"] for row in other.rows()][-1] == 9
    modified = journal.path.stat().st_mtime_ns
    other.mend()
    assert journal.path.stat().st_mtime_ns == modified


def test_of_what_was_done_twice_the_last_counts() -> None:
    done = [("mask", 1), ("mask", 2), ("mask", 2), ("joint", 1), ("evaluation", None), ("evaluation", None)]
    rows = [{"part": part, "epoch": epoch, "seconds": seconds} for seconds, (part, epoch) in enumerate(done)]
    assert [row["seconds"] for row in last_of_each(rows)] == [0, 2, 3, 5]
