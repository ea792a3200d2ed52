"""Downloads from a loopback server that holds small archives of the official layouts."""

import hashlib

import numpy as np
import pytest
from data.material import encoded, idx, tar_gz, zipped

from inputaware.data import archives
from inputaware.data.archives import cache_folder, fetch_archive, read_zip
from inputaware.data.sources import read_source
from inputaware.errors import DataError

RANDOM = np.random.default_rng(0)
DIGITS = RANDOM.integers(0, 256, (20, 28, 28), np.uint8)
TEN = np.arange(20) % 10


def cifar_records(first):
    colours = RANDOM.integers(0, 256, (10, 3072), np.uint8)
    return np.concatenate([(np.arange(10, dtype=np.uint8)[:, None] + first) % 10, colours], axis=1)


@pytest.fixture
def publish(served, monkeypatch):
    """A function that puts archives on the loopback server and takes their checksums as the right ones."""
    folder, address, requests = served
    for dataset in archives.BASE_URLS:
        monkeypatch.setitem(archives.BASE_URLS, dataset, address)

    def put(**files):
        for name, data in files.items():
            (folder / name).write_bytes(data)
            monkeypatch.setitem(archives.CHECKSUMS, name, hashlib.md5(data).hexdigest())
        return requests

    return put


@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
def test_mnist_comes_from_its_idx_files(publish, split, prefix):
    requests = publish(**{f"{prefix}-images-idx3-ubyte.gz": idx(DIGITS), f"{prefix}-labels-idx1-ubyte.gz": idx(TEN)})
    raw = read_source("mnist", split)
    assert np.array_equal(raw.images, DIGITS[:, None])
    assert np.array_equal(raw.labels, TEN)
    assert raw.spec.name == "mnist"
    assert len(requests) == 2
    read_source("mnist", split)
    assert len(requests) == 2, "what was downloaded is kept"


def test_cifar10_comes_from_its_binary_version_in_the_order_of_the_batches(publish):
    batches = {f"data_batch_{number}.bin": cifar_records(number) for number in range(1, 6)}
    test = cifar_records(0)
    members = {f"cifar-10-batches-bin/{name}": records.tobytes() for name, records in reversed(batches.items())}
    members |= {"cifar-10-batches-bin/readme.html": b"x", "cifar-10-batches-bin/test_batch.bin": test.tobytes()}
    publish(**{"cifar-10-binary.tar.gz": tar_gz(members)})
    train = read_source("cifar10", "train")
    expected = np.concatenate([records[:, 1:] for records in batches.values()]).reshape(-1, 3, 32, 32)
    assert np.array_equal(train.images, expected)
    assert train.labels.tolist() == [(number + label) % 10 for number in range(1, 6) for label in range(10)]
    assert np.array_equal(read_source("cifar10", "test").images.reshape(-1, 3072), test[:, 1:])


def test_gtsrb_takes_the_whole_training_archive_and_the_ground_truth_table(publish):
    small = RANDOM.integers(0, 256, (43, 32, 32, 3), np.uint8)
    pictures = [encoded(image, "PPM") for image in small]
    train = {f"GTSRB/Final_Training/Images/{label:05}/00000_00000.ppm": pictures[label] for label in range(43)}
    train["GTSRB/Final_Training/Images/00000/GT-00000.csv"] = b"Filename;ClassId\r\n"
    test = {f"GTSRB/Final_Test/Images/{index:05}.ppm": pictures[index] for index in range(43)}
    rows = [f"{index:05}.ppm;32;32;0;0;31;31;{42 - index}" for index in reversed(range(43))]
    table = "\r\n".join(["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId", *rows, ""])
    publish(
        **{
            "GTSRB_Final_Training_Images.zip": zipped(train),
            "GTSRB_Final_Test_Images.zip": zipped(test),
            "GTSRB_Final_Test_GT.zip": zipped({"GT-final_test.csv": table.encode()}),
        }
    )
    found = read_source("gtsrb", "train")
    assert np.array_equal(found.images, small.transpose(0, 3, 1, 2))
    assert found.labels.tolist() == list(range(43))
    found = read_source("gtsrb", "test")
    assert np.array_equal(found.images, small.transpose(0, 3, 1, 2))
    assert found.labels.tolist() == list(range(42, -1, -1))


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(served, monkeypatch):
    folder, address, _ = served
    monkeypatch.setitem(archives.BASE_URLS, "cifar10", address)
    (folder / "cifar-10-binary.tar.gz").write_bytes(b"something else")
    with pytest.raises(DataError) as error:
        read_source("cifar10", "train")
    assert str(error.value) == (
        "cifar-10-binary.tar.gz: expected a download with md5 c32a1d4ab5d03f1284b67883e8d87530; found "
        f"{hashlib.md5(b'something else').hexdigest()}; try again later, or put cifar10/train.parquet and "
        "cifar10/test.parquet into the folder that INPUTAWARE_DATA names"
    )
    assert [path for path in cache_folder().rglob("*") if path.is_file()] == []


