"""Small data sets on the disk, as users bring them."""

import functools
import http.server
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from inputaware.data.sources import read_source


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("INPUTAWARE_CACHE", str(folder))
    return folder


def encode(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(name="encode")
def encode_fixture() -> Callable[..., bytes]:
    """A function that returns an array as an image file."""
    return encode


@pytest.fixture
def write_parquet() -> Callable[..., Path]:
    """A function that writes images (arrays or encoded) and labels in the hub's layout."""

    def write(file, images, labels, names=None):
        file.parent.mkdir(parents=True, exist_ok=True)
        encoded = [encode(image) if isinstance(image, np.ndarray) else image for image in images]
        column = [None if data is None else {"bytes": data, "path": f"{i}.png"} for i, data in enumerate(encoded)]
        table = pa.table({"image": column, "label": pa.array(labels)})
        if names is not None:
            features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        pq.write_table(table, file)
        return file

    return write


@pytest.fixture
def named(tmp_path, monkeypatch, write_parquet):
    """A function that writes a Parquet file of a data set that is known by name and reads it."""
    monkeypatch.setenv("INPUTAWARE_DATA", str(tmp_path))

    def read(dataset, images, labels):
        write_parquet(tmp_path / dataset / "train.parquet", images, labels)
        return read_source(dataset, "train")

    read.file = lambda dataset: tmp_path / dataset / "train.parquet"
    return read


@pytest.fixture
def write_folders() -> Callable[..., Path]:
    """A function that writes ``count`` random images of each class into train and test."""

    def write(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 3, *, colour: bool = True) -> Path:
        random = np.random.default_rng(0)
        for split in ("train", "test"):
            for name in classes:
                (folder / split / name).mkdir(parents=True)
                for index in range(count):
                    pixels = random.integers(0, 256, (40, 36, 3) if colour else (40, 36), np.uint8)
                    Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
        return folder

    return write


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """A folder, the loopback address that serves it, and the requests that came in."""
    folder = tmp_path / "served"
    folder.mkdir()
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            requests.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/", requests
        server.shutdown()
        thread.join()
