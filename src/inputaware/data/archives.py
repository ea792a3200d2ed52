"""The official archives of the data sets that are known by name: download, checksum, contents.

Archives are read in memory; nothing is ever unpacked to the disk. :func:`read_zip` reads any other zip file in the
same way.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import pooch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from inputaware.errors import DataError

__all__ = [
    "ARCHIVES",
    "BASE_URLS",
    "CHECKSUMS",
    "ByteArray",
    "LabelArray",
    "cache_folder",
    "fetch_archive",
    "read_cifar10_archive",
    "read_gtsrb_archives",
    "read_mnist_archives",
    "read_zip",
]

ByteArray = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
LabelArray = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

BASE_URLS: dict[str, str] = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "cifar10": "https://www.cs.toronto.edu/~kriz/",
    "gtsrb": "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/",
}
"""Where the archives of each data set lie."""

CHECKSUMS: dict[str, str] = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "GTSRB_Final_Training_Images.zip": "f33fd80ac59bff73c82d25ab499e03a3",
    "GTSRB_Final_Test_Images.zip": "c7e4e6327067d32654124b0fe9e82185",
    "GTSRB_Final_Test_GT.zip": "fe31e9c9270bbcd7b84b7f21a9d9d9e5",
}
"""MD5 of each archive, as its publisher or torchvision gives it."""

ARCHIVES: dict[tuple[str, str], tuple[str, ...]] = {
    ("mnist", "train"): ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    ("mnist", "test"): ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
    ("cifar10", "train"): ("cifar-10-binary.tar.gz",),
    ("cifar10", "test"): ("cifar-10-binary.tar.gz",),
    ("gtsrb", "train"): ("GTSRB_Final_Training_Images.zip",),
    ("gtsrb", "test"): ("GTSRB_Final_Test_Images.zip", "GTSRB_Final_Test_GT.zip"),
}
"""The archives that hold a split of a data set."""

_DAMAGE = (
    *(OSError, EOFError, ValueError, LookupError, NotImplementedError, RuntimeError, OverflowError),
    *(csv.Error, tarfile.TarError, zipfile.BadZipFile, zlib.error),
)
"""What the standard library's readers raise on damaged archives."""

_CIFAR10_RECORD = 1 + 3 * 32 * 32

_MOST_BYTES = 2**28
"""Largest content of an archive's member; MNIST's training images, the largest of all, have 47 million."""


def cache_folder() -> Path:
    """Return where downloads and decoded images are kept.

    ``$INPUTAWARE_CACHE``, else ``$XDG_CACHE_HOME/inputaware``, else ``~/.cache/inputaware``.

    Raises:
        DataError: none of the variables is set, and there is no home folder.
    """
    own = os.environ.get("INPUTAWARE_CACHE")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(shared) if shared else Path.home() / ".cache") / "inputaware"
    except RuntimeError:
        raise DataError(
            "INPUTAWARE_CACHE: expected a folder for downloads and decoded images, for there is no home folder; found "
            "no such variable; set it"
        ) from None


def fetch_archive(dataset: str, file: str) -> Path:
    """Return the path of an archive, downloaded and checked if it is not there yet.

    Args:
        dataset: mnist, cifar10 or gtsrb.
        file: name of the archive, a key of :data:`CHECKSUMS`.

    Raises:
        DataError: the download failed, its checksum is not the expected one (nothing is kept then), or there is no
            folder to keep it in.
    """
    url = BASE_URLS[dataset] + file
    folder = cache_folder() / "downloads" / dataset

    def download(address: str, output: str, source: object) -> None:
        with _download_bar(file) as bar:
            pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16)(address, output, source)
        found = pooch.file_hash(output, alg="md5")
        if found != CHECKSUMS[file]:
            raise DataError(
                f"{file}: expected a download with md5 {CHECKSUMS[file]}; found {found}; try again later, or put "
                f"{dataset}/train.parquet and {dataset}/test.parquet into the folder that INPUTAWARE_DATA names"
            )

    try:
        return Path(pooch.retrieve(url, f"md5:{CHECKSUMS[file]}", fname=file, path=folder, downloader=download))
    except OSError as error:  # what requests raises is among these
        response = getattr(error, "response", None)
        if response is not None:
            response.close()  # pooch leaves the connection of a refused request open
        # What requests says of a lost connection repeats all layers; the innermost says why.
        reason: BaseException = error
        while response is None and (inner := reason.__cause__ or reason.__context__) is not None:
            reason = inner
        raise DataError(
            f"{file}: expected to download {url} into {folder}; found {type(error).__name__}: {reason}; check the "
            f"network and the folder, or put {dataset}/train.parquet and {dataset}/test.parquet into the folder "
            "that INPUTAWARE_DATA names"
        ) from error


