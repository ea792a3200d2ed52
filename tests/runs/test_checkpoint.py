"""Tensors come back bit for bit, or not at all."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from inputaware.errors import RunFolderError
from inputaware.runs.checkpoint import Checkpoint, load_checkpoint, load_tensors, save_checkpoint, save_tensors

TENSORS = {
    "module/classifier/weight": torch.tensor([[1.5, -0.0], [float("nan"), float("-inf")]]),
    "empty": torch.zeros(0),
    "empty rows": torch.zeros(0, 3),
    "scalar": torch.tensor(2**62),
    "half": torch.tensor([1.0, 3e38]).bfloat16(),
    "double": torch.tensor([0.1], dtype=torch.float64),
    "flags": torch.tensor([True, False, True]),
    "random/torch": torch.arange(40, dtype=torch.uint8),
    "turned": torch.arange(6.0).reshape(2, 3).T,
    "channels last": torch.arange(16.0).reshape(1, 2, 2, 4).to(memory_format=torch.channels_last),
}
CHECKPOINT = Checkpoint(stage=1, epoch=7, rows=9, run="f00d", fingerprint={"torch": "2", "cpu": "é"}, tensors=TENSORS)


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Return whether two sets of tensors agree in names, kinds, shapes and every bit."""
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype
        and first[name].shape == second[name].shape
        and torch.equal(
            first[name].contiguous().reshape(-1).view(torch.uint8),
            second[name].contiguous().reshape(-1).view(torch.uint8),
        )
        for name in first
    )


def same(first: Checkpoint, second: Checkpoint) -> bool:
    first_state, second_state = (
        (found.stage, found.epoch, found.rows, found.run, found.fingerprint) for found in (first, second)
    )
    return same_bits(first.tensors, second.tensors) and first_state == second_state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, CHECKPOINT)
    return path


def test_a_checkpoint_comes_back_bit_for_bit(path: Path) -> None:
    assert same(load_checkpoint(path), CHECKPOINT)


def test_the_comparison_sees_a_single_bit() -> None:
    other = {**TENSORS, "flags": torch.tensor([True, False, False])}
    assert not same_bits(TENSORS, other)
    assert not same_bits(TENSORS, {**TENSORS, "empty": torch.zeros(0, 1)})


def test_the_same_state_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "again", load_checkpoint(path))
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_saving_leaves_the_tensors_alone(tmp_path: Path) -> None:
    weight = torch.ones(2, requires_grad=True)
    save_tensors(tmp_path / "a", {"weight": weight}, {"network": "classifier"})
    with torch.no_grad():
        weight.add_(1)
    tensors, metadata = load_tensors(tmp_path / "a")
    assert torch.equal(tensors["weight"], torch.ones(2))
    assert metadata == {"network": "classifier"}
    assert weight.requires_grad


def test_what_was_loaded_outlives_the_file(path: Path) -> None:
    loaded = load_checkpoint(path)
    save_checkpoint(path, Checkpoint(stage=0, epoch=0, rows=0, run="", fingerprint={}, tensors={"a": torch.zeros(3)}))
    path.unlink()
    assert same(loaded, CHECKPOINT)


def test_no_flipped_bit_goes_unnoticed(path: Path) -> None:
    content = path.read_bytes()
    draw = random.Random(0)
    # The header, whose metadata the library does not check, is a small part of the file: half of the flips go there.
    header = 8 + int.from_bytes(content[:8], "little")
    places = [draw.randrange(header) for _ in range(250)] + [draw.randrange(len(content)) for _ in range(250)]
    refused = 0
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            loaded = load_checkpoint(path)
        except RunFolderError as error:
            refused += str(error).startswith(f"{path}: expected ")
        else:
            # A blank of the header's padding may become another kind of blank.
            assert same(loaded, CHECKPOINT)
    assert refused > 450


def test_no_truncated_file_is_read(path: Path) -> None:
    content = path.read_bytes()
    for length in [*range(0, 20), *range(20, len(content), 11), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(RunFolderError) as caught:
            load_checkpoint(path)
        assert str(caught.value).startswith(f"{path}: expected a safetensors file; found: ")
        assert str(caught.value).endswith("; train again")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError) as caught:
        load_tensors(tmp_path / "none")
    assert str(caught.value) == f"{tmp_path / 'none'}: expected this file of a run folder; found none"


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError) as caught:
        load_tensors(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: expected a safetensors file; found: ")


DIGEST = (
    "expected tensors and metadata with the digest that was recorded; found others: "
    "the file is corrupt or was changed; restore it or train again"
)


@pytest.mark.parametrize("change", ["tensor", "metadata", "digest"])
def test_a_whole_file_with_other_content_is_refused(path: Path, change: str) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if change == "tensor":
        tensors["double"] = tensors["double"] + 1
    elif change == "metadata":
        metadata["state"] = metadata["state"].replace('"epoch": 7', '"epoch": 6')
    else:
        del metadata["sha256"]
    save_file(tensors, path, metadata)
    with pytest.raises(RunFolderError) as caught:
        load_checkpoint(path)
    assert str(caught.value) == f"{path}: {DIGEST}"


@pytest.mark.parametrize(
    "state",
    [
        *(None, "", "[]", "{}", '{"stage": 1}', '{"stage": 1, "epoch": 2, "rows": null, "run": "", "fingerprint": {}}'),
        *('{"stage": 1, "epoch": 2, "rows": 3, "fingerprint": {}}', '{"stage": 1, "stage": 1}'),
    ],
)
def test_a_file_without_the_state_of_a_run_is_refused(tmp_path: Path, state: str | None) -> None:
    path = tmp_path / "state.safetensors"
    save_tensors(path, {"a": torch.zeros(2)}, {} if state is None else {"state": state})
    with pytest.raises(RunFolderError) as caught:
        load_checkpoint(path)
    assert str(caught.value) == f"{path}: expected the state of a run in the file's metadata; found none"
