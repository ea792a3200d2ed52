"""Files that were made to do harm: each is refused with our own error, at once, and nothing beside it is touched."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shutil
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from data.material import NO_IMAGE, encoded, png_of, write_parquet, zipped
from PIL import Image
from robustness.corruption import Material, limited
from robustness.material import make_material
from safetensors import safe_open

from inputaware.api import Run, train
from inputaware.cli import main
from inputaware.data import archives, memory, sources
from inputaware.data.pictures import open_image
from inputaware.data.sources import read_source
from inputaware.data.spec import dataset_spec
from inputaware.errors import DataError, RunFolderError
from inputaware.runs.checkpoint import load_checkpoint, save_tensors
from inputaware.runs.files import read_json, seal, write_json
from inputaware.runs.journal import Journal


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return make_material(tmp_path_factory.mktemp("material"))


@pytest.fixture
def run(material: Material, tmp_path: Path) -> Path:
    """Return a finished run that a test may spoil."""
    shutil.copytree(material.run, tmp_path / "run")
    return tmp_path / "run"


# Archives


def tar_of(*members: tarfile.TarInfo, content: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, link, size
    return found


BATCH = "cifar-10-batches-bin/test_batch.bin"
OUTSIDE = "expected names inside the archive's own folder; found {!r}"
LARGE = "expected at most 1 MiB in a member; found more in {}: this is not the official archive"
ARCHIVES: dict[str, tuple[str, str, bytes, str]] = {
    "tar above": ("cifar10", "cifar-10-binary.tar.gz", tar_of(member("../x")), OUTSIDE.format("../x")),
    "tar absolute": ("cifar10", "cifar-10-binary.tar.gz", tar_of(member("/etc/x")), OUTSIDE.format("/etc/x")),
    **{
        f"tar {words}": (
            "cifar10",
            "cifar-10-binary.tar.gz",
            tar_of(member(BATCH, kind, "/etc/passwd")),
            f"expected files and folders; found a link or a device, {BATCH!r}",
        )
        for words, kind in (
            ("symbolic link", tarfile.SYMTYPE),
            ("hard link", tarfile.LNKTYPE),
            ("device", tarfile.CHRTYPE),
            ("pipe", tarfile.FIFOTYPE),
        )
    },
    "tar bomb": (
        "cifar10",
        "cifar-10-binary.tar.gz",
        tar_of(member(BATCH, size=2**21), content=bytes(2**21)),
        LARGE.format(BATCH),
    ),
    "zip above": (
        "gtsrb",
        "GTSRB_Final_Test_Images.zip",
        zipped({"Images/../../x.ppm": b""}),
        OUTSIDE.format("Images/../../x.ppm"),
    ),
    "zip with a drive's backslashes": (
        "gtsrb",
        "GTSRB_Final_Test_Images.zip",
        zipped({"..\\x.ppm": b""}),
        OUTSIDE.format("..\\x.ppm"),
    ),
    "zip bomb": (
        "gtsrb",
        "GTSRB_Final_Test_Images.zip",
        zipped({"Images/00000.ppm": bytes(2**21)}),
        LARGE.format("Images/00000.ppm"),
    ),
    "gzip bomb": (
        "mnist",
        "t10k-images-idx3-ubyte.gz",
        gzip.compress(struct.pack(">4I", 0x803, 10**6, 28, 28) + bytes(2**21)),
        LARGE.format("its content"),
    ),
    "counts that lie": (
        "mnist",
        "t10k-images-idx3-ubyte.gz",
        gzip.compress(struct.pack(">4I", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(100)),
        "expected bytes in 3 dimensions in the IDX format; found another layout",
    ),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_an_archive_that_would_do_harm_is_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, name, content, message = ARCHIVES[case]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "GTSRB_Final_Test_GT.zip").write_bytes(zipped({"GT.csv": b"Filename;ClassId\n00000.ppm;1\n"}))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">2I", 0x801, 0)))
    before = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(archives, "fetch_archive", lambda dataset, file: tmp_path / file)
    monkeypatch.setattr(archives, "_MOST_BYTES", 2**20)
    with limited(20), pytest.raises(DataError) as caught:
        read_source(dataset, "test")
    assert str(caught.value) == f"{name}: {message}"
    assert sorted(os.listdir(tmp_path)) == before


def test_a_damaged_archive_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cifar-10-binary.tar.gz"
    file.write_bytes(b"no archive")
    monkeypatch.setattr(archives, "fetch_archive", lambda dataset, name: file)
    with pytest.raises(DataError) as caught:
        read_source("cifar10", "test")
    start = f"{file.name}: expected a whole archive; found a damaged one (Not a gzipped file ("
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(f"; remove {file}")


# Images


def patched(content: bytes, place: int, form: str, *values: int) -> bytes:
    return content[:place] + struct.pack(form, *values) + content[place + struct.calcsize(form) :]


SMALL = np.zeros((4, 4, 3), np.uint8)
TOO_MANY = "expected an image of at most 64 megapixels; found a larger one; shrink or remove it"
IMAGES: dict[str, tuple[bytes, str]] = {
    "PNG of a row too many": (png_of(8001, 8000), TOO_MANY),
    "PNG of 10 gigapixels": (png_of(100_000, 100_000), TOO_MANY),
    "PNG of 2^62 pixels": (png_of(2**31 - 1, 2**31 - 1), TOO_MANY),
    "PNG that is shorter than it says": (png_of(4000, 4000), "expected an image; found a damaged one"),
    "GIF of 4 gigapixels": (patched(encoded(SMALL[:, :, 0], "GIF"), 6, "<2H", 65535, 65535), TOO_MANY),
    "BMP of 10 gigapixels": (patched(encoded(SMALL, "BMP"), 18, "<2i", 100_000, 100_000), TOO_MANY),
    "BMP of no width": (patched(encoded(SMALL, "BMP"), 18, "<2i", 0, 4), "expected an image; found"),
    "PPM of 10 gigapixels": (b"P6\n100000 100000\n255\n" + bytes(10), TOO_MANY),
    "PPM of negative size": (b"P6\n-4 -4\n255\n" + bytes(100), "expected an image; found"),
    "a program under an image's name": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NO_IMAGE),
    "something else": (b"no picture", NO_IMAGE),
    "nothing": (b"", "expected an image; found an empty file; replace or remove it"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_an_image_that_would_do_harm_is_refused(case: str, tmp_path: Path) -> None:
    content, message = IMAGES[case]
    file = tmp_path / "image.png"
    file.write_bytes(content)
    with limited(20), pytest.raises(DataError) as caught:
        open_image(file)
    assert str(caught.value).startswith(f"{file}: {message}")


def test_a_pipe_under_an_images_name_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "image.png")
    with limited(20), pytest.raises(DataError) as caught:
        open_image(tmp_path / "image.png")
    assert str(caught.value) == f"{tmp_path}/image.png: expected an image; found: no plain file; check the path"


def test_a_pipe_in_a_class_folder_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            os.mkfifo(tmp_path / split / name / "0.png")
    with limited(20), pytest.raises(DataError) as caught:
        read_source(str(tmp_path), "train")
    assert str(caught.value) == (f"{tmp_path}/train/a/0.png: expected an image; found: no plain file; check the path")


def test_an_image_file_without_end_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    with file.open("wb") as opened:
        opened.truncate(2**40)
    with limited(20), pytest.raises(DataError) as caught:
        open_image(file)
    assert str(caught.value) == (f"{file}: expected an image; found: 1048576 MiB, more than 512 MiB; check the path")


# Parquet


def parquet_set(folder: Path, rows: int) -> Path:
    """Write both files of a set, and return that of the training images."""
    images, labels = [encoded(SMALL[:, :, 0])] * rows, np.arange(rows) % 2
    write_parquet(folder / "test.parquet", images, labels, compression="zstd")
    return write_parquet(folder / "train.parquet", images, labels, compression="zstd")


def test_a_data_set_larger_than_memory_is_refused_with_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two kilobytes can say a billion times the same; the count alone is looked at.
    file = parquet_set(tmp_path / "own", 2000)
    monkeypatch.setattr(memory, "available_memory", lambda: 2**20)
    with pytest.raises(DataError) as caught:
        read_source(str(tmp_path / "own"), "train")
    assert str(caught.value) == (
        f"{file}: expected a data set that fits in memory; found 2000 images, which need 0.0 GiB while they are read, "
        "and 0.0 GiB free; take fewer images, or a machine with more memory"
    )
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert len(read_source(str(tmp_path / "own"), "train").images) == 2000


def test_memory_is_asked_of_this_machine() -> None:
    there = memory.available_memory()
    assert there is None or 2**20 < there < 2**50
    with pytest.raises(DataError, match=r"found 1000000000000 images, which need 2190470.7 GiB"):
        memory.check_memory("huge", 10**12, (1, 28, 28))


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    file = parquet_set(tmp_path / "own", 4)
    table = pq.read_table(file)
    pq.write_table(table.append_column("label", table.column("label")), file)
    with pytest.raises(DataError, match="expected the columns image"):
        read_source(str(tmp_path / "own"), "train")


def test_more_or_fewer_pictures_than_labels_are_refused(tmp_path: Path) -> None:
    file = parquet_set(tmp_path / "own", 4)
    pictures = [(f"{file}, row {number}", encoded(SMALL[:, :, 0], "PNG")) for number in range(4)]
    for count in (3, 5):
        with pytest.raises(DataError) as caught:
            sources._decode_all(iter(pictures), count, dataset_spec("digits"))
        assert str(caught.value) == (
            f"digits: expected {count} images, as many as labels; found another number; restore the file"
        )


def test_a_damaged_page_is_found_by_its_checksum(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    parquet_set(folder, 4)
    file = folder / "train.parquet"
    pq.write_table(pq.read_table(file), file, write_page_checksum=True, use_dictionary=False, compression="none")
    content = file.read_bytes()
    labels = struct.pack("<4q", 0, 1, 0, 1)
    assert content.count(labels) == 1
    file.write_bytes(content.replace(labels, struct.pack("<4q", 1, 1, 0, 1)))
    with pytest.raises(DataError) as caught:
        read_source(str(folder), "train")
    assert str(caught.value) == (f"{file}: expected a Parquet file; found a damaged one or another format; restore it")


# Names


NAMES = [
    "[bold red]no",
    "\x1b[2J\x1b]0;title\x07",
    "\u202egnp.exe",
    "x" * 200,
    "a\nb\tc",
    "日本",
    "a,b;\"c'",
]


def test_names_that_a_terminal_would_obey_are_shown_letter_by_letter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "[red]set[/red]\x1b[31m"
    for split in ("train", "test"):
        for number, name in enumerate(NAMES):
            (folder / split / name).mkdir(parents=True)
            for index in range(4):
                pixels = np.random.default_rng([number, index]).integers(0, 255, (28, 28), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    run, source = tmp_path / "run\x1b[1m", tmp_path / "in"
    (source / "\x1b[2J").mkdir(parents=True)
    Image.new("L", (28, 28)).save(source / "\x1b[2J" / "[red]\u202e.png")
    small = ["--mask-stage.epochs=1", "--joint-stage.epochs=1", "--model.hidden-units=8", "--device=cpu"]
    batches = ["--mask-stage.batch-size=10", "--joint-stage.batch-size=10", "--joint-stage.attack-probability=0.3"]
    batches.append("--joint-stage.initial-attack-probability=0.3")
    assert main(["train", f"--dataset={folder}", *small, *batches, f"--output={run}"]) == 0
    assert main(["poison", str(run), f"--input={source}", f"--output={tmp_path / 'out'}"]) == 0
    assert main(["inspect", str(run)]) == 0
    assert main(["defend", str(run), "image-regularization"]) == 0
    assert main(["evaluate", f"{tmp_path}/\x1b[2Jnone"]) == 2
    out, err = capsys.readouterr()
    for text in (out, err):
        assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert "\\x1b[2Jnone: expected a run folder" in err
    assert f"Run folder: {tmp_path}/run\\x1b[1m" in out
    # In files they stay what they are.
    assert json.loads((run / "config.json").read_text())["data"]["class_names"] == sorted(NAMES)
    with (tmp_path / "out/poison.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["target"] == sorted(NAMES)[0]
    assert row["file"] == str(source / "\x1b[2J" / "[red]\u202e.png")


def test_names_that_are_no_text_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = os.fsencode(tmp_path) + b"/set"
    for split in (b"train", b"test"):
        for name in (b"a", b"\xff\xfe"):
            os.makedirs(folder + b"/" + split + b"/" + name)
            Image.new("L", (9, 9)).save(os.fsdecode(folder + b"/" + split + b"/" + name + b"/0.png"))
    with pytest.raises(DataError) as caught:
        read_source(os.fsdecode(folder), "train")
    assert str(caught.value) == (
        f"{tmp_path}/set: expected names of classes in UTF-8; found '\\udcff\\udcfe'; rename the class"
    )
    # Where a run's files would have to hold such a path it is refused too.
    (tmp_path / "set").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    capsys.readouterr()
    assert main(["train", f"--dataset={tmp_path}/\udcff", f"--output={tmp_path}/run"]) == 2
    assert main(["train", "--dataset=digits", f"--output={tmp_path}/\udcfe"]) == 2
    assert capsys.readouterr().err == (
        f"inputaware: dataset: expected a path in UTF-8; found '{tmp_path}/\\udcff'; rename the folder\n"
        f"inputaware: output: expected a name in UTF-8; found '{tmp_path}/\\udcfe'; choose another one, or rename it\n"
    )
    # Of other paths what is not text is written as escapes.
    output = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.json")
    write_json(Path(output), {"command": output})
    assert read_json(Path(output)) == {"command": output}


# JSON


TEXTS: dict[str, tuple[str, str]] = {
    "not a number": (
        '{"rate": NaN}',
        "expected JSON; found: NaN, which JSON does not have; restore the file or train again",
    ),
    "infinity": ('{"rate": -Infinity}', "expected JSON; found: -Infinity, which JSON does not have; restore the file"),
    "a name twice": ('{"a": 1, "a": 2}', "expected JSON; found: the name 'a' twice; restore the file or train again"),
    "deep lists": ('{"a":' + "[" * 10**5, "expected JSON; found: "),
    "deep objects": ('{"a":' * 10**5, "expected JSON; found: "),
    "an endless number": ('{"a": ' + "1" * 10**5 + "}", "expected JSON; found: Exceeds the limit"),
    "another encoding": ('{"a": 1}'.encode("utf-16").decode("latin-1"), "expected JSON; found: "),
    "a mark before it": ("\ufeff{}", "expected JSON; found: "),
    "two objects": ('{"a": 1}{"b": 2}', "expected JSON; found: Extra data"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_json_that_is_none_is_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, message = TEXTS[case]
    file = tmp_path / "a.json"
    file.write_text(text, encoding="utf-8")
    with limited(20), pytest.raises(RunFolderError) as caught:
        read_json(file)
    assert str(caught.value).startswith(f"{file}: {message}")
    # The same in a journal, and in a file with settings.
    (tmp_path / "a.jsonl").write_text(text.replace("\n", " ") + "\n", encoding="utf-8")
    with limited(20), pytest.raises(RunFolderError, match=r"a\.jsonl, line 1: expected a JSON object; found"):
        Journal(tmp_path / "a.jsonl").rows()
    capsys.readouterr()
    with limited(20):
        assert main(["train", "--dataset=digits", f"--config={file}", f"--output={tmp_path}/run"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"inputaware: config: expected JSON in '{file}'; found: ")
    assert err.endswith("; mend the file\n")
    assert not (tmp_path / "run").exists()


def test_settings_that_are_no_options_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text("[1]")
    assert main(["train", "--dataset=digits", f"--config={tmp_path}/a.json", f"--output={tmp_path}/run"]) == 2
    assert capsys.readouterr().err == (
        f"inputaware: config: expected options by name in '{tmp_path}/a.json'; found list\n"
    )


@pytest.mark.parametrize("kind", ["pipe", "endless"])
def test_json_that_cannot_be_read_to_its_end_is_refused(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    if kind == "pipe":
        os.mkfifo(file)
    else:
        with file.open("wb") as opened:
            opened.truncate(2**40)
    for read in (lambda: read_json(file), Journal(file).rows):
        with limited(20), pytest.raises(RunFolderError, match=r"no plain file|more than 256 MiB"):
            read()


# Run folders


def rewrite(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file as a stranger does who knows of the digest."""
    data = json.loads(file.read_text())
    data.pop("sha256")
    change(data)
    file.write_text(json.dumps(seal(data)))


