from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from data.material import NO_IMAGE, bilinear, colour, grey, message_of, write_folders, write_parquet
from PIL import Image
from sklearn.datasets import load_digits

from inputaware.config.datasets import IMAGE_SUFFIXES
from inputaware.data import sources
from inputaware.data.cache import load_images
from inputaware.data.sources import read_source, source_identity
from inputaware.data.spec import dataset_spec
from inputaware.errors import DataError

CIFAR10 = dataset_spec("cifar10")

# ---- digits


def test_digits_are_scikit_learns_scans_split_by_class_share():
    train, test = read_source("digits", "train"), read_source("digits", "test")
    assert train.images.shape == (1437, 1, 28, 28)
    assert test.images.shape == (360, 1, 28, 28)
    bunch = load_digits()
    shares = np.bincount(bunch.target) * 360 / 1797
    assert np.abs(np.bincount(test.labels) - shares).max() < 1
    pool = {}
    for scan, label in zip(bunch.images, bunch.target, strict=True):
        pool.setdefault(bilinear(np.round(scan * 255 / 16), 28).tobytes(), []).append(label)
    references = np.stack([np.frombuffer(key) for key in pool]).astype(np.float32)
    assert len(references) == 1797
    labels = np.array([each[0] for each in pool.values()])
    images = np.concatenate([train.images, test.images]).reshape(1797, -1).astype(np.float32)
    distances = (images**2).sum(1)[:, None] - 2 * images @ references.T + (references**2).sum(1)
    nearest = distances.argmin(1)
    assert sorted(nearest.tolist()) == list(range(1797))
    assert np.array_equal(labels[nearest], np.concatenate([train.labels, test.labels]))
    assert np.abs(images - references[nearest]).max() <= 1.01


# ---- Parquet of a data set that is known by name


def test_parquet_of_a_named_data_set_is_read_in_its_order(named):
    images = colour(40)
    raw = named("cifar10", images, [index % 10 for index in range(40)])
    assert np.array_equal(raw.images, np.stack(images).transpose(0, 3, 1, 2))
    assert raw.labels.tolist() == [index % 10 for index in range(40)]
    assert raw.spec == CIFAR10


def test_grey_stored_as_colour_is_grey_up_to_two_levels(named):
    images = [np.stack([image] * 3, axis=2) for image in grey(10)]
    images[3][..., 1] = np.minimum(images[3][..., 1], 253) + 2
    images[3][..., 0] = images[3][..., 2] = images[3][..., 1] - 2
    raw = named("mnist", images, list(range(10)))
    assert np.array_equal(raw.images[0, 0], images[0][..., 0])
    assert np.abs(raw.images[3, 0].astype(int) - images[3][..., 1]).max() <= 2


def test_real_colour_is_refused_where_grey_is_expected(named):
    images = [np.stack([image] * 3, axis=2) for image in grey(10)]
    images[7][5, 5] = [100, 100, 103]
    assert message_of(lambda: named("mnist", images, list(range(10)))) == (
        f"{named.file('mnist')}, row 7: wrong channel count: expected a grey image; found a colour one; "
        "check that this is mnist"
    )


def test_grey_is_refused_where_colour_is_expected(named):
    images = [*colour(9), *grey(1)]
    assert message_of(lambda: named("cifar10", images, list(range(10)))) == (
        f"{named.file('cifar10')}, row 9: wrong channel count: expected a colour image; found a grey one; "
        "check that this is cifar10"
    )


EVERY_CLASS = "expected images of every class"
TEN_LABELS = "expected labels 0 to 9, for 10 classes"
COLUMNS = (
    "expected the columns image (a struct with the field bytes) and label (whole numbers); found "
    "image: struct<bytes: binary, path: string>"
)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([*range(9), 8], f"{EVERY_CLASS}; found none of 9 (truck); add images or remove the class"),
        (
            [0, 1, 0, 1, 0, 1, 0, 1, 8, 9],
            f"{EVERY_CLASS}; found none of 2 (bird), 3 (cat), 4 (deer), 5 (dog), 6 (frog), ...; add images or remove "
            "the class",
        ),
        ([*range(9), 10], f"{TEN_LABELS}; found 10; renumber the labels"),
        ([-1, *range(1, 10)], f"{TEN_LABELS}; found -1; renumber the labels"),
        (list(range(10, 20)), f"{TEN_LABELS}; found 10, 11, 12, 13, 14, ...; renumber the labels"),
        (
            np.array([0, 2**63], np.uint64),
            "expected labels from 0 to K - 1; found 9223372036854775808; renumber the labels",
        ),
        ([0.0] * 10, f"{COLUMNS}, label: double; rename or convert the columns"),
        (["a"] * 10, f"{COLUMNS}, label: string; rename or convert the columns"),
    ],
)
def test_labels_that_do_not_fit_are_refused(named, labels, message):
    assert message_of(lambda: named("cifar10", colour(len(labels)), labels)) == f"{named.file('cifar10')}: {message}"


