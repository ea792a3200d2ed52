"""Images and labels in a Parquet file of the Hugging Face hub's form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from inputaware.data.archives import LabelArray
from inputaware.data.memory import check_memory
from inputaware.errors import DataError

__all__ = ["check_class_name", "parquet_labels", "parquet_pictures"]

_SMALLEST = (1, 28, 28)
"""Shape of the smallest images that there are."""


def parquet_labels(file: Path) -> tuple[LabelArray, list[str]]:
    """Return the labels in a Parquet file, and the class names if its metadata have any.

    Args:
        file: with the columns ``image``, a struct with the field ``bytes``, and ``label``.

    Raises:
        DataError: it is damaged, has other columns, no rows, or a row without a label.
    """
    import pyarrow as pa

    with _open_parquet(file) as parquet:
        schema = parquet.schema_arrow
        columns = {name: schema.field(name).type for name in schema.names if schema.names.count(name) == 1}
        image, label = columns.get("image", pa.null()), columns.get("label", pa.null())
        inner = {field.name: field.type for field in image} if pa.types.is_struct(image) else {}
        encoded = inner.get("bytes", pa.null())
        is_picture = pa.types.is_binary(encoded) or pa.types.is_large_binary(encoded)
        if not is_picture or not pa.types.is_integer(label):
            found = ", ".join(f"{name}: {kind}" for name, kind in columns.items())
            raise DataError(
                f"{file}: expected the columns image (a struct with the field bytes) and label (whole numbers); found "
                f"{found}; rename or convert the columns"
            )
        # Some bytes can stand for any number of equal labels: the count is looked at before they are read.
        check_memory(str(file), parquet.metadata.num_rows, _SMALLEST)
        column = parquet.read(columns=["label"]).column("label")
        if len(column) == 0:
            raise DataError(f"{file}: expected images; found no rows; add some")
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise DataError(f"{file}, row {row}: expected a label; found none; label or remove the row")
        labels: LabelArray = column.to_numpy()
        largest = int(labels.max())
        if largest > np.iinfo(np.int64).max:
            raise DataError(f"{file}: expected labels from 0 to K - 1; found {largest}; renumber the labels")
        names = _class_names(schema.metadata or {})
        for name in names:
            check_class_name(name, str(file))
        return labels.astype(np.int64), names


def check_class_name(name: str, place: str) -> None:
    """Check that the name of a class is text that a file can hold.

    Args:
        name: the name.
        place: where it was found.

    Raises:
        DataError: it holds bytes that are no UTF-8, or half a character.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: expected names of classes in UTF-8; found {name!r}; rename the class") from None


def _class_names(metadata: dict[bytes, bytes]) -> list[str]:
    """Return the class names in the metadata of the hub's data sets, or none."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def parquet_pictures(file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield file and row, as an error names them, and the encoded picture of every row.

    Args:
        file: as for :func:`parquet_labels`.

    Raises:
        DataError: it is damaged, or a row has no picture.
    """
    row = 0
    with _open_parquet(file) as parquet:
        for batch in parquet.iter_batches(batch_size=1024, columns=["image.bytes"]):
            for data in batch.column("image").flatten()[0].to_pylist():
                if data is None:
                    raise DataError(f"{file}, row {row}: expected an image; found none; remove the row")
                yield f"{file}, row {row}", data
                row += 1


@contextmanager
def _open_parquet(file: Path) -> Iterator[Any]:
    """Open a Parquet file, and explain what its reader raises on a damaged one; checksums of its pages are compared."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            yield parquet
    except (OSError, pa.ArrowException, ValueError, LookupError, OverflowError) as error:
        raise DataError(
            f"{file}: expected a Parquet file; found a damaged one or another format; restore it"
        ) from error
