"""Small data sets on the disk, as users bring them."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from data.material import write_parquet

from inputaware.data.sources import read_source


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("INPUTAWARE_CACHE", str(folder))
    return folder


@pytest.fixture
def named(tmp_path, monkeypatch):
    """A function that writes a Parquet file of a data set that is known by name and reads it."""
    monkeypatch.setenv("INPUTAWARE_DATA", str(tmp_path))

    def read(dataset, images, labels):
        write_parquet(tmp_path / dataset / "train.parquet", images, labels)
        return read_source(dataset, "train")

    read.file = lambda dataset: tmp_path / dataset / "train.parquet"
    return read


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