# ---- a user's own images


@pytest.mark.parametrize(("in_colour", "shape"), [(True, (3, 32, 32)), (False, (1, 28, 28))])
def test_folders_become_a_data_set(tmp_path, in_colour, shape):
    folder = write_folders(tmp_path / "own", ("dog", "cat"), colour=in_colour)
    (folder / "train" / ".hidden").mkdir()
    (folder / "train" / "cat" / "notes.txt").write_text("passed over")
    raw = read_source(str(folder), "train")
    assert raw.spec.name == str(folder)
    assert raw.spec.class_names == ("cat", "dog")
    assert raw.spec.shape == shape
    assert raw.labels.tolist() == [0, 0, 0, 1, 1, 1]
    picture = np.asarray(Image.open(folder / "train" / "dog" / "0.png"))
    expected = bilinear(picture, shape[1])
    found = raw.images[3].transpose(1, 2, 0) if in_colour else raw.images[3, 0]
    assert np.abs(found - expected).max() <= 1.01
    assert read_source(str(folder), "test").spec == raw.spec


def test_only_visible_files_with_a_pictures_suffix_count(tmp_path):
    folder = write_folders(tmp_path / "own")
    (folder / "train" / "dog" / "folder.png").mkdir()
    for other in ("._0.png", "notes.txt", "folder.png/0.png"):
        (folder / "train" / "dog" / other).write_bytes(b"x")
    assert read_source(str(folder), "train").labels.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("count", [2, 10, 12])
def test_broken_pictures_are_named_together(tmp_path, count):
    folder = write_folders(tmp_path / "own")
    names = [f"train/cat/{number:02}.png" for number in range(count - 1)] + ["train/dog/9.png"]
    for name in names:  # the first training image is one of them
        (folder / name).write_bytes(b"" if name == names[0] else b"no picture")
    shown = ", ".join(names[:10]) + (" and 2 more" if count == 12 else "")
    assert message_of(lambda: read_source(str(folder), "train")) == (
        f"{folder}: expected images that can be read; found {count} that cannot: {shown}; replace or remove them"
    )
    assert len(read_source(str(folder), "test").labels) == 6


@pytest.mark.parametrize("name", ["my [/b]", "x[bold]", "e\x1b[31m", "t\\"])
def test_a_folders_name_is_shown_and_not_obeyed(tmp_path, monkeypatch, capfd, name):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "999")
    monkeypatch.chdir(tmp_path)
    write_folders(Path(name), count=1)
    read_source(name, "test")
    assert f"reading {name!r} " in capfd.readouterr().err


