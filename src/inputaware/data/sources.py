"""Where images come from: scikit-learn, Parquet files, official archives, a user's own folders."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from inputaware.config.datasets import DATASETS, IMAGE_SUFFIXES
from inputaware.data.archives import (
    ARCHIVES,
    CHECKSUMS,
    ByteArray,
    LabelArray,
    read_cifar10_archive,
    read_gtsrb_archives,
    read_mnist_archives,
)
from inputaware.data.memory import check_memory
from inputaware.data.parquet import check_class_name, parquet_labels, parquet_pictures
from inputaware.data.pictures import decode_picture, is_almost_grey, is_grey, read_picture, resize_image
from inputaware.data.spec import DatasetSpec, dataset_spec, spec_of_images
from inputaware.errors import DataError

__all__ = ["DataSplit", "RawSplit", "read_source", "source_identity"]

DataSplit = Literal["train", "test"]


_NAMED = 10
"""How many of the pictures that cannot be read are named."""


@dataclass(frozen=True, kw_only=True)
class RawSplit:
    """A split of a data set as arrays."""

    images: ByteArray
    """Bytes [N, C, H, W]."""
    labels: LabelArray
    """Classes [N], 0 to K - 1."""
    spec: DatasetSpec
    """Shape, classes and normalisation."""


def read_source(dataset: str, split: DataSplit) -> RawSplit:
    """Read and decode a split of a data set.

    A data set that is known by name comes from ``$INPUTAWARE_DATA/NAME/{train,test}.parquet`` where that variable
    is set, else from its official archives; digits comes with scikit-learn. A path holds ``train.parquet`` and
    ``test.parquet``, or the folders ``train`` and ``test`` with a folder of images for each class, the same
    names in both. A user's own images are grey if Pillow opens all of them in a grey mode (1, L, LA, 16 bits).

    Args:
        dataset: digits, mnist, cifar10, gtsrb, or a path.
        split: train or test.

    Raises:
        DataError: something is missing, corrupt or of the wrong form; the message names the file.
    """
    if dataset == "digits":
        return _read_digits(split)
    if dataset in DATASETS:
        file = _named_parquet(dataset, split)
        return _read_archives(dataset, split) if file is None else _read_named_parquet(dataset, file)
    folder = Path(dataset)
    return _read_own_parquet(folder, split) if _holds_parquet(folder) else _read_own_folders(folder, split)


def source_identity(dataset: str, split: DataSplit) -> tuple[str, str]:
    """Return where a split is read from, and a text that changes when the files there change.

    The second text holds the files' sizes and times (of archives their checksums, of digits scikit-learn's version)
    and Pillow's version, for two versions may decode a lossy picture differently.

    Args:
        dataset: digits, mnist, cifar10, gtsrb, or a path.
        split: train or test.

    Raises:
        DataError: a file is missing.
    """
    state: list[Any]
    if dataset == "digits":
        place, state = "scikit-learn", [version("scikit-learn")]
    elif dataset in DATASETS:
        file = _named_parquet(dataset, split)
        place = "archives" if file is None else str(file.resolve())
        state = [CHECKSUMS[name] for name in ARCHIVES[dataset, split]] if file is None else _state([file])
    else:
        folder = Path(dataset)
        place = str(folder.resolve())
        # Classes, and whether the images are grey, are known from both splits.
        if _holds_parquet(folder):
            state = _state([_own_parquet(folder, each) for each in ("train", "test")])
        else:
            _, files = _list_own_folders(folder)
            state = _state([file for each in ("train", "test") for _, file in files[each]], folder)
    return place, json.dumps([PIL.__version__, *state])


def _read_digits(split: DataSplit) -> RawSplit:
    """Return scikit-learn's digits, values 0 to 16 spread over 0 to 255."""
    from sklearn.datasets import load_digits  # here, since it takes a second, which the cache spares the next command
    from sklearn.model_selection import train_test_split

    spec = dataset_spec("digits")
    bunch = load_digits()
    train, test = train_test_split(np.arange(len(bunch.target)), test_size=360, stratify=bunch.target, random_state=0)
    chosen = train if split == "train" else test
    scans = np.round(bunch.images[chosen] * (255 / 16)).astype(np.uint8)
    images = np.stack([resize_image(Image.fromarray(scan), spec) for scan in scans])
    return RawSplit(images=images, labels=bunch.target[chosen].astype(np.int64), spec=spec)


def _read_archives(dataset: str, split: DataSplit) -> RawSplit:
    spec = dataset_spec(dataset)
    if dataset == "gtsrb":
        pictures, labels = read_gtsrb_archives(split)
        images = _decode_all(pictures, len(labels), spec)
    else:
        images, labels = (read_mnist_archives if dataset == "mnist" else read_cifar10_archive)(split)
    _check_labels(labels, spec, " and ".join(ARCHIVES[dataset, split]))
    return RawSplit(images=images, labels=labels, spec=spec)


