"""Damaged files: each kind that is read is damaged at random, and must give its right content or our own error.

A :class:`Subject` is a kind of file. :func:`attack` damages a good one many times and counts what comes of it.
"""

from __future__ import annotations

import hashlib
import random
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import numpy as np
import torch
from data.material import encoded, idx, tar_gz, write_parquet, zipped

from inputaware.api import Run
from inputaware.data import archives
from inputaware.data.cache import load_images
from inputaware.data.pictures import open_image
from inputaware.data.sources import read_source
from inputaware.errors import InputAwareError
from inputaware.runs.checkpoint import load_checkpoint
from inputaware.runs.files import read_json
from inputaware.runs.import_official import read_official
from inputaware.runs.journal import Journal

__all__ = ["SUBJECTS", "Count", "Material", "Subject", "attack", "damage", "limited", "or_refused"]

_SECONDS = 30
"""An attempt that takes longer counts as a hang."""


@dataclass(frozen=True)
class Material:
    """Good files to start from.

    Attributes:
        run: a finished run on digits, with a defense's result.
        official: a checkpoint in the release's layout, in the older serialisation.
        official_zip: the same as a zip file.
        folder: where files are made.
    """

    run: Path
    official: Path
    official_zip: Path
    folder: Path


@dataclass(frozen=True)
class Subject:
    """A kind of file.

    Attributes:
        name: what it is called in the counts.
        prepare: makes a good file of it; returns the file and what reads it. What is read must be comparable.
        checked: whether the format, or we, keep checksums of everything that is compared, so that any other content
            than the right one is a loss. Without them a flipped pixel is a picture as good as any.
        same: whether what was read is the right content.
    """

    name: str
    prepare: Callable[[Material], tuple[Path, Callable[[], Any]]]
    checked: bool = True
    same: Callable[[Any, Any], bool] = lambda found, expected: bool(found == expected)


@dataclass
class Count:
    """What came of the attempts on a kind of file.

    Attributes:
        attempts: how many there were.
        right: the right content was read all the same.
        refused: our own error named the file.
        unnoticed: other content was read, where the format keeps no checksum.
        losses: everything else, with what it takes to repeat it: must be empty.
    """

    attempts: int = 0
    right: int = 0
    refused: int = 0
    unnoticed: int = 0
    losses: list[str] = field(default_factory=list)


