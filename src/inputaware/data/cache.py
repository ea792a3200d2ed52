"""Decoded images, kept on the disk so that a data set is decoded once.

The cache is a convenience: where it cannot be written or is damaged, the images are decoded again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from inputaware.config.datasets import DATASETS
from inputaware.data.archives import cache_folder
from inputaware.data.memory import check_memory
from inputaware.data.sources import DataSplit, RawSplit, read_source, source_identity
from inputaware.data.spec import DatasetSpec, dataset_spec
from inputaware.errors import DataError

__all__ = ["ImageSet", "load_images"]

_log = logging.getLogger(__name__)

_LAYOUT = "2"
"""Written into every cache file; to be changed when decoding changes, so that old files are not taken."""


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A split of a data set as tensors."""

    images: UInt8[Tensor, "images channel height width"]
    """Pixels as bytes."""
    labels: Int64[Tensor, " images"]
    """Classes, 0 to K - 1."""
    spec: DatasetSpec
    """Shape, classes and normalisation."""
    digest: str
    """SHA-256 of pixels and labels, by which a run knows again what it was trained on."""


def load_images(dataset: str, split: DataSplit) -> ImageSet:
    """Return a split of a data set, decoded now or read from the cache.

    The cache is kept in the folder of :func:`~inputaware.data.archives.cache_folder`; a file there is taken only
    if its source has not changed since and its checksum is right. Where there is no such folder, or it cannot be
    read or written, images are decoded each time, and a warning says so once.

    Args:
        dataset: digits, mnist, cifar10, gtsrb, or a path.
        split: train or test.

    Raises:
        DataError: see :func:`~inputaware.data.sources.read_source`.
    """
    place, state = source_identity(dataset, split)
    spec = asdict(dataset_spec(dataset)) if dataset in DATASETS else None
    identity = json.dumps([_LAYOUT, dataset, split, place, state, spec])
    place_key = hashlib.sha256(json.dumps([dataset, place]).encode()).hexdigest()[:16]
    try:
        file = cache_folder() / "images" / f"{place_key}-{split}.safetensors"
    except DataError as error:
        _warn(str(error))
        return _to_tensors(read_source(dataset, split))
    found = _read(file, identity, dataset)
    if found is None:
        found = _to_tensors(read_source(dataset, split))
        _write(file, identity, found)
    return found


@lru_cache
def _warn(words: str) -> None:
    """Say that images are not kept, once: a command reads several splits."""
    _log.warning("%s; going on without", words)


def _to_tensors(raw: RawSplit) -> ImageSet:
    images, labels = torch.tensor(raw.images), torch.tensor(raw.labels)
    return ImageSet(images=images, labels=labels, spec=raw.spec, digest=_digest(images, labels))


def _read(file: Path, identity: str, dataset: str) -> ImageSet | None:
    """Return what a cache file holds, or none if it is missing, stale or damaged."""
    if not os.path.isfile(file):  # Path.is_file raises where a folder must not be looked into, or a name is too long
        return None
    try:
        with safetensors.safe_open(file, "pt") as content:
            metadata = content.metadata() or {}
            if metadata.get("identity") != identity:
                return None
            count, *shape = content.get_slice("images").get_shape()
            check_memory(dataset, count, tuple(shape))
            images, labels = content.get_tensor("images"), content.get_tensor("labels")
        whole = images.dtype == torch.uint8 and labels.dtype == torch.int64 and labels.shape == (count,)
        if whole:
            digest = _digest(images, labels)
            if metadata["sha256"] == _checksum(digest, metadata["spec"]):
                return ImageSet(images=images, labels=labels, spec=_spec_from_json(metadata["spec"]), digest=digest)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError, TypeError):
        pass
    _log.warning("%s: this cache file is damaged; the images are decoded again", file)
    return None


def _write(file: Path, identity: str, data: ImageSet) -> None:
    """Write a cache file in one step, so that another process finds a whole one or none."""
    spec = json.dumps(asdict(data.spec))
    metadata = {"identity": identity, "spec": spec, "sha256": _checksum(data.digest, spec)}
    content = safetensors.torch.save({"images": data.images, "labels": data.labels}, metadata)
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".partial", dir=file.parent)
        with open(handle, "wb") as output:
            output.write(content)
            output.flush()
            os.fsync(output.fileno())
        os.replace(temporary, file)
    except OSError as error:
        _warn(f"{file.parent}: decoded images could not be kept here ({error.strerror})")
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _digest(images: Tensor, labels: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in (images, labels):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _checksum(digest: str, spec: str) -> str:
    """Return what a cache file carries: the tensors are hashed once, for it and for the run."""
    return hashlib.sha256(f"{digest} {spec}".encode()).hexdigest()


def _spec_from_json(text: str) -> DatasetSpec:
    data: dict[str, Any] = json.loads(text)
    for key in ("shape", "mean", "std", "class_names"):
        data[key] = tuple(data[key])
    return DatasetSpec(**data)
