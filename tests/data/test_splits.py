import numpy as np
import pytest
import torch

from inputaware.data.splits import split_indices, subset_indices
from inputaware.errors import DataError

# Images of each class; GTSRB is as uneven as this in the real data.
UNEVEN = [210, 2220, 2250, 1410, 1980, 1860, 420, 1440, 1410, 1470, 2010, 1320, 2100, 2160, 780, 630, 420, 1110, 1200]


def labels_of(counts):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(5))]


@pytest.mark.parametrize(
    ("name", "counts", "size"),
    [
        ("mnist", [6000] * 10, 5000),
        ("gtsrb", UNEVEN, 5000),
        ("digits", [142, 146, 142, 146, 145, 145, 145, 143, 139, 144], 144),
        ("some/folder", [100, 300, 57], 45),
        ("some/folder", [40_000, 30_000], 5000),
        ("some/folder", [3, 4, 3], 3),
        ("some/folder", [3, 997], 100),
    ],
)
def test_splits_are_disjoint_whole_exact_and_stratified(name, counts, size):
    labels = labels_of(counts)
    splits = split_indices(labels, name=name)
    parts = (splits.train, splits.validation, splits.defender)
    assert [len(part) for part in parts] == [len(labels) - 2 * size, size, size]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(labels)))
    for part in parts:
        assert bool((part.diff() > 0).all())
        assert len(labels[part].unique()) == len(counts)
    quotas = np.array(counts, np.float64) * size / sum(counts)
    found = np.bincount(labels[splits.validation])
    assert np.array_equal(found, np.bincount(labels[splits.defender]))
    # Where the least share of one image forces nothing, largest remainders stay within one of the quota.
    if quotas.min() >= 1:
        assert np.abs(found - quotas).max() < 1


def test_the_split_is_the_same_every_time_and_follows_the_seed():
    labels = torch.tensor([0] * 50 + [1] * 70)
    first, again = split_indices(labels, name="x"), split_indices(labels, name="x")
    other = split_indices(labels, name="x", seed=1)
    assert torch.equal(first.validation, again.validation)
    assert torch.equal(first.defender, again.defender)
    assert not torch.equal(first.validation, other.validation)
    # Frozen, since a published run must find its own images again with any version of the libraries.
    assert first.validation.tolist() == [2, 10, 11, 28, 41, 58, 74, 75, 93, 100, 104, 113]


@pytest.mark.parametrize(
    ("name", "counts", "message"),
    [
        (
            "x",
            [10, 2, 10],
            "x: expected at least 3 training images of every class, one for each of train, validation and defender; "
            "found 2 of class 1 (b); add images or remove the class",
        ),
        (
            "mnist",
            [600] * 10,
            "mnist: expected at least 10010 training images, 5000 each for validation and defender and one of every "
            "class to train on; found 6000; check that the file is whole",
        ),
        (
            "mnist",
            [4, 10_001],
            "mnist: expected enough training images of class 0 for all three splits; found 4, of which validation "
            "and defender take 2 each; add images",
        ),
    ],
)
def test_too_few_images_are_refused(name, counts, message):
    with pytest.raises(DataError) as error:
        split_indices(labels_of(counts), name=name, class_names=["a", "b", "c"] if name == "x" else ())
    assert str(error.value) == message


@pytest.mark.parametrize("count", [1, 10, 33, 120])
def test_a_subset_has_the_exact_size_and_the_shares_of_the_classes(count):
    labels = labels_of([100, 60, 40])
    available = torch.arange(0, 200, 1)[labels.argsort()][20:140].sort().values
    chosen = subset_indices(labels, available, count)
    assert len(chosen) == count
    assert bool(torch.isin(chosen, available).all())
    assert bool((chosen.diff() > 0).all())
    shares = np.bincount(labels[available], minlength=3) * count / len(available)
    assert np.abs(np.bincount(labels[chosen], minlength=3) - shares).max() < 1
    assert torch.equal(chosen, subset_indices(labels, available, count))


@pytest.mark.parametrize("count", [0, 6])
def test_a_subset_of_more_than_there_is_is_refused(count):
    with pytest.raises(DataError) as error:
        subset_indices(torch.zeros(9, dtype=torch.int64), torch.arange(5), count)
    assert str(error.value) == f"subset: expected between 1 and 5 images, which are there; found {count}"
