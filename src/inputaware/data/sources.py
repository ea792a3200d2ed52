"""Where images come from: scikit-learn, Parquet files, official archives, a user's own folders.

Every picture goes through the same steps: decoded with Pillow, turned upright by its EXIF orientation, laid on
black where it is transparent (of an animation the first picture counts), brought to 8 bits, and resized with
Pillow's bilinear filter.
"""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
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
from inputaware.data.reading import read_plain_file
from inputaware.data.spec import DatasetSpec, dataset_spec, spec_of_images
from inputaware.errors import DataError

__all__ = [
    "DataSplit",
    "RawSplit",
    "open_image",
    "read_source",
    "resize_image",
    "source_identity",
]

DataSplit = Literal["train", "test"]

# Only these are tried, quick ones for the named data sets first: some of Pillow's other readers start programs.
_FORMATS = ("WEBP", "JPEG", "PNG", "PPM", "BMP", "GIF", "TIFF")
_MOST_PIXELS = 64_000_000
_MOST_BYTES = 2**29
"""Largest file of an image: what 64 megapixels of colour and transparency take at 16 bits."""
_SMALLEST = (1, 28, 28)
"""Shape of the smallest images that there are."""
_GREY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I;16N")


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

    The second text holds the files' sizes and times (of archives their checksums) and Pillow's version, for
    two versions may decode a lossy picture differently.

    Args:
        dataset: digits, mnist, cifar10, gtsrb, or a path.
        split: train or test.

    Raises:
        DataError: a file is missing.
    """
    state: list[Any]
    if dataset in DATASETS:
        file = _named_parquet(dataset, split)
        place = "archives" if file is None else str(file.resolve())
        # No file: digits has no archives either, it comes with scikit-learn.
        state = [CHECKSUMS[name] for name in ARCHIVES.get((dataset, split), ())] if file is None else _state([file])
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


def open_image(file: Path) -> Image.Image:
    """Return the picture in a file, upright.

    Args:
        file: a picture in the format WebP, JPEG, PNG, PPM (or PGM), BMP, GIF or TIFF, of at most 64 megapixels.

    Raises:
        DataError: the file is missing, is no picture, is corrupt or too large.
    """
    try:
        data = read_plain_file(file, _MOST_BYTES)
    except OSError as error:
        raise DataError(f"{file}: expected an image; found: {error.strerror}; check the path") from None
    return _decode(data, str(file))


def resize_image(image: Image.Image, spec: DatasetSpec, name: str = "image") -> ByteArray:
    """Return a picture in a data set's shape.

    Transparency is laid on black, 16 bits become 8, colour becomes grey (ITU-R 601 luma) or grey colour as the
    data set asks, and the size is changed with Pillow's bilinear filter.

    Args:
        image: a picture of any mode but 32 bits a pixel value (I, F).
        spec: whose shape to take.
        name: what to call the picture in an error.

    Returns:
        Bytes [C, H, W].

    Raises:
        DataError: the mode is I or F, whose range of values is not known.
    """
    channels, height, width = spec.shape
    flat = _flatten(image, name).convert("L" if channels == 1 else "RGB")
    if flat.size != (width, height):
        flat = flat.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(flat, np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _decode(data: bytes, name: str) -> Image.Image:
    """Return a picture, fully read and upright."""
    try:
        with warnings.catch_warnings():
            # Odd metadata make Pillow warn; the picture is good all the same. Size is checked here.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            if image.width * image.height > _MOST_PIXELS:
                raise Image.DecompressionBombError
            if image.format == "PNG":
                # Loading does not look at the checksums of the pixels' parts.
                image.verify()
                image = Image.open(io.BytesIO(data), formats=("PNG",))
            image.load()
            return ImageOps.exif_transpose(image)
    except Image.DecompressionBombError:
        raise DataError(
            f"{name}: expected an image of at most {_MOST_PIXELS // 10**6} megapixels; found a larger one; "
            "shrink or remove it"
        ) from None
    except UnidentifiedImageError:
        raise DataError(f"{name}: expected an image; found data of another kind; replace or remove it") from None
    except Exception as error:  # Pillow's decoders raise a dozen kinds on damaged data
        raise DataError(f"{name}: expected an image; found a damaged one ({error}); replace or remove it") from error


def _is_grey(image: Image.Image) -> bool:
    return image.mode in _GREY_MODES


def _flatten(image: Image.Image, name: str) -> Image.Image:
    """Return the picture in mode L if it is grey, else RGB, laid on black."""
    if image.mode in ("I", "F"):
        raise DataError(
            f"{name}: expected 8 or 16 bits for a pixel's value; found Pillow's mode {image.mode}, 32 bits; "
            "convert the image to 8 bits"
        )
    mode = "L" if _is_grey(image) else "RGB"
    if image.mode.startswith("I;16"):
        # Pillow's own conversion cuts off at 255.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        drawn = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", drawn.size, (0, 0, 0, 255)), drawn)
    return image.convert(mode)


def _read_digits(split: DataSplit) -> RawSplit:
    """Return scikit-learn's digits, values 0 to 16 spread over 0 to 255."""
    from sklearn.datasets import load_digits  # here, since it takes a second
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
    labels, _ = _parquet_labels(file)
    _check_labels(labels, spec, str(file))
    images = _decode_all(_parquet_pictures(file), len(labels), spec)
    return RawSplit(images=images, labels=labels, spec=spec)


