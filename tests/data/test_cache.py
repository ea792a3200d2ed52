import hashlib
import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from data.material import write_folders, write_parquet

from inputaware.data import cache, sources
from inputaware.data.cache import load_images
from inputaware.data.sources import read_source


@pytest.fixture
def decoded(monkeypatch):
    """What was decoded, not read from the cache."""
    calls = []

    def counted(dataset, split):
        calls.append(split)
        return read_source(dataset, split)

    monkeypatch.setattr(cache, "read_source", counted)
    return calls


@pytest.fixture(params=["folders", "parquet"])
def dataset(request, tmp_path):
    """A data set of a user, in both layouts."""
    folder = tmp_path / "own"
    if request.param == "folders":
        return str(write_folders(folder))
    random = np.random.default_rng(1)
    for split in ("train", "test"):
        images = list(random.integers(0, 256, (4, 28, 28), np.uint8))
        write_parquet(folder / f"{split}.parquet", images, [0, 1, 0, 1], ["no", "yes"])
    return str(folder)


def same(first, second):
    tensors = ((first.images, second.images), (first.labels, second.labels))
    return all(torch.equal(*pair) for pair in tensors) and first.spec == second.spec


def cache_files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_images_are_decoded_once_and_come_back_the_same(dataset, decoded, own_cache):
    first = {split: load_images(dataset, split) for split in ("train", "test")}
    again = {split: load_images(dataset, split) for split in ("train", "test")}
    assert decoded == ["train", "test"]
    for split in ("train", "test"):
        raw = read_source(dataset, split)
        assert same(first[split], again[split])
        assert np.array_equal(again[split].images, raw.images)
        assert again[split].images.dtype == torch.uint8
        assert again[split].labels.tolist() == raw.labels.tolist()
        assert again[split].spec == raw.spec
    assert [path.suffix for path in cache_files(own_cache)] == [".safetensors"] * 2


def test_a_changed_source_is_decoded_again_in_place_of_the_old(dataset, decoded, own_cache, tmp_path):
    load_images(dataset, "train")
    source = next(path for path in sorted((tmp_path / "own").rglob("*")) if path.is_file() and "train" in str(path))
    times = source.stat()
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns + 1_000_000))
    load_images(dataset, "train")
    load_images(dataset, "train")
    assert decoded == ["train", "train"]
    assert len(cache_files(own_cache)) == 1


def flip_a_bit_of_the_tensors(file):
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)


def rewrite_without_checksum(file):
    with safetensors.safe_open(file, "pt") as content:
        tensors = {name: content.get_tensor(name).clone() for name in ("images", "labels")}
        metadata = {"identity": content.metadata()["identity"]}
    file.write_bytes(safetensors.torch.save(tensors, metadata))


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit_of_the_tensors,
        rewrite_without_checksum,
        lambda file: file.write_bytes(file.read_bytes()[:-50]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"\xff" * 100),
    ],
    ids=["bit", "no-checksum", "truncated", "empty", "garbage"],
)
def test_a_damaged_cache_file_is_replaced_with_a_warning(dataset, decoded, own_cache, caplog, damage):
    first = load_images(dataset, "train")
    (file,) = cache_files(own_cache)
    damage(file)
    with caplog.at_level(logging.WARNING):
        again = load_images(dataset, "train")
    assert same(first, again)
    assert decoded == ["train", "train"]
    assert caplog.messages == [f"{file}: this cache file is damaged; the images are decoded again"]
    assert same(first, load_images(dataset, "train"))
    assert len(decoded) == 2


def test_the_checksum_covers_the_specification(dataset, own_cache, caplog):
    load_images(dataset, "train")
    (file,) = cache_files(own_cache)
    with safetensors.safe_open(file, "pt") as content:
        tensors = {name: content.get_tensor(name).clone() for name in ("images", "labels")}
        metadata = content.metadata()
    spec = json.loads(metadata["spec"])
    spec["class_names"] = spec["class_names"][::-1]
    file.write_bytes(safetensors.torch.save(tensors, metadata | {"spec": json.dumps(spec)}))
    assert load_images(dataset, "train").spec.class_names == tuple(spec["class_names"][::-1])
    assert len(caplog.messages) == 1