def digest(*parts: Any) -> str:
    """Return a digest of tensors, arrays and plain values."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            part = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        found.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return found.hexdigest()


def damage(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Return a damaged copy and a word for what was done."""
    changed = bytearray(content)
    size = len(content)
    place = draw.randrange(size)
    # Half of the places are in the first or the last kilobyte, where formats keep what they hinge on.
    if draw.random() < 0.25:
        place = draw.randrange(min(size, 1024))
    elif draw.random() < 1 / 3:
        place = size - 1 - draw.randrange(min(size, 1024))
    kind = draw.choice(["bit", "byte", "bytes", "zeros", "truncated", "cut out", "inserted", "doubled", "swapped"])
    span = draw.randrange(1, 64)
    if kind == "bit":
        changed[place] ^= 1 << draw.randrange(8)
    elif kind == "byte":
        changed[place] = (changed[place] + draw.randrange(1, 256)) % 256
    elif kind == "bytes":
        for _ in range(span):
            changed[draw.randrange(size)] = draw.randrange(256)
    elif kind == "zeros":
        changed[place : place + span] = bytes(len(changed[place : place + span]))
    elif kind == "truncated":
        del changed[place:]
    elif kind == "cut out":
        del changed[place : place + span]
    elif kind == "inserted":
        changed[place:place] = draw.randbytes(span)
    elif kind == "doubled":
        changed[place:place] = changed[place : place + span]
    else:
        other = draw.randrange(size)
        changed[place], changed[other] = changed[other], changed[place]
    return f"{kind} at {place}", bytes(changed)


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """End what takes too long with an error."""

    def end(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def or_refused(kind: type[InputAwareError], *words: str) -> Iterator[None]:
    """Let an error of ours pass that has one of these words in it."""
    try:
        yield
    except kind as error:
        if not any(word in str(error) for word in words):
            raise AssertionError(f"expected one of {words}; found {error}") from error


def attack(subject: Subject, material: Material, attempts: int, seed: int = 0) -> Count:
    """Damage a kind of file again and again, and return what came of it; the good file is there again afterwards."""
    draw = random.Random(f"{subject.name} {seed}")
    file, read = subject.prepare(material)
    content = file.read_bytes()
    expected = read()
    assert subject.same(read(), expected), f"{subject.name}: reading must repeat itself"
    count = Count()
    for number in range(attempts):
        words, changed = damage(content, draw)
        place = f"{subject.name}, seed {seed}, attempt {number}: {words}"
        file.write_bytes(changed)
        count.attempts += 1
        try:
            with limited(_SECONDS):
                found = read()
        except InputAwareError as error:
            if file.name in str(error) or str(file) in str(error):
                count.refused += 1
            else:
                count.losses.append(f"{place}: the error does not name the file: {error}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            where = traceback.extract_tb(error.__traceback__)[-1]
            count.losses.append(f"{place}: {type(error).__name__}: {error} ({where.filename}:{where.lineno})")
        else:
            if subject.same(found, expected):
                count.right += 1
            elif subject.checked:
                count.losses.append(f"{place}: other content was read in silence")
            else:
                count.unnoticed += 1
    file.write_bytes(content)
    return count


# What is read


def _network(name: str) -> Callable[[Material], tuple[Path, Callable[[], Any]]]:
    def prepare(material: Material) -> tuple[Path, Callable[[], Any]]:
        def read() -> str:
            run = Run.load(material.run, device="cpu")
            modules = {"classifier": run.classifier, **dict(run.backdoor.__dict__ if run.backdoor else {})}
            states = [modules[key].state_dict() for key in ("classifier", "mask_generator", "pattern_generator")]
            return digest(run.config, run.spec, *(value for state in states for value in state.items()))

        return material.run / name, read

    return prepare


def _checkpoint(material: Material) -> tuple[Path, Callable[[], Any]]:
    file = material.run / "checkpoint" / "state.safetensors"

    def read() -> str:
        found = load_checkpoint(file)
        return digest(found.stage, found.epoch, found.rows, found.run, found.fingerprint, *found.tensors.items())

    return file, read


def _json(name: str) -> Callable[[Material], tuple[Path, Callable[[], Any]]]:
    return lambda material: (material.run / name, lambda: read_json(material.run / name))


def _journal(name: str) -> Callable[[Material], tuple[Path, Callable[[], Any]]]:
    return lambda material: (material.run / name, Journal(material.run / name).rows)


def _starts(found: Any, expected: Any) -> bool:
    """Return whether rows are the first of those that are expected: a journal may end where a kill ended it."""
    return bool(found == expected[: len(found)])


def pictures(count: int, *shape: int) -> np.ndarray:
    """Return pictures that compress a little, as real ones do."""
    return np.random.default_rng(0).integers(0, 200, (count, *shape), np.uint8) // 8 * 8


def _own_set(material: Material, name: str) -> Path:
    """Return a folder with both Parquet files of a user's own images."""
    folder = material.folder / name
    for split in ("train", "test"):
        images, labels = [*pictures(12, 28, 28)], np.arange(12) % 2
        write_parquet(folder / f"{split}.parquet", images, labels, ["no", "yes"], write_page_checksum=True)
    return folder


def _parquet(material: Material) -> tuple[Path, Callable[[], Any]]:
    folder = _own_set(material, "own")

    def read() -> str:
        # Names of classes and the like stand in the file's footer, of which the format keeps no checksum.
        found = read_source(str(folder), "train")
        return digest(found.images, found.labels)

    return folder / "train.parquet", read


def _cached(material: Material) -> tuple[Path, Callable[[], Any]]:
    folder = _own_set(material, "cached")

    def read() -> str:
        found = load_images(str(folder), "test")
        return digest(found.images, found.labels, found.spec)

    with mock.patch.dict("os.environ", {"INPUTAWARE_CACHE": str(material.folder / "cache")}):
        read()
        (file,) = (material.folder / "cache").rglob("*.safetensors")

    def read_there() -> str:
        with mock.patch.dict("os.environ", {"INPUTAWARE_CACHE": str(material.folder / "cache")}):
            return read()

    return file, read_there


def _image(kind: str) -> Callable[[Material], tuple[Path, Callable[[], Any]]]:
    def prepare(material: Material) -> tuple[Path, Callable[[], Any]]:
        file = material.folder / f"picture.{kind.lower()}"
        file.write_bytes(encoded(pictures(1, 40, 36, 3)[0], kind))

        def read() -> str:
            image = open_image(file).convert("RGB")
            return digest(np.asarray(image), image.size)

        return file, read

    return prepare


def _archive(
    dataset: str, name: str, files: Callable[[], dict[str, bytes]]
) -> Callable[[Material], tuple[Path, Callable[[], Any]]]:
    """Return what prepares an archive that is taken for the official one, whatever is in it."""

    def prepare(material: Material) -> tuple[Path, Callable[[], Any]]:
        folder = material.folder / "archives"
        folder.mkdir(exist_ok=True)
        for file, content in files().items():
            (folder / file).write_bytes(content)

        def read() -> str:
            with mock.patch.object(archives, "fetch_archive", lambda dataset, file: folder / file):
                found = read_source(dataset, "test")
            return digest(found.images, found.labels)

        return folder / name, read

    return prepare


def _mnist_files() -> dict[str, bytes]:
    return {
        "t10k-images-idx3-ubyte.gz": idx(pictures(20, 28, 28)),
        "t10k-labels-idx1-ubyte.gz": idx(np.arange(20) % 10),
    }


def _cifar10_files() -> dict[str, bytes]:
    records = np.concatenate([np.arange(10, dtype=np.uint8)[:, None], pictures(10, 3072)], axis=1).tobytes()
    return {"cifar-10-binary.tar.gz": tar_gz({"cifar-10-batches-bin/test_batch.bin": records})}


def _gtsrb_files() -> dict[str, bytes]:
    files = {
        f"GTSRB/Final_Test/Images/{index:05}.ppm": encoded(image, "PPM")
        for index, image in enumerate(pictures(43, 12, 12, 3))
    }
    rows = "\r\n".join(["Filename;ClassId", *(f"{index:05}.ppm;{index}" for index in range(43)), ""])
    return {
        "GTSRB_Final_Test_Images.zip": zipped(files),
        "GTSRB_Final_Test_GT.zip": zipped({"GT-final_test.csv": rows.encode()}),
    }


def _official(attribute: str) -> Callable[[Material], tuple[Path, Callable[[], Any]]]:
    def prepare(material: Material) -> tuple[Path, Callable[[], Any]]:
        file: Path = getattr(material, attribute)

        def read() -> str:
            found = read_official(file)
            weights = [item for state in found.weights.values() for item in state.items()]
            return digest(found.config, found.epoch, *weights)

        return file, read

    return prepare


SUBJECTS = (
    Subject("network", _network("classifier.safetensors")),
    Subject("generator", _network("mask_generator.safetensors")),
    Subject("checkpoint", _checkpoint),
    Subject("configuration", _network("config.json")),
    Subject("evaluation", _json("evaluation.json")),
    Subject("environment", _json("environment.json")),
    Subject("defense", _json("defenses/image-regularization.json")),
    Subject("metrics", _journal("metrics.jsonl"), same=_starts),
    Subject("timing", _journal("timing.jsonl"), same=_starts),
    Subject("parquet", _parquet),
    Subject("cached tensors", _cached),
    Subject("PNG", _image("PNG")),
    *(Subject(kind, _image(kind), checked=False) for kind in ("JPEG", "WEBP", "PPM", "BMP", "GIF", "TIFF")),
    Subject("MNIST images", _archive("mnist", "t10k-images-idx3-ubyte.gz", _mnist_files)),
    Subject("MNIST labels", _archive("mnist", "t10k-labels-idx1-ubyte.gz", _mnist_files)),
    Subject("CIFAR-10 archive", _archive("cifar10", "cifar-10-binary.tar.gz", _cifar10_files), checked=False),
    Subject("GTSRB images", _archive("gtsrb", "GTSRB_Final_Test_Images.zip", _gtsrb_files), checked=False),
    Subject("GTSRB classes", _archive("gtsrb", "GTSRB_Final_Test_GT.zip", _gtsrb_files), checked=False),
    Subject("official checkpoint", _official("official"), checked=False),
    Subject("official zip checkpoint", _official("official_zip"), checked=False),
)