def read_mnist_archives(split: str) -> tuple[ByteArray, LabelArray]:
    """Return MNIST's images [N, 1, 28, 28] and labels [N] from the official files.

    Args:
        split: train or test.

    Raises:
        DataError: a download failed, or a file has another layout.
    """
    images_file, labels_file = ARCHIVES["mnist", split]
    images = _read_idx(fetch_archive("mnist", images_file), dimensions=3)
    labels = _read_idx(fetch_archive("mnist", labels_file), dimensions=1)
    if images.shape[1:] != (28, 28) or len(images) != len(labels):
        raise DataError(
            f"{images_file}: expected 28x28 images, as many as labels; found {list(images.shape)} and "
            f"{len(labels)} labels"
        )
    return images[:, None], labels.astype(np.int64)


def read_cifar10_archive(split: str) -> tuple[ByteArray, LabelArray]:
    """Return CIFAR-10's images [N, 3, 32, 32] and labels [N] from the official binary version.

    Args:
        split: train or test.

    Raises:
        DataError: the download failed, or the archive has another layout.
    """
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] if split == "train" else ["test_batch.bin"]
    path = fetch_archive("cifar10", ARCHIVES["cifar10", split][0])
    found: dict[str, bytes] = {}
    with _explained(path), gzip.open(path) as file, tarfile.open(fileobj=file) as archive:
        for member in archive:
            _check_member(path, member.name)
            if not (member.isfile() or member.isdir()):
                raise DataError(f"{path.name}: expected files and folders; found a link or a device, {member.name!r}")
            base = PurePosixPath(member.name).name
            content = archive.extractfile(member) if base in names else None
            if content is not None:
                _check_size(path, member.name, member.size)
                found[base] = content.read()
        # To the end, where the checksum stands.
        while file.read(2**20):
            pass
    for name in names:
        if len(found.get(name, b"")) == 0 or len(found[name]) % _CIFAR10_RECORD:
            raise DataError(
                f"{path.name}: expected a member {name} with records of {_CIFAR10_RECORD} bytes; found "
                f"{len(found[name])} bytes"
                if name in found
                else f"{path.name}: expected a member {name}; found none"
            )
    records = np.frombuffer(b"".join(found[name] for name in names), np.uint8).reshape(-1, _CIFAR10_RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


def read_gtsrb_archives(split: str) -> tuple[Iterator[tuple[str, bytes]], LabelArray]:
    """Return GTSRB's pictures as (name, PPM file) one after another, and their labels [N].

    Args:
        split: train (the folder of a picture is its class) or test (classes stand in the ground-truth table).

    Raises:
        DataError: a download failed, or an archive has another layout.
    """
    path = fetch_archive("gtsrb", ARCHIVES["gtsrb", split][0])
    with _explained(path), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    for name in names:
        _check_member(path, name)
    pictures = sorted(name for name in names if name.endswith(".ppm"))
    if split == "train":
        classes = [PurePosixPath(name).parent.name for name in pictures]
    else:
        table = _gtsrb_ground_truth(fetch_archive("gtsrb", ARCHIVES["gtsrb", split][1]))
        classes = [table.get(PurePosixPath(name).name, "") for name in pictures]
    for name, text in zip(pictures, classes, strict=True):
        if not re.fullmatch("[0-9]{1,5}", text):
            source = "" if split == "train" else f" in {ARCHIVES['gtsrb', split][1]}"
            raise DataError(f"{path.name}: expected a class for each picture{source}; found none for {name}")

    def read() -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(path) as archive:
            for name in pictures:
                with _explained(path):
                    content = _read_member(path, archive, name)
                yield f"{path.name}, {name}", content

    return read(), np.array([int(text) for text in classes], np.int64)


def read_zip(path: Path, most_bytes: int) -> dict[str, bytes]:
    """Return the files in a zip archive by name.

    Args:
        path: the archive.
        most_bytes: the largest content that is unpacked, all files together.

    Raises:
        DataError: the archive is damaged or unpacks to more, or a name leads out of its folder.
    """
    with _explained(path), zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        for entry in entries:
            _check_member(path, entry.filename)
        size = sum(entry.file_size for entry in entries)
        if size > most_bytes:
            raise DataError(
                f"{path.name}: expected at most {most_bytes} bytes when unpacked; found {size}; "
                "take the archive that was written"
            )
        return {entry.filename: archive.read(entry) for entry in entries}


def _gtsrb_ground_truth(path: Path) -> dict[str, str]:
    """Return the class of each test picture by file name."""
    with _explained(path), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            _check_member(path, name)
            if name.endswith(".csv"):
                text = _read_member(path, archive, name).decode("utf-8-sig")
                rows = csv.DictReader(io.StringIO(text), delimiter=";")
                return {row.get("Filename", ""): row.get("ClassId") or "" for row in rows}
    raise DataError(f"{path.name}: expected a table GT-final_test.csv; found none")


def _read_idx(path: Path, *, dimensions: int) -> ByteArray:
    """Return the array in a file of MNIST's format: magic number, sizes (big-endian), bytes."""
    with _explained(path), gzip.open(path) as file:
        data = file.read(_MOST_BYTES + 1)
    _check_size(path, "its content", len(data))
    header = 4 * (1 + dimensions)
    if len(data) >= header:
        magic, *sizes = np.frombuffer(data[:header], ">u4").tolist()
        if magic == 0x800 + dimensions and len(data) - header == int(np.prod(sizes)):
            return np.frombuffer(data, np.uint8, offset=header).reshape(sizes)
    raise DataError(f"{path.name}: expected bytes in {dimensions} dimensions in the IDX format; found another layout")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the readers of archives raise on a damaged one into an error that names it."""
    try:
        yield
    except _DAMAGE as error:
        raise DataError(
            f"{path.name}: expected a whole archive; found a damaged one ({error}); remove {path}"
        ) from error


def _read_member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    """Return the content of a member, of which no more is unpacked than the archive's directory says."""
    _check_size(path, name, archive.getinfo(name).file_size)
    return archive.read(name)


def _check_size(path: Path, name: str, size: int) -> None:
    if size > _MOST_BYTES:
        raise DataError(
            f"{path.name}: expected at most {_MOST_BYTES // 2**20} MiB in a member; found more in {name}: "
            "this is not the official archive"
        )


def _check_member(path: Path, name: str) -> None:
    """Refuse names that would leave the folder that an archive is unpacked to."""
    if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts:
        raise DataError(f"{path.name}: expected names inside the archive's own folder; found {name!r}")


@contextmanager
def _download_bar(file: str) -> Iterator[SimpleNamespace]:
    """Yield the progress bar that pooch drives, drawn on stderr where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(f"downloading {file}", total=None)
        bar = SimpleNamespace(total=0, reset=lambda: progress.reset(task), close=progress.stop)
        bar.update = lambda size: progress.update(task, advance=size, total=bar.total or None)
        yield bar