def _read_own_parquet(folder: Path, split: DataSplit) -> RawSplit:
    files = {each: _own_parquet(folder, each) for each in ("train", "test")}
    train_file, file = files["train"], files[split]
    train_labels, names = _parquet_labels(train_file)
    names = names or [str(label) for label in range(len(np.unique(train_labels)))]
    _check_classes(names, str(train_file))
    example = next(_parquet_pictures(train_file))
    spec = _spec_from_example(folder, example, names)
    _check_labels(train_labels, spec, str(train_file))
    labels = train_labels if split == "train" else _parquet_labels(file)[0]
    _check_labels(labels, spec, str(file))
    images = _decode_all(_parquet_pictures(file), len(labels), spec, example)
    return RawSplit(images=images, labels=labels, spec=spec)


def _read_own_folders(folder: Path, split: DataSplit) -> RawSplit:
    names, files = _list_own_folders(folder)

    def pictures(each: DataSplit) -> Iterator[tuple[str, bytes]]:
        for _, file in files[each]:
            try:
                yield str(file), read_plain_file(file, _MOST_BYTES)
            except OSError as error:
                raise DataError(f"{file}: expected an image; found: {error.strerror}; check the file") from None

    example = next(pictures("train"))
    spec = _spec_from_example(folder, example, names)
    images = _decode_all(pictures(split), len(files[split]), spec, example)
    return RawSplit(images=images, labels=np.array([label for label, _ in files[split]], np.int64), spec=spec)


def _spec_from_example(folder: Path, example: tuple[str, bytes], names: Sequence[str]) -> DatasetSpec:
    """Return the specification that the first training image sets; all others must agree with it."""
    name, data = example
    return spec_of_images(str(folder), 1 if _is_grey(_decode(data, name)) else 3, names)


def _decode_all(
    pictures: Iterable[tuple[str, bytes]], count: int, spec: DatasetSpec, example: tuple[str, bytes] | None = None
) -> ByteArray:
    """Decode, check and resize pictures, with a progress bar on stderr where that is a terminal.

    Args:
        pictures: name and content of each.
        count: how many there are.
        spec: shape of the result.
        example: the picture that decided between grey and colour; none for a data set that is known by name.
    """
    check_memory(spec.name, count, spec.shape)
    console = Console(stderr=True)
    grey = spec.shape[0] == 1
    images = np.empty((count, *spec.shape), np.uint8)
    shown = track(
        pictures,
        f"reading {spec.name}",
        total=count,
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    index = -1
    for index, (name, data) in enumerate(shown):
        if index == count:
            break
        image = _decode(data, name)
        if _is_grey(image) != grey:
            if example is not None:
                one, other = (name, example[0]) if grey else (example[0], name)
                raise DataError(
                    f"{spec.name}: expected either grey or colour images; found both: {one} is colour, {other} is "
                    "grey; convert them to one kind"
                )
            if not (grey and _is_almost_grey(image, name)):
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


def _is_almost_grey(image: Image.Image, name: str) -> bool:
    """Return whether the channels of a colour picture differ by 2 levels at most, as lossy formats store grey."""
    channels = np.asarray(_flatten(image, name), np.int16)
    return int(np.ptp(channels, axis=2).max()) <= 2


def _named_parquet(dataset: str, split: DataSplit) -> Path | None:
    """Return the Parquet file of a data set that is known by name, if there is one."""
    root = os.environ.get("INPUTAWARE_DATA")
    if not root or dataset == "digits":
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


def _parquet_labels(file: Path) -> tuple[LabelArray, list[str]]:
    """Return the labels in a Parquet file, and the class names if its metadata have any."""
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
        return labels.astype(np.int64), _class_names(schema.metadata or {})


def _class_names(metadata: dict[bytes, bytes]) -> list[str]:
    """Return the class names in the metadata of the hub's data sets, or none."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _parquet_pictures(file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield row number and encoded picture of every row."""
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
        _check_text(name, str(folder))
    files: dict[str, list[tuple[int, Path]]] = {"train": [], "test": []}
    for split, pairs in files.items():
        for label, name in enumerate(names):
            own = sorted(path for path in _visible(folder / split / name) if path.suffix.lower() in IMAGE_SUFFIXES)
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


def _check_text(name: str, place: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: expected names of classes in UTF-8; found {name!r}; rename the folder") from None


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
