import math
import subprocess
import sys

import pytest

from inputaware.data.spec import dataset_spec, spec_of_images
from inputaware.errors import DataError


@pytest.mark.parametrize(
    ("name", "shape", "classes", "mean", "std"),
    [
        ("digits", (1, 28, 28), 10, (0.5,), (0.5,)),
        ("mnist", (1, 28, 28), 10, (0.5,), (0.5,)),
        ("cifar10", (3, 32, 32), 10, (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
        ("gtsrb", (3, 32, 32), 43, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ],
)
def test_named_data_sets_have_the_papers_form(name, shape, classes, mean, std):
    spec = dataset_spec(name)
    assert (spec.name, spec.shape, spec.classes, spec.mean, spec.std) == (name, shape, classes, mean, std)
    assert len(set(spec.class_names)) == classes


@pytest.mark.parametrize(
    ("name", "label", "class_name"),
    [("mnist", 7, "7"), ("cifar10", 9, "truck"), ("gtsrb", 14, "stop"), ("gtsrb", 40, "roundabout")],
)
def test_class_names_stand_at_their_label(name, label, class_name):
    assert dataset_spec(name).class_names[label] == class_name


def test_an_unknown_name_is_refused():
    with pytest.raises(DataError) as error:
        dataset_spec("svhn")
    assert str(error.value) == "dataset: expected one of digits, mnist, cifar10, gtsrb; found 'svhn'"


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32)])
def test_own_images_take_the_shape_of_their_kind(channels, side):
    spec = spec_of_images("folder", channels, ["a", "b"])
    assert spec.shape == (channels, side, side)
    assert spec.classes == 2
    assert spec.class_names == ("a", "b")
    normalised = [(edge - mean) / std for edge in (0, 1) for mean, std in zip(spec.mean, spec.std, strict=True)]
    assert all(math.isclose(abs(value), 1) for value in normalised)
    assert len(normalised) == 2 * channels


def test_the_specification_needs_no_torch():
    code = "import sys, inputaware.data.spec; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
