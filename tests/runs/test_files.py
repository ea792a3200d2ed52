"""Files are whole or absent, on a full disk too."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inputaware.errors import RunFolderError, WriteError
from inputaware.runs.files import (
    check_new_folder,
    check_output_file,
    make_folder_for,
    read_arrays,
    read_json,
    seal,
    unseal,
    write_arrays,
    write_atomically,
    write_folder,
    write_json,
    write_text,
)
from inputaware.runs.journal import Journal


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    data = {"name": "Überholverbot", "rate": 0.1, "none": None, "list": [1, 2.5, True]}
    write_json(tmp_path / "a.json", data)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    assert text == json.dumps({**data, "sha256": digest}, indent=2, ensure_ascii=False) + "\n"
    assert read_json(tmp_path / "a.json") == data
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("0.1", "0.2"),
        lambda text: text.replace('"rate"', '"rats"'),
        lambda text: text.replace('"sha256"', '"sha255"'),
        lambda text: text.replace('"sha256": "', '"sha256": "0'),
        lambda text: text.replace("true", "1"),
        lambda text: text.replace('"sha256": "', '"sha25": "x'),
        lambda text: text.replace('true,\n  "sha256": "', '"yes and no '),
    ],
)
def test_a_file_whose_content_was_changed_is_refused(tmp_path: Path, change: Callable[[str], str]) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"name": "a", "rate": 0.1, "flag": True})
    changed = change(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(RunFolderError) as caught:
        read_json(path)
    assert str(caught.value) == (
        f"{path}: expected JSON; found: other entries than those whose digest was recorded: the file is corrupt or was "
        "changed; restore the file or train again"
    )


def test_a_file_without_a_digest_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"b": 1, "a": "f00d"}')
    assert read_json(tmp_path / "a.json") == {"b": 1, "a": "f00d"}


def test_the_order_of_entries_and_a_digest_that_was_there_do_not_count() -> None:
    sealed = seal({"a": 1, "b": (2,), "sha256": "old"})
    assert sealed["sha256"] == seal({"b": [2], "a": 1})["sha256"]
    assert unseal(sealed) == {"a": 1, "b": (2,)}
    assert unseal({}) == {}


def test_a_file_is_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old, and longer than the new one")
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize(
    ("failure", "expected", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            WriteError,
            "{path}: expected to write this; found: No space left on device; free space, and try again",
        ),
        (
            OSError(errno.EROFS, "Read-only file system"),
            WriteError,
            "{path}: expected to write this; found: Read-only file system; make the folder writable, and try again",
        ),
        (
            OSError("a library's own words"),
            WriteError,
            "{path}: expected to write this; found: a library's own words; check the disk, and try again",
        ),
        (KeyboardInterrupt("stopped"), KeyboardInterrupt, "stopped"),
        (TypeError("a mistake of ours"), TypeError, "a mistake of ours"),
    ],
)
def test_a_write_that_fails_leaves_the_old_file_and_no_part_of_the_new(
    tmp_path: Path, failure: BaseException, expected: type[BaseException], message: str
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise failure

    with pytest.raises(expected) as caught:
        write_atomically(path, write)
    assert str(caught.value) == message.format(path=path)
    assert os.listdir(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_lacks_is_refused_before_anything_is_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        write_json(tmp_path / "a.json", {"rate": value})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing/a.txt", "No such file or directory; put the folder back"),
        ("file/a.txt", "Not a directory; put the folder back"),
        ("x" * 300, "File name too long; choose another place"),
        ("folder", "Is a directory; choose another place"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError) as caught:
        write_text(tmp_path / name, "text")
    assert str(caught.value) == f"{tmp_path / name}: expected to write this; found: {reason}, and try again"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]", "expected a JSON object; found list"),
        (b"3", "expected a JSON object; found int"),
        (
            b'{"a": ',
            "expected JSON; found: Expecting value: line 1 column 7 (char 6); restore the file or train again",
        ),
        (b"", "expected JSON; found: Expecting value: line 1 column 1 (char 0); restore the file or train again"),
        (
            b"\xff",
            "expected JSON; found: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte; "
            "restore the file or train again",
        ),
        (None, "expected this file of a run folder; found none; restore the file or train again"),
    ],
)
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunFolderError) as caught:
        read_json(path)
    assert str(caught.value) == f"{path}: {message}"


def test_json_of_endless_depth_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a":' + "[" * 100_000)
    with pytest.raises(RunFolderError, match=r"expected JSON; found: .*recursion"):
        read_json(path)


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError) as caught:
        read_json(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: expected JSON; found: [Errno 21] Is a directory")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from inputaware.errors import WriteError
from inputaware.runs.checkpoint import save_tensors
from inputaware.runs.files import write_json
from inputaware.runs.journal import Journal

folder = Path(sys.argv[1])
journal = Journal(folder / "metrics.jsonl")
journal.append({"epoch": 1})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for write in (
    lambda: write_json(folder / "evaluation.json", {"a": "x" * 5000}),
    lambda: save_tensors(folder / "classifier.safetensors", {"a": torch.zeros(1000)}, {}),
    lambda: journal.append({"epoch": 2, "words": "x" * 5000}),
):
    try:
        write()
    except WriteError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits on a file's size are POSIX's")
def test_a_full_disk_is_told_and_leaves_no_part(
    tmp_path: Path, start_child: Callable[..., subprocess.Popen[str]]
) -> None:
    for name in ("evaluation.json", "classifier.safetensors"):
        (tmp_path / name).write_text("old")
    output, errors = start_child(FULL_DISK, tmp_path).communicate()
    assert errors == ""
    assert output.splitlines() == [
        f"{tmp_path}/{name}: expected to write this; found: File too large; free space, and try again"
        for name in ("evaluation.json", "classifier.safetensors", "metrics.jsonl")
    ]
    assert sorted(os.listdir(tmp_path)) == ["classifier.safetensors", "evaluation.json", "metrics.jsonl"]
    assert (tmp_path / "evaluation.json").read_text() == "old"
    assert (tmp_path / "classifier.safetensors").read_text() == "old"
    assert Journal(tmp_path / "metrics.jsonl").rows() == [{"epoch": 1}]


def test_who_makes_a_folder_second_is_told_so(tmp_path: Path) -> None:
    place = tmp_path / "run"

    def write(folder: Path) -> None:
        (folder / "mine").touch()
        (place / "theirs").mkdir(parents=True)

    with pytest.raises(RunFolderError) as caught:
        write_folder(place, write)
    assert str(caught.value) == (
        f"output: expected a folder that does not exist yet; found '{place}'; choose another one, or remove it first"
    )
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "theirs"]


def test_text_that_utf_8_does_not_have_is_written_as_escapes(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "a \udcff b")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "a \\udcff b"


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.array([0.1, np.nan])}
    write_arrays(tmp_path / "a.npz", arrays)
    found = read_arrays(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)


def test_arrays_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.array([{"code": "here"}], dtype=object))
    with pytest.raises(RunFolderError, match=r"a\.npz: expected arrays; found: Object arrays cannot be loaded"):
        read_arrays(tmp_path / "a.npz")


def test_some_arrays_are_read_alone(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", {"scoring_a": np.ones(2), "b": np.ones(3)})
    assert read_arrays(tmp_path / "a.npz", prefix="scoring_").keys() == {"scoring_a"}


def test_what_is_no_array_and_what_nobody_may_ever_write_to_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("a.txt", "hello")
    with pytest.raises(RunFolderError) as caught:
        read_arrays(tmp_path / "a.npz")
    assert str(caught.value) == (
        f"{tmp_path}/a.npz: expected arrays; found: a.txt, which is none; restore the file or make it again"
    )
    os.mkfifo(tmp_path / "b.npz")
    with pytest.raises(RunFolderError, match=r"b\.npz: expected arrays; found: .*no plain file.*; restore the file"):
        read_arrays(tmp_path / "b.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no archive at all"])
def test_a_corrupt_file_of_arrays_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"a\.npz: expected arrays; found: .*; restore the file or make it again"):
        read_arrays(tmp_path / "a.npz")
    words = "b.npz: expected this file of a run folder; found none; restore the file or make it again"
    with pytest.raises(RunFolderError, match=re.escape(words)):
        read_arrays(tmp_path / "b.npz")


def test_an_output_file_replaces_another_only_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a" / "page.html"
    check_output_file(path, overwrite=False)
    assert os.listdir(tmp_path) == []
    path.parent.mkdir()
    path.write_text("mine")
    check_output_file(path, overwrite=True)
    with pytest.raises(RunFolderError) as caught:
        check_output_file(path, overwrite=False)
    assert str(caught.value) == (
        f"output: expected a file that does not exist yet; found the file {str(path)!r}; "
        "choose another one, or replace it with --overwrite"
    )
    with pytest.raises(RunFolderError) as caught:
        check_output_file(path.parent, overwrite=True)
    assert str(caught.value) == (
        f"output: expected a file that does not exist yet; found the folder {str(path.parent)!r}; choose another one"
    )
    assert path.read_text() == "mine"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(RunFolderError, match=r"found the device, pipe or broken link '.*pipe'; choose another one$"):
        check_output_file(pipe, overwrite=True)
    with pytest.raises(RunFolderError) as caught:
        check_output_file(path, option="plot")
    assert str(caught.value) == (
        f"plot: expected a file that does not exist yet; found the file {str(path)!r}; choose another one, or remove "
        "it first"
    )
    with pytest.raises(RunFolderError, match=r"^plot: expected a path beneath a folder; found '.*page.html/a.svg'"):
        check_output_file(path / "a.svg", option="plot")


def test_the_folder_for_a_file_is_made(tmp_path: Path) -> None:
    make_folder_for(tmp_path / "a" / "b" / "page.html")
    make_folder_for(tmp_path / "a" / "b" / "page.html")
    assert os.listdir(tmp_path / "a") == ["b"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WriteError, match=r"file/a/page.html: expected to write this; found: .*; put the folder back"):
        make_folder_for(tmp_path / "file" / "a" / "page.html")


# New folders


def test_a_new_folder_may_be_deep_and_checking_makes_nothing(tmp_path: Path) -> None:
    check_new_folder(tmp_path / "a" / "b" / "c")
    assert os.listdir(tmp_path) == []


def test_a_relative_path_is_checked_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_new_folder(Path("a/b"))
    (tmp_path / "a").write_text("")
    with pytest.raises(RunFolderError, match=r"expected a path beneath a folder; found 'a/b'"):
        check_new_folder(Path("a/b"))


@pytest.mark.parametrize("kind", ["folder", "file", "link", "dangling link"])
def test_what_is_there_already_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(tmp_path if kind == "link" else tmp_path / "nowhere")
    with pytest.raises(RunFolderError) as caught:
        check_new_folder(path)
    assert str(caught.value) == (
        f"output: expected a folder that does not exist yet; found {str(path)!r}; "
        "choose another one, or remove it first"
    )


def test_a_path_beneath_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    path = tmp_path / "file" / "a" / "run"
    with pytest.raises(RunFolderError) as caught:
        check_new_folder(path)
    assert str(caught.value) == (
        f"output: expected a path beneath a folder; found {str(path)!r} beneath the file "
        f"{str(tmp_path / 'file')!r}; choose another one"
    )


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    output = tmp_path / "parent" / "output"

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")

    def fill(folder: Path) -> None:
        (folder / "whole").write_text("whole")

    message = f"{output}: expected to write this; found: No space left on device; free space, and try again"
    with pytest.raises(WriteError, match=f"^{re.escape(message)}$"):
        write_folder(output, fail)
    assert list(output.parent.iterdir()) == []
    write_folder(output, fill)
    with pytest.raises(WriteError):
        write_folder(output, fail, replace=True)
    (output / "old").write_text("old")
    with pytest.raises(RunFolderError, match="expected a folder that does not exist yet; found"):
        write_folder(output, fill)
    assert (output / "old").exists()
    write_folder(output, fill, replace=True)
    assert [path.name for path in output.parent.iterdir()] == ["output"]
    assert [path.name for path in output.iterdir()] == ["whole"]