def test_without_a_writable_cache_the_images_come_all_the_same(dataset, decoded, own_cache, caplog):
    own_cache.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        first = load_images(dataset, "train")
    assert np.array_equal(first.images, read_source(dataset, "train").images)
    assert caplog.messages == [
        f"{own_cache / 'images'}: decoded images could not be kept here (Not a directory); going on without"
    ]


def test_a_full_disk_leaves_nothing_behind(dataset, own_cache, monkeypatch, caplog):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert len(load_images(dataset, "test").images) > 0
    assert cache_files(own_cache) == []
    assert caplog.messages == [
        f"{own_cache / 'images'}: decoded images could not be kept here (No space left on device); going on without"
    ]


def test_digits_are_read_without_scikit_learn_the_second_time():
    code = "import sys; from inputaware.data.cache import load_images; load_images('digits', 'test'); "
    code += "print('sklearn' in sys.modules)"
    command = [sys.executable, "-c", code]
    found = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert found == ["True\n", "False\n"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("closed", "Permission denied"), ("file/within", "Not a directory"), (300 * "a", "File name too long")],
)
def test_a_cache_out_of_reach_is_done_without(tmp_path, monkeypatch, caplog, name, reason):
    (tmp_path / "file").touch()
    place = tmp_path / name
    monkeypatch.setenv("INPUTAWARE_CACHE", str(place))

    def refusing(really):
        def call(path, *rest, **options):
            if str(path).startswith(str(place)):
                raise PermissionError(13, "Permission denied")
            return really(path, *rest, **options)

        return call

    if name == "closed":  # by hand, for root may look everywhere
        for call in ("stat", "mkdir"):
            monkeypatch.setattr(os, call, refusing(getattr(os, call)))
    for split in ("train", "test"):
        assert len(load_images("digits", split).images) > 0
    assert caplog.messages == [  # once, though two splits were read
        f"{place}/images: decoded images could not be kept here ({reason}); going on without"
    ]


def test_without_a_home_nothing_is_kept(monkeypatch, caplog):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in ("INPUTAWARE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert len(load_images("digits", "test").images) == 360
    assert caplog.messages == [
        "INPUTAWARE_CACHE: expected a folder for downloads and decoded images, for there is no home folder; found no "
        "such variable; set it; going on without"
    ]


def test_what_the_code_says_of_a_named_set_counts(own_cache, monkeypatch):
    first = load_images("digits", "test")
    other = replace(first.spec, mean=(0.1,))
    for module in (cache, sources):
        monkeypatch.setattr(module, "dataset_spec", lambda name: other)
    assert load_images("digits", "test").spec == other


@pytest.mark.parametrize(
    "change", [lambda data: {"images": data["images"].float()}, lambda data: {"labels": data["labels"][:10]}]
)
def test_a_file_of_another_form_is_not_taken(own_cache, monkeypatch, caplog, change):
    load_images("digits", "test")
    (file,) = cache_files(own_cache)
    with safetensors.safe_open(file, "pt") as content:
        metadata = content.metadata()
        data = {name: content.get_tensor(name) for name in ("images", "labels")}
    data |= change(data)
    metadata["sha256"] = cache._checksum(cache._digest(data["images"], data["labels"]), metadata["spec"])
    file.write_bytes(safetensors.torch.save(data, metadata))
    found = load_images("digits", "test")
    assert (found.images.dtype, found.labels.shape) == (torch.uint8, (360,))
    assert caplog.messages == [f"{file}: this cache file is damaged; the images are decoded again"]


def test_two_processes_that_start_together_get_the_same(tmp_path, own_cache):
    dataset = str(write_folders(tmp_path / "own", count=50))
    code = (
        "import sys, hashlib; from inputaware.data.cache import load_images; print('ready', flush=True);"
        "sys.stdin.readline(); data = load_images(sys.argv[1], 'train');"
        "print(hashlib.md5(data.images.numpy().tobytes()).hexdigest())"
    )
    command = [sys.executable, "-W", "error", "-c", code, dataset]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=60) for process in processes]
    expected = read_source(dataset, "train").images
    checksum = hashlib.md5(expected.tobytes()).hexdigest()
    assert results == [(f"{checksum}\n", "")] * 2
    (file,) = cache_files(own_cache)
    with safetensors.safe_open(file, "pt") as content:
        assert np.array_equal(content.get_tensor("images").numpy(), expected)
