"""Poisoned pictures do not depend on how many are worked on at a time, and a failure leaves none behind."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from robustness.storage import small_config

from inputaware import Run, train
from inputaware.errors import DataError, RunFolderError
from inputaware.poisoning import export_poisoned_split, poison_files


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run of a few images."""
    return train(small_config(), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder with five pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(draw.integers(0, 256, (28, 28), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_many_pictures_come_out_as_few_do(
    run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    rows = poison_files(run, pictures, tmp_path / "together", progress=told.append)
    assert told == [1.0]
    monkeypatch.setattr("inputaware.poisoning._CHUNK", 2)
    told.clear()
    assert poison_files(run, pictures, tmp_path / "in parts", progress=told.append) == rows
    assert told == [0.4, 0.8, 1.0]
    assert contents(tmp_path / "in parts") == contents(tmp_path / "together")
    with (tmp_path / "in parts/poison.csv").open(newline="") as file:
        assert [row["picture"] for row in csv.DictReader(file)] == [f"{number}.png" for number in range(5)]


def test_a_corrupt_picture_at_the_end_leaves_nothing(
    run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inputaware.poisoning._CHUNK", 2)
    (pictures / "9.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    with pytest.raises(DataError, match=r"9\.png"):
        poison_files(run, pictures, tmp_path / "poisoned")
    assert {path.name for path in tmp_path.iterdir()} == {"pictures"}


def test_a_picture_that_is_turned_upright_has_its_size_then(run: Run, pictures: Path, tmp_path: Path) -> None:
    turned = Image.new("L", (30, 20), 100)
    tag = turned.getexif()
    tag[0x0112] = 6  # a quarter turn
    turned.save(pictures / "turned.jpg", exif=tag)
    rows = poison_files(run, pictures, tmp_path / "poisoned")
    assert [row["resized_from"] for row in rows] == [""] * 5 + ["20x30"]


def test_an_output_in_the_input_is_refused(run: Run, pictures: Path) -> None:
    with pytest.raises(RunFolderError) as error:
        poison_files(run, str(pictures), str(pictures / "more/poisoned"))
    assert str(error.value) == (
        "output: expected a folder outside the input, which would take what is written for more images; found "
        f"'{pictures}/more/poisoned' in '{pictures}'; choose another one"
    )
    poison_files(run, pictures / "0.png", pictures / "poisoned")


def test_a_split_comes_out_the_same_in_parts(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    assert export_poisoned_split(run, "validation", tmp_path / "together.parquet", progress=told.append) == 144
    assert told == [1.0]
    monkeypatch.setattr("inputaware.poisoning._CHUNK", 100)
    told.clear()
    export_poisoned_split(run, "validation", str(tmp_path / "parts.parquet"), progress=told.append)
    assert told == [100 / 144, 1.0]
    assert pq.read_table(tmp_path / "parts.parquet").equals(pq.read_table(tmp_path / "together.parquet"))


def test_a_file_names_its_target_class_where_there_is_one(tmp_path: Path) -> None:
    for target, wanted in (("all-to-one", b"3"), ("all-to-all", None)):
        made = train(small_config(target=target, target_class=3), tmp_path / target)
        export_poisoned_split(made, "validation", tmp_path / f"{target}.parquet")
        metadata = pq.read_schema(tmp_path / f"{target}.parquet").metadata
        assert metadata[b"target"] == target.encode()
        assert metadata.get(b"target_class") == wanted
