"""The state of an unfinished run in one safetensors file, tensors and random state included."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from inputaware.data.reading import check_plain_file
from inputaware.errors import RunFolderError
from inputaware.runs.files import parse_json, write_atomically

__all__ = ["Checkpoint", "load_checkpoint", "load_tensors", "save_checkpoint", "save_tensors"]


_MOST_BYTES = 2**33
"""Largest file of tensors that is read; a checkpoint of the largest network here is a tenth of that."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands.

    Attributes:
        stage: index of the stage.
        epoch: how many of its epochs are done.
        steps: how many steps of the next one are done.
        batches: how many batches the loader served for these.
        rows: how many rows of ``metrics.jsonl`` belong to this state.
        run: the identity of the run that it belongs to.
        fingerprint: what the bits depend on besides the configuration.
        tensors: networks, optimisers, averages, gradients and random states, by a path-like name.
    """

    stage: int
    epoch: int
    rows: int
    run: str
    fingerprint: dict[str, str]
    tensors: dict[str, Tensor]
    steps: int = 0
    batches: int = 0


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and text to a safetensors file, atomically and with a digest of both.

    Args:
        path: the file to make or replace.
        tensors: by name; stored on the CPU, contiguous.
        metadata: text by name.

    Raises:
        WriteError: the file cannot be written.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(
        path,
        lambda temporary: _save(temporary, stored, {**metadata, "sha256": _digest(stored, metadata)}),
    )


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file whose bytes are a function of its content.

    The library writes metadata in an order that changes from process to process, so the header is written
    again in alphabetical order: eight bytes with its length, JSON padded to a multiple of eight, then the tensors,
    whose offsets count from there.
    """
    content = save(tensors, metadata)
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.write(memoryview(content)[8 + length :])


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and text of a file that :func:`save_tensors` wrote.

    Raises:
        RunFolderError: the file is missing, corrupt, or was changed after it was written.
    """
    try:
        check_plain_file(path, _MOST_BYTES)
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except FileNotFoundError:
        raise RunFolderError(f"{path}: expected this file of a run folder; found none") from None
    except (SafetensorError, OSError, ValueError, AttributeError, TypeError) as error:
        found = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise RunFolderError(f"{path}: expected a safetensors file; found: {found}; train again") from None
    digest = metadata.pop("sha256", None)
    if digest != _digest(tensors, metadata):
        raise RunFolderError(
            f"{path}: expected tensors and metadata with the digest that was recorded; found others: "
            "the file is corrupt or was changed; restore it or train again"
        )
    return tensors, metadata


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically.

    Raises:
        WriteError: the file cannot be written.
    """
    state: dict[str, Any] = {
        "stage": checkpoint.stage,
        "epoch": checkpoint.epoch,
        "rows": checkpoint.rows,
        "steps": checkpoint.steps,
        "batches": checkpoint.batches,
        "run": checkpoint.run,
        "fingerprint": checkpoint.fingerprint,
    }
    save_tensors(path, checkpoint.tensors, {"state": json.dumps(state)})


def load_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in a file.

    Raises:
        RunFolderError: the file is missing, corrupt, or holds something else.
    """
    tensors, metadata = load_tensors(path)
    try:
        state = parse_json(metadata["state"])
        counts = {name: int(state[name]) for name in ("stage", "epoch", "rows", "steps", "batches")}
        if min(counts.values()) < 0:
            raise ValueError("a count below 0")
        return Checkpoint(
            **counts,
            run=str(state["run"]),
            fingerprint={str(key): str(value) for key, value in state["fingerprint"].items()},
            tensors=tensors,
        )
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise RunFolderError(f"{path}: expected the state of a run in the file's metadata; found none") from None
