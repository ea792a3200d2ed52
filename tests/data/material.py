"""What tests of data make and compare: pictures, data sets and archives of them, a resize in float64, a message."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from inputaware.errors import DataError

RANDOM = np.random.default_rng(0)
NO_IMAGE = "expected an image; found data of another kind; replace or remove it"


def grey(count=1, side=28):
    return list(RANDOM.integers(0, 256, (count, side, side), np.uint8))


def colour(count=1, side=32):
    return list(RANDOM.integers(0, 256, (count, side, side, 3), np.uint8))


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """Return a picture as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def png_of(width: int, height: int) -> bytes:
    """Return a PNG file that says it is of that size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def write_parquet(
    file: Path, images: Sequence[Any], labels: Any, names: Sequence[str] | None = None, **options: Any
) -> Path:
    """Write images (arrays, or encoded ones) and labels in the hub's layout, and return the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    files = [encoded(image) if isinstance(image, np.ndarray) else image for image in images]
    column = [None if data is None else {"bytes": data, "path": f"{i}.png"} for i, data in enumerate(files)]
    table = pa.table({"image": column, "label": pa.array(labels)})
    if names is not None:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, file, **options)
    return file


def write_folders(
    folder: Path, classes: Sequence[str] = ("cat", "dog"), count: int = 3, *, colour: bool = True
) -> Path:
    """Write so many random images of each class into train and test, and return the folder."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (40, 36, 3) if colour else (40, 36), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    return folder


def idx(array: np.ndarray) -> bytes:
    """Return bytes as a file of MNIST's."""
    header = np.array([0x800 + array.ndim, *array.shape], ">u4")
    return gzip.compress(header.tobytes() + array.astype(np.uint8).tobytes(), mtime=0)


def tar_gz(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def bilinear(image, size):
    """Pillow's bilinear filter (a triangle, widened where the image shrinks) in float64."""

    def weights(old, new):
        scale = old / new
        reach = max(scale, 1.0)
        centres = (np.arange(new) + 0.5) * scale
        table = np.maximum(1 - np.abs(np.arange(old) + 0.5 - centres[:, None]) / reach, 0)
        return table / table.sum(1, keepdims=True)

    rows, columns = weights(image.shape[0], size), weights(image.shape[1], size)
    return np.einsum("ir,rc...,jc->ij...", rows, image.astype(np.float64), columns)


def message_of(call):
    with pytest.raises(DataError) as error:
        call()
    return str(error.value)