def at(*names: str, value: Any) -> Callable[[dict[str, Any]], object]:
    def change(data: dict[str, Any]) -> None:
        for name in names[:-1]:
            data = data[name]
        data[names[-1]] = value

    return change


CONFIGURATIONS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a network of terabytes": (
        at("model", "hidden_units", value=10**12),
        "model.hidden_units: expected a number of at least 1 and at most 65536; found 1000000000000",
    ),
    "an endless border": (
        at("augmentation", "crop_padding", value=10**9),
        "augmentation.crop_padding: expected a number of at least 0 and at most 32; found 1000000000",
    ),
    "classes without names": (at("data", "classes", value=10**9), "1000000000 classes and 10 names of classes"),
    "images of terabytes": (
        at("data", "shape", value=[1, 10**6, 10**6]),
        "images of shape (1, 1000000, 1000000), where (1, 28, 28) and (3, 32, 32) are known",
    ),
    "no standard deviation": (
        at("data", "std", value=[0]),
        "mean (0.5,) and standard deviation (0.0,) of 1 channels",
    ),
    "a mean too many": (
        at("data", "mean", value=[0.5, 0.5]),
        "mean (0.5, 0.5) and standard deviation (0.5,) of 1 channels",
    ),
    "a text for a number": (at("seed", value="0"), "seed: expected a whole number; found '0'"),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_a_configuration_that_would_do_harm_is_refused(case: str, run: Path) -> None:
    change, message = CONFIGURATIONS[case]
    rewrite(run / "config.json", change)
    with limited(20), pytest.raises(RunFolderError) as caught:
        Run.load(run, device="cpu")
    assert str(caught.value) == f"{run}/config.json: expected the configuration of a run; found: {message}"