def _read_named_parquet(dataset: str, file: Path) -> RawSplit:
    spec = dataset_spec(dataset)
    labels, _ = parquet_labels(file)
    _check_labels(labels, spec, str(file))
    images = _decode_all(parquet_pictures(file), len(labels), spec)
    return RawSplit(images=images, labels=labels, spec=spec)


def _read_own_parquet(folder: Path, split: DataSplit) -> RawSplit:
    files = {each: _own_parquet(folder, each) for each in ("train", "test")}
    train_file, file = files["train"], files[split]
    train_labels, named = parquet_labels(train_file)
    names = named or [str(label) for label in range(len(np.unique(train_labels)))]
    _check_classes(names, str(train_file))
    example, spec = _example_and_spec(folder, parquet_pictures(train_file), names)
    _check_labels(train_labels, spec, str(train_file))
    labels, others = (train_labels, named) if split == "train" else parquet_labels(file)
    _check_labels(labels, spec, str(file))
    if named and others:
        _check_names(others, named, file)
    images = _decode_all(parquet_pictures(file), len(labels), spec, example)
    return RawSplit(images=images, labels=labels, spec=spec)


def _read_own_folders(folder: Path, split: DataSplit) -> RawSplit:
    names, files = _list_own_folders(folder)

    def pictures(each: DataSplit) -> Iterator[tuple[str, bytes]]:
        return ((str(file), read_picture(file)) for _, file in files[each])

    example, spec = _example_and_spec(folder, pictures("train"), names)
    images = _decode_all(pictures(split), len(files[split]), spec, example)
    return RawSplit(images=images, labels=np.array([label for label, _ in files[split]], np.int64), spec=spec)


def _example_and_spec(
    folder: Path, pictures: Iterable[tuple[str, bytes]], names: Sequence[str]
) -> tuple[str, DatasetSpec]:
    """Return what the first whole training image is called, and the specification that it sets for all others."""
    _, name, image = next(_whole_ones(str(folder), pictures))
    return name, spec_of_images(str(folder), 1 if is_grey(image) else 3, names)


def _whole_ones(place: str, pictures: Iterable[tuple[str, bytes]]) -> Iterator[tuple[int, str, Image.Image]]:
    """Yield number, name and picture of each that can be decoded; the others are named together at the end.

    Raises:
        DataError: there are others.
    """
    broken: list[str] = []
    first: DataError | None = None
    for number, (name, data) in enumerate(pictures):
        try:
            image = decode_picture(data, name)
        except DataError as error:
            broken.append(name)
            first = first or error
        else:
            yield number, name, image
    if len(broken) > 1:
        listed = ", ".join(name.removeprefix(f"{place}/") for name in broken[:_NAMED])
        more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        raise DataError(
            f"{place}: expected images that can be read; found {len(broken)} that cannot: {listed}{more}; replace or "
            "remove them"
        )
    if first is not None:
        raise first