def test_a_file_that_was_damaged_in_the_cache_is_downloaded_again(publish):
    requests = publish(**{"t10k-labels-idx1-ubyte.gz": idx(TEN)})
    path = fetch_archive("mnist", "t10k-labels-idx1-ubyte.gz")
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    assert fetch_archive("mnist", "t10k-labels-idx1-ubyte.gz").read_bytes() == good
    assert len(requests) == 2


def test_a_server_without_the_file_is_reported(publish):
    publish()
    with pytest.raises(DataError) as error:
        fetch_archive("gtsrb", "GTSRB_Final_Test_GT.zip")
    url = archives.BASE_URLS["gtsrb"] + "GTSRB_Final_Test_GT.zip"
    folder = cache_folder() / "downloads" / "gtsrb"
    assert str(error.value) == (
        f"GTSRB_Final_Test_GT.zip: expected to download {url} into {folder}; found HTTPError: 404 Client Error: File "
        f"not found for url: {url}; check the network and the folder, or put gtsrb/train.parquet and "
        "gtsrb/test.parquet into the folder that INPUTAWARE_DATA names"
    )


def test_a_cache_that_cannot_be_written_is_reported(publish, own_cache):
    publish(**{"t10k-labels-idx1-ubyte.gz": idx(TEN)})
    own_cache.write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"^t10k-labels-idx1-ubyte\.gz: expected to download .* into .*; found "):
        fetch_archive("mnist", "t10k-labels-idx1-ubyte.gz")


GT_TABLE = zipped({"GT-final_test.csv": b"Filename;ClassId\n00000.ppm;\n"})
BATCHES = {f"cifar-10-batches-bin/data_batch_{number}.bin": cifar_records(0).tobytes() for number in range(1, 6)}