def test_a_larger_network_than_the_files_is_refused_before_it_is_made(run: Path) -> None:
    rewrite(run / "config.json", at("model", "hidden_units", value=65536))
    rewrite(run / "config.json", at("data", "class_names", value=[str(number) for number in range(10**6)]))
    rewrite(run / "config.json", at("data", "classes", value=10**6))
    with limited(20), pytest.raises(RunFolderError, match="it belongs to another run"):  # 262 GB
        Run.load(run, device="cpu")


def header_of(**entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS: dict[str, bytes] = {
    "a shape of exabytes": header_of(a={**ENTRY, "shape": [2**60]}) + bytes(8),
    "a shape that overflows": header_of(a={**ENTRY, "shape": [2**33, 2**33]}) + bytes(8),
    "places outside of the file": header_of(a={**ENTRY, "data_offsets": [0, 2**50], "shape": [2**48]}) + bytes(8),
    "places that overlap": header_of(a=ENTRY, b=ENTRY) + bytes(8),
    "places with a hole": header_of(a=ENTRY, b={**ENTRY, "data_offsets": [16, 24]}) + bytes(24),
    "places backwards": header_of(a={**ENTRY, "data_offsets": [8, 0]}) + bytes(8),
    "a negative shape": header_of(a={**ENTRY, "shape": [-2]}) + bytes(8),
    "an unknown kind of number": header_of(a={**ENTRY, "dtype": "PICKLE"}) + bytes(8),
    "a header without end": struct.pack("<Q", 2**63) + b"{}",
    "a header that is no JSON": struct.pack("<Q", 4) + b"\x80\x02}.",
    "deep metadata": struct.pack("<Q", 10**5) + b"[" * 10**5,
    "metadata that is no text": header_of(__metadata__={"run": {"a": 1}}, a=ENTRY) + bytes(8),
    "nothing": b"",
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_file_of_tensors_that_lies_is_refused(case: str, run: Path) -> None:
    for file in (run / "classifier.safetensors", run / "checkpoint/state.safetensors"):
        file.write_bytes(HEADERS[case])
    with limited(20), pytest.raises(RunFolderError, match=r"classifier\.safetensors: expected a safetensors file"):
        Run.load(run, device="cpu")
    with limited(20), pytest.raises(RunFolderError, match=r"state\.safetensors: expected a safetensors file"):
        load_checkpoint(run / "checkpoint/state.safetensors")


def change_tensors(file: Path, change: Callable[[dict[str, Any], dict[str, str]], object]) -> None:
    """Change a file of tensors as a stranger does who knows of the digest."""
    with safe_open(file, framework="pt") as opened:
        metadata = dict(opened.metadata())
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    del metadata["sha256"]
    change(tensors, metadata)
    save_tensors(file, tensors, metadata)


NETWORKS: dict[str, tuple[Callable[[dict[str, Any], dict[str, str]], object], str]] = {
    "another precision": (
        lambda tensors, metadata: tensors.update({"output.bias": tensors["output.bias"].double()}),
        "expected output.bias of shape (10,) in float32; found (10,) in float64: the file does not fit config.json",
    ),
    "an entry too many": (
        lambda tensors, metadata: tensors.update({"more": torch.zeros(1)}),
        "expected more of shape none; found (1,) in float32: the file does not fit config.json",
    ),
    "no weights": (
        lambda tensors, metadata: tensors.clear(),
        "expected first_convolution.bias of shape (32,) in float32; found none: the file does not fit config.json",
    ),
    "weights that are no numbers": (
        lambda tensors, metadata: tensors["output.bias"].fill_(float("nan")),
        "expected finite weights; found others in output.bias; train again",
    ),
    "a clean bill": (
        lambda tensors, metadata: metadata.update(backdoored="false"),
        "expected a file with backdoored 'true', as config.json says; found 'false': it belongs to another run",
    ),
    "another architecture": (
        lambda tensors, metadata: metadata.update(architecture="preact-resnet18"),
        "expected a file with architecture 'mnist-cnn', as config.json says; found 'preact-resnet18': "
        "it belongs to another run",
    ),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_a_network_that_is_not_the_runs_is_refused(case: str, run: Path) -> None:
    change, message = NETWORKS[case]
    change_tensors(run / "classifier.safetensors", change)
    with pytest.raises(RunFolderError) as caught:
        Run.load(run, device="cpu")
    assert str(caught.value) == f"{run}/classifier.safetensors: {message}"


def state_of(**values: Any) -> Callable[[dict[str, Any], dict[str, str]], object]:
    def change(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
        metadata["state"] = json.dumps({**json.loads(metadata["state"]), **values})

    return change


def before_its_last_epoch(**values: Any) -> Callable[[dict[str, Any], dict[str, str]], object]:
    """Put a checkpoint back by an epoch, and give tensors other values; none: the tensor is taken out."""

    def change(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
        state_of(epoch=1, rows=3)(tensors, metadata)
        for name, value in values.items():
            assert name in tensors
            if value is None:
                del tensors[name]
            else:
                tensors[name] = value(tensors[name])

    return change


def within_its_last_epoch(**tensors_more: Any) -> Callable[[dict[str, Any], dict[str, str]], object]:
    """Put a checkpoint back to the first step of its last epoch, with what such a one holds, and change that."""

    def change(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
        state_of(epoch=1, rows=3, steps=1, batches=1)(tensors, metadata)
        tensors |= {"random/epoch": tensors["random/loader"].clone(), "sum/total": torch.ones(()), **tensors_more}

    return change


SLOPES, SQUARES = (f"training/pattern_generator/optimizer/0/{name}" for name in ("exp_avg", "exp_avg_sq"))
COUNT = "training/pattern_generator/optimizer/0/step"
AVERAGE, AVERAGED = (f"training/classifier/average/{name}" for name in ("output.bias", "steps"))
FOREIGN = "expected the networks and stages of this run's configuration; found others; train again into another folder"
NO_STATE = "expected the state of a run in the file's metadata; found none"
CHECKPOINTS: dict[str, tuple[Callable[[dict[str, Any], dict[str, str]], object], str]] = {
    "a stage that there is not": (state_of(stage=9), FOREIGN),
    "more epochs than there are": (state_of(epoch=99), FOREIGN),
    "epochs below none": (state_of(epoch=-1), NO_STATE),
    "rows below none": (state_of(rows=-1), NO_STATE),
    "endless counts": (state_of(epoch=1e400), NO_STATE),
    "no random state": (lambda tensors, metadata: tensors.pop("random/torch"), FOREIGN),
    "a random state that is none": (
        lambda tensors, metadata: tensors.update({"random/loader": torch.zeros(3, dtype=torch.uint8)}),
        FOREIGN,
    ),
    "a network that is not there": (
        lambda tensors, metadata: [tensors.pop(name) for name in list(tensors) if name.startswith("module/classifier")],
        FOREIGN,
    ),
    "an optimiser of other networks": (
        lambda tensors, metadata: tensors.update({"training/classifier/optimizer/99/step": torch.zeros(())}),
        FOREIGN,
    ),
    "an optimiser's entry less": (before_its_last_epoch(**{SQUARES: None}), FOREIGN),
    "an optimiser's entry of another shape": (before_its_last_epoch(**{SLOPES: lambda tensor: tensor[:1]}), FOREIGN),
    "an optimiser's entry of another precision": (
        before_its_last_epoch(**{SLOPES: lambda tensor: tensor.double()}),
        FOREIGN,
    ),
    "an optimiser's count that is none": (before_its_last_epoch(**{COUNT: lambda tensor: torch.zeros(2)}), FOREIGN),
    "another optimiser's entry": (
        lambda tensors, metadata: tensors.update({SLOPES.replace("exp_avg", "momentum_buffer"): tensors[SLOPES] + 0}),
        FOREIGN,
    ),
    "an optimiser's entry below the first": (
        lambda tensors, metadata: tensors.update({SLOPES.replace("/0/", "/-1/"): torch.zeros(1)}),
        FOREIGN,
    ),
    "an average of another shape": (before_its_last_epoch(**{AVERAGE: lambda tensor: tensor[:1]}), FOREIGN),
    "an average's count that is none": (before_its_last_epoch(**{AVERAGED: lambda tensor: tensor.repeat(2)}), FOREIGN),
    "a random state within an epoch that is none": (
        within_its_last_epoch(**{"random/epoch": torch.zeros(3, dtype=torch.uint8)}),
        FOREIGN,
    ),
    "a random state within an epoch of another kind": (
        within_its_last_epoch(**{"random/epoch": torch.ones(9)}),
        FOREIGN,
    ),
    "a sum that is no number": (within_its_last_epoch(**{"sum/total": torch.ones(2)}), FOREIGN),
    "a sum of another kind": (within_its_last_epoch(**{"sum/total": torch.ones((), dtype=torch.bool)}), FOREIGN),
    "a sum that is not finite": (within_its_last_epoch(**{"sum/mine": torch.tensor(float("nan"))}), FOREIGN),
    "another run's": (
        state_of(run="0123456789abcdef"),
        "expected a file with run {run!r}, as config.json says; found '0123456789abcdef': it belongs to another run",
    ),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_that_does_not_fit_is_refused(case: str, run: Path) -> None:
    change, message = CHECKPOINTS[case]
    (run / "evaluation.json").unlink()
    file = run / "checkpoint/state.safetensors"
    identity = load_checkpoint(file).run
    change_tensors(file, change)
    with limited(20), pytest.raises(RunFolderError) as caught:
        train(None, run, resume=True)
    assert str(caught.value) == f"{file}: {message.format(run=identity)}"


def test_the_weights_of_another_run_are_refused(run: Path, tmp_path: Path) -> None:
    from robustness.storage import small_config

    train(small_config(seed=1), tmp_path / "other")
    shutil.copy(tmp_path / "other/mask_generator.safetensors", run)
    with pytest.raises(RunFolderError, match=r"mask_generator\.safetensors: expected a file with run '[0-9a-f]{16}'"):
        Run.load(run, device="cpu")


@pytest.mark.parametrize("change", [at("settings", value=[]), at("scoring", value=None), at("sentence", value=7)])
def test_a_defenses_result_of_a_stranger_is_not_shown(change: Callable[[dict[str, Any]], object], run: Path) -> None:
    file = run / "defenses/image-regularization.json"
    rewrite(file, change)
    with pytest.raises(RunFolderError) as caught:
        Run.load(run, device="cpu").defend(["image-regularization"])
    assert str(caught.value) == (
        f"{file}: expected a defense's result with settings, verdict, sentence and scoring; found others; "
        "replace it with --overwrite of inputaware defend or sweep"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.clear(),
        at("clean_accuracy", value="\x1b[2J"),
        at("cross_accuracy", value=[1]),
        at("trigger", value=7),
        at("trigger", "psnr_db", value=None),
        at("test_images", value=True),
        at("reuse", value=7),
        at("reuse", value={"nearest": [1]}),
        at("reuse", "nearest", "keeps_label", value=None),
        at("reuse", "nearest", "gets_target", value=""),
        at("per_class", value=7),
        at("per_class", "images", value=[]),
        at("per_class", "images", value=[0, 0]),
        at("per_class", "images", value=["many"]),
    ],
)
def test_an_evaluation_of_a_stranger_is_not_shown(
    change: Callable[[dict[str, Any]], object], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(run / "evaluation.json", change)
    capsys.readouterr()
    assert main(["train", "--resume", f"--output={run}"]) == 2
    assert capsys.readouterr().err == (
        f"inputaware: {run}/evaluation.json: expected an evaluation's rates; found others; "
        f"make it again with: inputaware evaluate {run}\n"
    )


@pytest.mark.parametrize("name", [".lock", "timing.jsonl"])
def test_what_a_strangers_folder_links_to_is_not_changed(name: str, run: Path, tmp_path: Path) -> None:
    precious = tmp_path / "thesis.txt"
    precious.write_text("no newline at its end")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(precious)
    code = main(["defend", str(run), "image-regularization", "--overwrite"])
    assert code in (1, 2)
    assert precious.read_text() == "no newline at its end"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("defenses", ["defend", "{run}", "image-regularization", "--overwrite"]),
        ("checkpoint", ["train", "--resume", "--output={run}"]),
        ("inspection", ["inspect", "{run}", "--overwrite"]),
    ],
)
def test_a_strangers_linked_folder_is_not_written_through(
    name: str, command: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (run / "evaluation.json").unlink()
    (run / name).mkdir(exist_ok=True)
    (run / name).rename(elsewhere)
    (run / name).symlink_to(elsewhere)
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    assert main([part.format(run=run) for part in command]) == 2
    assert f"{run}/{name}: expected a folder of the run's own; found a link to" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before