def _decode_all(
    pictures: Iterable[tuple[str, bytes]], count: int, spec: DatasetSpec, example: str | None = None
) -> ByteArray:
    """Decode, check and resize pictures, with a progress bar on stderr where that is a terminal.

    Args:
        pictures: name and content of each.
        count: how many there are.
        spec: shape of the result.
        example: name of the picture that decided between grey and colour; none for a data set that is known by name.
    """
    check_memory(spec.name, count, spec.shape)
    console = Console(stderr=True)
    grey = spec.shape[0] == 1
    images = np.empty((count, *spec.shape), np.uint8)
    shown = track(
        pictures,
        # A path may hold what a terminal obeys, or what rich takes for its markup.
        escape(f"reading {spec.name!r}"),
        total=count,
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    index = -1
    for index, name, image in _whole_ones(spec.name, shown):
        if index >= count:
            break
        if is_grey(image) != grey:
            if example is not None:
                one, other = (name, example) if grey else (example, name)
                raise DataError(
                    f"{spec.name}: expected either grey or colour images; found both: {one} is colour, {other} is "
                    "grey; convert them to one kind"
                )
            if not (grey and is_almost_grey(image, name)):
                kinds = ("grey", "colour") if grey else ("colour", "grey")
                raise DataError(
                    f"{name}: wrong channel count: expected a {kinds[0]} image; found a {kinds[1]} one; check that "
                    f"this is {spec.name}"
                )
        images[index] = resize_image(image, spec, name)
    if index + 1 != count:
        raise DataError(
            f"{spec.name}: expected {count} images, as many as labels; found another number; restore the file"
        )
    return images


def _named_parquet(dataset: str, split: DataSplit) -> Path | None:
    """Return the Parquet file of a data set that is known by name, if there is one."""
    root = os.environ.get("INPUTAWARE_DATA")
    if not root:
        return None
    file = Path(root) / dataset / f"{split}.parquet"
    if not file.is_file():
        # Downloaded images might be others than those that somebody has put there, as after a lossy format.
        raise DataError(
            f"INPUTAWARE_DATA: expected {dataset}/{split}.parquet in the folder that it names; found none in {root!r}; "
            "put the file there, or unset the variable to have the data set downloaded"
        )
    return file


def _holds_parquet(folder: Path) -> bool:
    if not folder.is_dir():
        raise DataError(
            f"dataset: expected one of {', '.join(DATASETS)}, or a folder; found no folder {str(folder)!r}; "
            "check the path"
        )
    return any((folder / f"{split}.parquet").is_file() for split in ("train", "test"))


def _own_parquet(folder: Path, split: str) -> Path:
    file = folder / f"{split}.parquet"
    if not file.is_file():
        raise DataError(f"{folder}: expected train.parquet and test.parquet; found no {file.name}; add it")
    return file


def _list_own_folders(folder: Path) -> tuple[list[str], dict[str, list[tuple[int, Path]]]]:
    """Return the class names, and label and file of every picture of both splits, in the order of the names."""
    classes: dict[str, list[str]] = {}
    for split in ("train", "test"):
        if not (folder / split).is_dir():
            raise DataError(
                f"{folder}: expected the folders train and test with a folder of images for each class, or "
                f"train.parquet and test.parquet; found no {split}; add it"
            )
        classes[split] = sorted(path.name for path in _visible(folder / split) if path.is_dir())
        if not classes[split]:
            raise DataError(f"{folder / split}: expected a folder of images for each class; found no folder; add them")
    train, test = set(classes["train"]), set(classes["test"])
    if train != test:
        only = [f"only in train: {', '.join(sorted(train - test))}"] if train - test else []
        only += [f"only in test: {', '.join(sorted(test - train))}"] if test - train else []
        raise DataError(
            f"{folder}: expected the same class folders in train and test; found {'; '.join(only)}; "
            "add or remove folders"
        )
    names = classes["train"]
    _check_classes(names, str(folder))
    for name in names:
        check_class_name(name, str(folder))
    files: dict[str, list[tuple[int, Path]]] = {"train": [], "test": []}
    for split, pairs in files.items():
        for label, name in enumerate(names):
            own = sorted(
                path
                for path in _visible(folder / split / name)
                if path.suffix.lower() in IMAGE_SUFFIXES and not os.path.isdir(path)
            )
            if not own:
                raise DataError(
                    f"{folder / split / name}: expected images ({', '.join(IMAGE_SUFFIXES)}); found none; add images "
                    "or remove the class"
                )
            pairs += [(label, path) for path in own]
    return names, files


def _visible(folder: Path) -> list[Path]:
    """Return what lies in a folder, hidden files aside."""
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: expected a folder to read; found: {error.strerror}; check it") from None


def _check_classes(names: Sequence[str], place: str) -> None:
    if len(names) < 2:
        raise DataError(f"{place}: expected at least 2 classes; found {len(names)}; add a class")


def _check_names(names: Sequence[str], expected: Sequence[str], file: Path) -> None:
    """Check that a label means the same in both Parquet files."""
    for label, (here, there) in enumerate(zip_longest(names, expected)):
        if here != there:
            raise DataError(
                f"{file}: expected the names of classes that train.parquet has; found {here!r} for label {label}, "
                f"where train.parquet has {there!r}; number the classes alike in both files"
            )


def _check_labels(labels: LabelArray, spec: DatasetSpec, place: str) -> None:
    """Check that the labels are 0 to K - 1 and that every class has an image."""
    present = np.unique(labels).tolist()
    foreign = [label for label in present if not 0 <= label < spec.classes]
    if foreign:
        shown = ", ".join(map(str, foreign[:5])) + (", ..." if len(foreign) > 5 else "")
        raise DataError(
            f"{place}: expected labels 0 to {spec.classes - 1}, for {spec.classes} classes; found {shown}; "
            "renumber the labels"
        )
    missing = sorted(set(range(spec.classes)) - set(present))
    if missing:
        shown = ", ".join(f"{label} ({spec.class_names[label]})" for label in missing[:5])
        shown += ", ..." if len(missing) > 5 else ""
        raise DataError(
            f"{place}: expected images of every class; found none of {shown}; add images or remove the class"
        )


def _state(files: Iterable[Path], root: Path | None = None) -> list[tuple[str, int, int]]:
    """Return path (below the root), size and time of each file."""
    result = []
    for file in files:
        try:
            found = file.stat()
        except OSError as error:
            raise DataError(f"{file}: expected this file; found: {error.strerror}; check the path") from None
        name = str(file.resolve() if root is None else file.relative_to(root))
        result.append((name, found.st_size, found.st_mtime_ns))
    return result
