"""Triggers on disk: a user's own images, or a whole split, poisoned and written out."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from inputaware.api import Run
from inputaware.attacks.base import Backdoor, Poisoned
from inputaware.config.datasets import IMAGE_SUFFIXES
from inputaware.config.fields import EvaluationSplit
from inputaware.data.archives import ByteArray
from inputaware.data.loader import to_pixels
from inputaware.data.pictures import open_image, resize_image
from inputaware.data.spec import DatasetSpec
from inputaware.errors import DataError, RunFolderError
from inputaware.evaluation.metrics import round_to_8_bits
from inputaware.evaluation.prediction import probabilities
from inputaware.runs.files import check_new_folder, check_output_file, make_folder_for, write_atomically, write_folder

__all__ = ["export_poisoned_split", "poison_files"]

_CHUNK = 500
"""Images that are read, poisoned and written at a time: memory does not grow with their number."""


def _backdoor(run: Run) -> Backdoor:
    if run.backdoor is None:
        raise RunFolderError(
            f"{run.folder}: expected a run with a backdoor; found a clean model (attack none), which has no trigger"
        )
    return run.backdoor


def poison_files(
    run: Run,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    progress: Callable[[float], None] = lambda share: None,
) -> list[dict[str, Any]]:
    """Apply the trigger to images of any size and kind, and write what came out.

    Each image is resized as the run's data set is. Under all-to-all the attacker's label depends on the true
    one, which is not known here: the classifier's own prediction stands in for it.

    Args:
        run: a finished run with a backdoor.
        source: an image, or a folder that is searched for images; what is hidden in it is passed over.
        output: a new folder; gets ``images/``, ``masks/``, ``patterns/`` and ``poison.csv``.
        progress: told the share of the work that is done.

    Returns:
        The rows of ``poison.csv``: file, names of the pictures, width and height before they were resized (empty where
        they were not), prediction and its probability before and after, and the attacker's target.

    Raises:
        RunFolderError: the run is a clean model, or the output folder exists, lies in the source or cannot be made.
        WriteError: the disk is full.
        DataError: the source is missing, holds no image, or an image is corrupt.
    """
    backdoor = _backdoor(run)
    source, output = Path(source), Path(output)
    check_new_folder(output)
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise RunFolderError(
            f"output: expected a folder outside the input, which would take what is written for more images; found "
            f"{str(output)!r} in {str(source)!r}; choose another one"
        )
    files = _find_images(source)
    names = _picture_names(files, source)
    rows: list[dict[str, Any]] = []

    def write(folder: Path) -> None:
        for start in range(0, len(files), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            pixels, sizes = zip(*(_read_in_shape(file, run.spec) for file in files[chunk]), strict=True)
            images = to_pixels(torch.from_numpy(np.stack(pixels)).to(run.device))
            before = probabilities(run.classifier, images)
            guessed = before.argmax(1)
            poisoned = backdoor.poison(images, guessed)
            # What is predicted is what the written file holds.
            after = probabilities(run.classifier, round_to_8_bits(poisoned.images))
            _write_pictures(folder, names[chunk], poisoned)
            for index, (file, name, size) in enumerate(zip(files[chunk], names[chunk], sizes, strict=True)):
                rows.append(
                    {
                        "file": str(file),
                        "picture": name,
                        "resized_from": size,
                        "prediction_before": run.spec.class_names[int(guessed[index])],
                        "probability_before": round(float(before[index].max()), 4),
                        "prediction_after": run.spec.class_names[int(after[index].argmax())],
                        "probability_after": round(float(after[index].max()), 4),
                        "target": run.spec.class_names[int(poisoned.targets[index])],
                    }
                )
            progress(len(rows) / len(files))
        with (folder / "poison.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as table:
            writer = csv.DictWriter(table, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    write_folder(output, write)
    return rows


def _read_in_shape(file: Path, spec: DatasetSpec) -> tuple[ByteArray, str]:
    """Return a picture in a data set's shape, and its width and height in words if they were others."""
    image = open_image(file)
    _, height, width = spec.shape
    size = "" if image.size == (width, height) else f"{image.width}x{image.height}"
    return resize_image(image, spec, str(file)), size