@pytest.mark.parametrize(
    ("dataset", "split", "files", "message"),
    [
        (
            "mnist",
            "train",
            {"train-images-idx3-ubyte.gz": idx(TEN), "train-labels-idx1-ubyte.gz": idx(TEN)},
            "train-images-idx3-ubyte.gz: expected bytes in 3 dimensions in the IDX format; found another layout",
        ),
        (
            "mnist",
            "train",
            {"train-images-idx3-ubyte.gz": idx(DIGITS), "train-labels-idx1-ubyte.gz": idx(TEN[1:])},
            "train-images-idx3-ubyte.gz: expected 28x28 images, as many as labels; found [20, 28, 28] and 19 labels",
        ),
        (
            "cifar10",
            "test",
            {"cifar-10-binary.tar.gz": tar_gz({"cifar-10-batches-bin/data_batch_1.bin": b""})},
            "cifar-10-binary.tar.gz: expected a member test_batch.bin; found none",
        ),
        (
            "cifar10",
            "train",
            {"cifar-10-binary.tar.gz": tar_gz({**BATCHES, "cifar-10-batches-bin/data_batch_5.bin": b"12345"})},
            "cifar-10-binary.tar.gz: expected a member data_batch_5.bin with records of 3073 bytes; found 5 bytes",
        ),
        (
            "gtsrb",
            "train",
            {"GTSRB_Final_Training_Images.zip": zipped({"/GTSRB/00000/00000_00000.ppm": b""})},
            "GTSRB_Final_Training_Images.zip: expected names inside the archive's own folder; found "
            "'/GTSRB/00000/00000_00000.ppm'",
        ),
        (
            "gtsrb",
            "train",
            {"GTSRB_Final_Training_Images.zip": zipped({"GTSRB/stray.ppm": b""})},
            "GTSRB_Final_Training_Images.zip: expected a class for each picture; found none for GTSRB/stray.ppm",
        ),
        (
            "gtsrb",
            "test",
            {"GTSRB_Final_Test_Images.zip": zipped({"00000.ppm": b""}), "GTSRB_Final_Test_GT.zip": GT_TABLE},
            "GTSRB_Final_Test_Images.zip: expected a class for each picture in GTSRB_Final_Test_GT.zip; "
            "found none for 00000.ppm",
        ),
        (
            "gtsrb",
            "test",
            {"GTSRB_Final_Test_Images.zip": zipped({}), "GTSRB_Final_Test_GT.zip": zipped({})},
            "GTSRB_Final_Test_GT.zip: expected a table GT-final_test.csv; found none",
        ),
        (
            "mnist",
            "test",
            {"t10k-images-idx3-ubyte.gz": idx(DIGITS), "t10k-labels-idx1-ubyte.gz": idx(TEN + 1)},
            "t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz: expected labels 0 to 9, for 10 classes; "
            "found 10; renumber the labels",
        ),
    ],
)
def test_archives_of_another_layout_are_refused(publish, dataset, split, files, message):
    publish(**files)
    with pytest.raises(DataError) as error:
        read_source(dataset, split)
    assert str(error.value) == message


def test_every_archive_has_a_checksum():
    assert {file for files in archives.ARCHIVES.values() for file in files} == set(archives.CHECKSUMS)
    assert all(len(checksum) == 32 for checksum in archives.CHECKSUMS.values())


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"INPUTAWARE_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"INPUTAWARE_CACHE": "", "XDG_CACHE_HOME": "/b"}, "/b/inputaware"),
        ({"INPUTAWARE_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/inputaware"),
    ],
)
def test_the_cache_folder_follows_the_environment(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(cache_folder()) == expected


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_stderr_of_a_terminal_only(publish, monkeypatch, capfd, terminal):
    # Rich takes this variable as the word of a terminal.
    monkeypatch.setenv("TTY_COMPATIBLE", "1" if terminal else "0")
    pictures = {f"Images/{label:05}/0.ppm": encoded(np.zeros((8, 8, 3), np.uint8), "PPM") for label in range(43)}
    publish(**{"GTSRB_Final_Training_Images.zip": zipped(pictures)})
    read_source("gtsrb", "train")
    shown = capfd.readouterr()
    assert shown.out == ""
    assert ("downloading GTSRB_Final_Training_Images.zip" in shown.err) is terminal
    assert ("reading 'gtsrb'" in shown.err) is terminal


def test_a_zip_file_is_read_in_memory_up_to_a_size(tmp_path):
    file = tmp_path / "some.zip"
    file.write_bytes(zipped({"a/": b"", "a/b": b"first", "c": bytes(2**20)}))
    assert read_zip(file, 2**20 + 5) == {"a/b": b"first", "c": bytes(2**20)}
    with pytest.raises(
        DataError,
        match="expected at most 1048580 bytes when unpacked; found 1048581; take the archive that was written",
    ):
        read_zip(file, 2**20 + 4)
    file.write_bytes(zipped({"a/../../b": b""}))
    with pytest.raises(DataError, match="expected names inside the archive's own folder"):
        read_zip(file, 2**20)
