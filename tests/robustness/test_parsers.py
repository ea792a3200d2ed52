"""Whatever bytes a file holds, a reader returns what it promises or raises our own error."""

from __future__ import annotations

import gzip
import json
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from data.material import encoded, zipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from robustness.corruption import or_refused

from inputaware.config.fields import Config
from inputaware.config.presets import preset_config
from inputaware.config.record import config_from_dict, config_to_dict, override
from inputaware.data import archives
from inputaware.data.pictures import open_image
from inputaware.data.sources import read_source
from inputaware.errors import CheckpointError, ConfigError, DataError, RunFolderError
from inputaware.runs.checkpoint import load_checkpoint, load_tensors
from inputaware.runs.files import read_json, seal, unseal, write_json
from inputaware.runs.folder import RunFolder
from inputaware.runs.import_official import read_official
from inputaware.runs.journal import Journal

often = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
objects = st.dictionaries(st.text(), values, max_size=5)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@often
@given(objects)
def test_json_comes_back_as_it_was(place: Path, data: dict[str, Any]) -> None:
    data.pop("sha256", None)
    file = place / "a.json"
    write_json(file, data)
    assert read_json(file) == data
    journal = Journal(place / "a.jsonl")
    journal.path.unlink(missing_ok=True)
    for count in range(2):
        journal.append(data, after=count)
    assert journal.rows() == [data, data]


@often
@given(objects, st.text(), values)
def test_a_change_of_one_entry_is_found(data: dict[str, Any], name: str, value: Any) -> None:
    data.pop("sha256", None)
    sealed = seal(data)
    if name == "sha256" or (name in data and data[name] == value and type(data[name]) is type(value)):
        return
    changed = {**{key: sealed[key] for key in data}, name: value, "sha256": sealed["sha256"]}
    if json.dumps({**data, name: value}, sort_keys=True) == json.dumps(data, sort_keys=True):
        return
    with pytest.raises(ValueError, match="the file is corrupt or was changed"):
        unseal(changed)


@often
@given(
    st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | values.map(lambda data: json.dumps(data).encode())
)
def test_bytes_as_json(place: Path, content: bytes) -> None:
    file = place / "b.json"
    file.write_bytes(content)
    with or_refused(RunFolderError, f"{file}: expected "):
        assert isinstance(read_json(file), dict)
    with or_refused(RunFolderError, f"{file}, line "):
        assert all(isinstance(row, dict) for row in Journal(file).rows())


DEFAULT = config_to_dict(preset_config("fast", dataset="digits"))
paths = [(name,) for name in DEFAULT] + [
    (name, inner) for name, part in DEFAULT.items() if isinstance(part, dict) for inner in part
]


@often
@given(st.lists(st.tuples(st.sampled_from(paths), values), max_size=4), st.booleans())
def test_values_as_a_configuration(changes: list[tuple[tuple[str, ...], Any]], whole: bool) -> None:
    data = json.loads(json.dumps(DEFAULT))
    for path, value in changes:
        target = data
        for name in path[:-1]:
            target = target[name] if isinstance(target.get(name), dict) else target
        target[path[-1]] = value
    with or_refused(ConfigError, "expected"):
        found = config_from_dict(data) if whole else override(preset_config(dataset="digits"), data)
        assert isinstance(found, Config)
        assert config_from_dict(config_to_dict(found)) == found


@often
@given(
    st.dictionaries(st.sampled_from(["name", "shape", "classes", "mean", "std", "class_names"]), values), st.booleans()
)
def test_values_as_the_description_of_a_data_set(place: Path, data: dict[str, Any], whole: bool) -> None:
    folder = RunFolder(place)
    spec = {
        "name": "digits",
        "shape": [1, 28, 28],
        "classes": 2,
        "mean": [0.5],
        "std": [0.5],
        "class_names": ["a", "b"],
    }
    write_json(place / "config.json", {**DEFAULT, "data": data if whole else {**spec, **data}})
    with or_refused(RunFolderError, f"{place}/config.json: expected the configuration of a run; found"):
        assert folder.spec().classes == len(folder.spec().class_names)


starts = st.sampled_from(
    [
        b"",
        struct.pack("<Q", 20),
        struct.pack("<Q", 2**40),
        b"PK\x03\x04",
        b"\x80\x02",
        b"PAR1",
        b"\x1f\x8b\x08\x00",
        b"P5\n",
    ]
)


@often
@given(starts, st.binary(max_size=300))
def test_bytes_as_tensors(place: Path, start: bytes, content: bytes) -> None:
    file = place / "a.safetensors"
    file.write_bytes(start + content)
    for load in (load_tensors, load_checkpoint):
        with pytest.raises(RunFolderError, match=r"expected a safetensors file|expected tensors and metadata"):
            load(file)


@often
@given(starts, st.binary(max_size=300))
def test_bytes_as_a_checkpoint_of_the_release(place: Path, start: bytes, content: bytes) -> None:
    file = place / "a.pth.tar"
    file.write_bytes(start + content)
    with pytest.raises(CheckpointError, match="expected a checkpoint of the "):
        read_official(file)


pictures = [
    encoded(np.zeros((6, 5, 3), np.uint8), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
]


@often
@given(st.sampled_from(pictures), st.integers(0, 400), st.binary(max_size=60), st.booleans())
def test_bytes_as_an_image(place: Path, picture: bytes, at: int, content: bytes, replaced: bool) -> None:
    file = place / "a.png"
    file.write_bytes(picture[:at] + content + picture[at + (len(content) if replaced else 0) :])
    with or_refused(DataError, f"{file}: expected an image"):
        image = open_image(file)
        assert image.width * image.height <= 64_000_000


@often
@given(
    st.binary(max_size=200), st.sampled_from(["plain", "gzip", "zip"]), st.sampled_from(["mnist", "cifar10", "gtsrb"])
)
def test_bytes_as_archives(place: Path, content: bytes, packed: str, dataset: str) -> None:
    if packed == "gzip":
        content = gzip.compress(content)
    elif packed == "zip":
        content = zipped({"a.csv": content, "00000/a.ppm": content})
    (place / "archive").write_bytes(content)
    with (
        mock.patch.object(archives, "fetch_archive", return_value=place / "archive"),
        pytest.raises(DataError),
    ):
        read_source(dataset, "test")


@often
@given(starts, st.binary(max_size=300))
def test_bytes_as_parquet(place: Path, start: bytes, content: bytes) -> None:
    folder = place / "set"
    folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        (folder / f"{split}.parquet").write_bytes(start + content + (b"PAR1" if start == b"PAR1" else b""))
    with pytest.raises(DataError, match="expected a Parquet file; found a damaged one or another format; restore it"):
        read_source(str(folder), "train")


@often
@given(st.text(max_size=60), st.text(max_size=20))
def test_text_as_the_table_of_classes(place: Path, rows: str, delimiter: str) -> None:
    file = place / "table.zip"
    file.write_bytes(zipped({"a.csv": f"Filename;ClassId\n{rows}{delimiter}".encode()}))
    with or_refused(DataError, "table.zip: expected "):
        table = archives._gtsrb_ground_truth(file)
        assert all(isinstance(value, str) for value in table.values())