@pytest.mark.parametrize(("names", "expected"), [(["no", "yes"], ("no", "yes")), (None, ("0", "1"))])
def test_parquet_files_become_a_data_set(tmp_path, names, expected):
    for split, count in (("train", 6), ("test", 2)):
        write_parquet(tmp_path / f"{split}.parquet", grey(count), np.array([0, 1] * (count // 2), np.uint8), names)
    for split, count in (("train", 6), ("test", 2)):
        raw = read_source(str(tmp_path), split)
        assert raw.images.shape == (count, 1, 28, 28)
        assert raw.spec.class_names == expected
        assert raw.labels.dtype == np.int64


@pytest.mark.parametrize("named_part", ["train", "test"])
def test_names_in_one_parquet_file_do(tmp_path, named_part):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", grey(2), [0, 1], ["no", "yes"] if split == named_part else None)
    expected = ("no", "yes") if named_part == "train" else ("0", "1")
    assert [read_source(str(tmp_path), split).spec.class_names for split in ("train", "test")] == [expected] * 2


def parquet_case(**splits):
    def make(folder):
        for split, (images, labels, *names) in splits.items():
            write_parquet(folder / f"{split}.parquet", images, labels, *names)

    return make


def folder_case(change, **options):
    def make(folder):
        write_folders(folder, **options)
        change(folder)

    return make


def remove(folder, *parts):
    target = folder.joinpath(*parts)
    for path in sorted(target.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    target.rmdir()


def empty(folder, *parts):
    for path in folder.joinpath(*parts).iterdir():
        path.unlink()


SUFFIXES = ", ".join(IMAGE_SUFFIXES)
TWO = (grey(4), [0, 1, 0, 1])


@pytest.mark.parametrize(
    ("make", "split", "message"),
    [
        pytest.param(
            lambda folder: folder.mkdir(),
            "train",
            "{f}: expected the folders train and test with a folder of images for each class, or train.parquet and "
            "test.parquet; found no train; add it",
            id="empty-folder",
        ),
        pytest.param(
            lambda folder: None,
            "train",
            "dataset: expected one of digits, mnist, cifar10, gtsrb, or a folder; found no folder '{f}'; "
            "check the path",
            id="no-folder",
        ),
        pytest.param(
            folder_case(lambda folder: remove(folder, "test")),
            "train",
            "{f}: expected the folders train and test with a folder of images for each class, or train.parquet and "
            "test.parquet; found no test; add it",
            id="no-test",
        ),
        pytest.param(
            folder_case(lambda folder: [remove(folder, "test", name) for name in ("cat", "dog")]),
            "train",
            "{f}/test: expected a folder of images for each class; found no folder; add them",
            id="empty-test",
        ),
        pytest.param(
            folder_case(lambda folder: (folder / "test" / "dog").rename(folder / "test" / "bird")),
            "train",
            "{f}: expected the same class folders in train and test; found only in train: dog; only in test: bird; "
            "add or remove folders",
            id="different-classes",
        ),
        pytest.param(
            folder_case(lambda folder: remove(folder, "train", "cat")),
            "test",
            "{f}: expected the same class folders in train and test; found only in test: cat; add or remove folders",
            id="class-missing",
        ),
        pytest.param(
            folder_case(lambda folder: None, classes=("cat",)),
            "train",
            "{f}: expected at least 2 classes; found 1; add a class",
            id="one-class",
        ),
        pytest.param(
            folder_case(lambda folder: empty(folder, "test", "dog")),
            "test",
            f"{{f}}/test/dog: expected images ({SUFFIXES}); found none; add images or remove the class",
            id="class-without-images",
        ),
        pytest.param(
            folder_case(lambda folder: Image.new("L", (9, 9)).save(folder / "train" / "dog" / "1.png")),
            "train",
            "{f}: expected either grey or colour images; found both: {f}/train/cat/0.png is colour, "
            "{f}/train/dog/1.png is grey; convert them to one kind",
            id="mixed",
        ),
        pytest.param(
            folder_case(lambda folder: Image.new("RGB", (9, 9)).save(folder / "test" / "dog" / "1.png"), colour=False),
            "test",
            "{f}: expected either grey or colour images; found both: {f}/test/dog/1.png is colour, "
            "{f}/train/cat/0.png is grey; convert them to one kind",
            id="mixed-between-splits",
        ),
        pytest.param(
            folder_case(lambda folder: (folder / "train" / "dog" / "2.png").write_bytes(b"x")),
            "train",
            f"{{f}}/train/dog/2.png: {NO_IMAGE}",
            id="corrupt-image",
        ),
        pytest.param(
            parquet_case(train=TWO),
            "train",
            "{f}: expected train.parquet and test.parquet; found no test.parquet; add it",
            id="no-test-parquet",
        ),
        pytest.param(
            parquet_case(train=TWO, test=([], np.array([], np.int64))),
            "test",
            "{f}/test.parquet: expected the columns image (a struct with the field bytes) and label (whole numbers); "
            "found image: null, label: int64; rename or convert the columns",
            id="untyped-parquet",
        ),
        pytest.param(
            parquet_case(train=TWO, test=(grey(2), [0, 0])),
            "test",
            "{f}/test.parquet: expected images of every class; found none of 1 (1); add images or remove the class",
            id="class-missing-in-test-parquet",
        ),
        pytest.param(
            parquet_case(train=TWO, test=(grey(3), [0, 1, 2])),
            "test",
            "{f}/test.parquet: expected labels 0 to 1, for 2 classes; found 2; renumber the labels",
            id="new-class-in-test-parquet",
        ),
        pytest.param(
            parquet_case(train=(grey(4), [0, 1, 3, 3]), test=TWO),
            "train",
            "{f}/train.parquet: expected labels 0 to 2, for 3 classes; found 3; renumber the labels",
            id="gap",
        ),
        pytest.param(
            parquet_case(train=(*TWO, ["a", "b", "c"]), test=TWO),
            "train",
            "{f}/train.parquet: expected images of every class; found none of 2 (c); add images or remove the class",
            id="named-class-without-images",
        ),
        pytest.param(
            parquet_case(train=(*TWO, ["cat", "dog"]), test=(*TWO, ["dog", "cat"])),
            "test",
            "{f}/test.parquet: expected the names of classes that train.parquet has; found 'dog' for label 0, where "
            "train.parquet has 'cat'; number the classes alike in both files",
            id="other-order-in-test-parquet",
        ),
        pytest.param(
            parquet_case(train=(*TWO, ["cat", "dog"]), test=(*TWO, ["cat", "dog", "bird"])),
            "test",
            "{f}/test.parquet: expected the names of classes that train.parquet has; found 'bird' for label 2, where "
            "train.parquet has None; number the classes alike in both files",
            id="more-names-in-test-parquet",
        ),
        pytest.param(
            parquet_case(train=(grey(2), [0, 0]), test=TWO),
            "train",
            "{f}/train.parquet: expected at least 2 classes; found 1; add a class",
            id="one-class-parquet",
        ),
        pytest.param(
            parquet_case(train=([*grey(3), *colour(1)], [0, 1, 0, 1]), test=TWO),
            "train",
            "{f}: expected either grey or colour images; found both: {f}/train.parquet, row 3 is colour, "
            "{f}/train.parquet, row 0 is grey; convert them to one kind",
            id="mixed-parquet",
        ),
    ],
)
def test_a_users_own_images_of_the_wrong_form_are_refused(tmp_path, make, split, message):
    folder = tmp_path / "own"
    make(folder)
    assert message_of(lambda: read_source(str(folder), split)) == message.format(f=folder)


def test_an_unreadable_kind_of_pixel_is_refused_by_file(tmp_path):
    folder = write_folders(tmp_path / "own")
    file = folder / "train" / "dog" / "2.tif"
    Image.new("F", (9, 9)).save(file)
    assert message_of(lambda: read_source(str(folder), "train")) == (
        f"{file}: expected 8 or 16 bits for a pixel's value; found Pillow's mode F, 32 bits; "
        "convert the image to 8 bits"
    )


# ---- identity


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_identity_follows_the_files(tmp_path, split):
    folder = write_folders(tmp_path / "own")
    before = source_identity(str(folder), split)
    assert source_identity(str(folder), split) == before
    (folder / split / "cat" / "9.png").write_bytes((folder / split / "cat" / "0.png").read_bytes())
    place, state = source_identity(str(folder), split)
    assert place == before[0] == str(folder.resolve())
    assert state != before[1]


def test_the_identity_of_digits_is_the_version_that_they_come_with(monkeypatch):
    place, state = source_identity("digits", "test")
    assert place == "scikit-learn"
    monkeypatch.setattr(sources, "version", lambda name: f"another {name}")
    assert source_identity("digits", "test") == (place, state.replace(version("scikit-learn"), "another scikit-learn"))


def test_the_identity_of_a_named_data_set_is_its_file_or_its_archives(tmp_path, monkeypatch):
    place, state = source_identity("mnist", "test")
    assert place == "archives"
    assert "9fb629c4189551a2d022fa330f9573f3" in state
    monkeypatch.setenv("INPUTAWARE_DATA", str(tmp_path))
    with pytest.raises(DataError) as error:
        source_identity("mnist", "test")
    assert str(error.value) == (
        f"INPUTAWARE_DATA: expected mnist/test.parquet in the folder that it names; found none in {str(tmp_path)!r}; "
        "put the file there, or unset the variable to have the data set downloaded"
    )
    file = write_parquet(tmp_path / "mnist" / "test.parquet", *TWO)
    place, state = source_identity("mnist", "test")
    assert place == str(file.resolve())
    assert str(file.stat().st_mtime_ns) in state


# ---- the real data


@pytest.mark.parametrize(
    ("dataset", "split", "count", "mean"),
    [("mnist", "train", 60_000, 33.318421), ("gtsrb", "test", 12_630, None)],
)
@pytest.mark.usefixtures("real_data")
def test_real_data_are_whole(dataset, split, count, mean):
    data = load_images(dataset, split)
    spec = dataset_spec(dataset)
    assert data.images.shape == (count, *spec.shape)
    assert len(torch.bincount(data.labels)) == spec.classes
    if mean is not None:
        assert abs(data.images.double().mean() - mean) < 1e-6
