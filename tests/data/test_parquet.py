import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.material import NO_IMAGE, colour, message_of, write_parquet

from inputaware.data.parquet import parquet_labels
from inputaware.data.sources import read_source


def test_missing_values_are_refused_by_row(named):
    file = named.file("cifar10")
    assert message_of(lambda: named("cifar10", colour(10), [*range(9), None])) == (
        f"{file}, row 9: expected a label; found none; label or remove the row"
    )
    assert message_of(lambda: named("cifar10", [*colour(9), None], list(range(10)))) == (
        f"{file}, row 9: expected an image; found none; remove the row"
    )
    assert message_of(lambda: named("cifar10", [*colour(9), b"x"], list(range(10)))) == f"{file}, row 9: {NO_IMAGE}"


def test_other_columns_are_refused(named):
    file = named.file("mnist")
    file.parent.mkdir(parents=True)
    pq.write_table(pa.table({"img": [1], "label": [0]}), file)
    assert message_of(lambda: read_source("mnist", "train")) == (
        f"{file}: expected the columns image (a struct with the field bytes) and label (whole numbers); found "
        "img: int64, label: int64; rename or convert the columns"
    )


@pytest.mark.parametrize("content", [b"", b"PAR1 no more", b"x" * 1000])
def test_a_damaged_parquet_file_is_refused(named, content):
    file = named.file("mnist")
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    expected = f"{file}: expected a Parquet file; found a damaged one or another format; restore it"
    assert message_of(lambda: read_source("mnist", "train")) == expected


def test_damage_within_a_parquet_file_is_refused(named):
    images = colour(10)
    named("cifar10", images, list(range(10)))
    file = named.file("cifar10")
    data = bytearray(file.read_bytes())
    data[4:400] = b"\xff" * 396  # the first page of the pictures; the footer is whole
    file.write_bytes(data)
    expected = f"{file}: expected a Parquet file; found a damaged one or another format; restore it"
    assert message_of(lambda: read_source("cifar10", "train")) == expected


def test_an_empty_parquet_file_is_refused(tmp_path):
    write_parquet(tmp_path / "test.parquet", colour(4), [0, 1, 0, 1])
    whole = write_parquet(tmp_path / "train.parquet", colour(4), [0, 1, 0, 1])
    pq.write_table(pq.read_table(whole).slice(0, 0), whole)
    assert message_of(lambda: read_source(str(tmp_path), "train")) == (
        f"{whole}: expected images; found no rows; add some"
    )


def test_a_class_whose_name_is_no_text_is_refused(tmp_path):
    write_parquet(tmp_path / "train.parquet", colour(4), [0, 1, 0, 1], names=["\ud800x", "y"])
    assert message_of(lambda: parquet_labels(tmp_path / "train.parquet")) == (
        f"{tmp_path}/train.parquet: expected names of classes in UTF-8; found '\\ud800x'; rename the class"
    )