def _find_images(source: Path) -> list[Path]:
    if os.path.isfile(source):
        return [source]
    if not os.path.isdir(source):
        raise DataError(f"input: expected an image or a folder of images; found nothing at {str(source)!r}")
    files = sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
        and path.is_file()
    )
    if not files:
        raise DataError(
            f"input: expected images ({', '.join(IMAGE_SUFFIXES)}) in {str(source)!r}; found none; hidden ones are "
            "passed over"
        )
    return files


def _picture_names(files: list[Path], source: Path) -> list[str]:
    """Return a PNG name for each file: its path beneath the source, numbered where another file or a folder has it."""
    names: list[str] = []
    beneath = [Path(file.name) if source.is_file() else file.relative_to(source) for file in files]
    taken = {str(folder) for relative in beneath for folder in relative.parents}
    for relative in beneath:
        name, number = str(relative.with_suffix(".png")), 2
        while name in taken:
            name, number = str(relative.with_name(f"{relative.stem}-{number}.png")), number + 1
        taken.add(name)
        names.append(name)
    return names


def _write_pictures(folder: Path, names: list[str], poisoned: Poisoned) -> None:
    for kind, tensor in (("images", poisoned.images), ("masks", poisoned.masks), ("patterns", poisoned.patterns)):
        for name, picture in zip(names, _to_bytes(tensor), strict=True):
            path = folder / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _to_image(picture).save(path)


def _to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Return 8-bit pixels with channels last."""
    pixels: NDArray[np.uint8] = (
        (round_to_8_bits(images) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    )
    return pixels


def _to_image(picture: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)


def export_poisoned_split(
    run: Run,
    split: EvaluationSplit,
    output: str | os.PathLike[str],
    *,
    progress: Callable[[float], None] = lambda share: None,
) -> int:
    """Write every image of a split with its trigger as a parquet file.

    Columns: ``image`` and ``mask`` (``bytes`` of a PNG, ``path``), ``label`` (the true one), ``target`` (the
    attacker's). The file's metadata say that the images are poisoned, by which run, and in the Hugging Face hub's
    words what the columns hold, so that its ``datasets`` library decodes them.

    Args:
        run: a finished run with a backdoor.
        split: test, validation or defender.
        output: a new file.
        progress: told the share of the work that is done.

    Returns:
        The number of images.

    Raises:
        RunFolderError: the run is a clean model, or the file exists or cannot be made.
        WriteError: the disk is full.
        DataError: the split was trained on, or the data set is missing or corrupt.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    backdoor = _backdoor(run)
    output = Path(output)
    check_output_file(output)
    images, labels = run.images(split)

    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", picture), ("label", pa.int64()), ("target", pa.int64()), ("mask", picture)],
        metadata={
            "backdoored": "true",
            "dataset": os.path.basename(run.spec.name),  # of images of one's own the name of their folder
            "split": split,
            "attack": run.config.attack,
            "target": run.config.target,
            **({"target_class": str(run.config.target_class)} if run.config.target == "all-to-one" else {}),
            "run": run.folder.identity(),
            "huggingface": json.dumps({"info": {"features": _features(run.spec.class_names)}}),
        },
    )

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
            for start in range(0, len(images), _CHUNK):
                chunk, true = to_pixels(images[start : start + _CHUNK]), labels[start : start + _CHUNK]
                poisoned = backdoor.poison(chunk, true)
                columns = {
                    "image": list(_encoded(poisoned.images, start, "image")),
                    "label": true.cpu().numpy(),
                    "target": poisoned.targets.cpu().numpy(),
                    "mask": list(_encoded(poisoned.masks, start, "mask")),
                }
                writer.write_table(pa.table(columns, schema=schema))
                progress((start + len(chunk)) / len(images))

    make_folder_for(output)
    write_atomically(output, write)
    return len(images)


def _features(class_names: Sequence[str]) -> dict[str, Any]:
    """Return what the columns hold, as the Hugging Face hub writes it."""
    label = {"names": list(class_names), "_type": "ClassLabel"}
    image = {"_type": "Image"}
    return {"image": image, "label": label, "target": label, "mask": image}


def _encoded(images: Tensor, start: int, kind: str) -> Iterator[dict[str, Any]]:
    for index, picture in enumerate(_to_bytes(images), start):
        buffer = io.BytesIO()
        _to_image(picture).save(buffer, format="PNG")
        yield {"bytes": buffer.getvalue(), "path": f"{kind}-{index:05d}.png"}
