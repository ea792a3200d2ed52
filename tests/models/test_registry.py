"""Which classifier a configuration and a data set give."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inputaware.config.datasets import DATASETS
from inputaware.config.fields import ArchitectureName, ModelConfig
from inputaware.config.presets import preset_config
from inputaware.config.record import fields_that_count
from inputaware.data.spec import DatasetSpec, dataset_spec
from inputaware.errors import ConfigError, DataError
from inputaware.models.mnist_cnn import MnistCnn
from inputaware.models.preact_resnet import PreActResNet18
from inputaware.models.registry import architecture_name, build_classifier, head_after, last_convolution


def spec_of(shape: tuple[int, int, int], classes: int = 4) -> DatasetSpec:
    channels = shape[0]
    return DatasetSpec(
        name="case",
        shape=shape,
        classes=classes,
        mean=(0.4,) * channels,
        std=(0.2,) * channels,
        class_names=tuple(map(str, range(classes))),
    )


@pytest.mark.parametrize(
    ("architecture", "shape", "name", "kind"),
    [
        ("auto", (1, 28, 28), "mnist-cnn", MnistCnn),
        ("auto", (3, 32, 32), "preact-resnet18", PreActResNet18),
        ("mnist-cnn", (1, 28, 28), "mnist-cnn", MnistCnn),
        ("preact-resnet18", (1, 28, 28), "preact-resnet18", PreActResNet18),
        ("preact-resnet18", (3, 28, 28), "preact-resnet18", PreActResNet18),
    ],
)
def test_builds_the_architecture(
    architecture: ArchitectureName, shape: tuple[int, int, int], name: str, kind: type[nn.Module]
) -> None:
    config = ModelConfig(architecture=architecture, width=0.05)
    classifier = build_classifier(config, spec_of(shape))
    assert architecture_name(config, spec_of(shape)) == name
    assert type(classifier) is kind
    assert classifier.eval()(torch.rand(2, *shape)).shape == (2, 4)


def test_hands_on_sizes_and_normalization() -> None:
    grey = build_classifier(ModelConfig(hidden_units=33, dropout=0.25), spec_of((1, 28, 28)))
    assert isinstance(grey, MnistCnn)
    assert (grey.hidden.out_features, grey.dropout) == (33, 0.25)
    colour = build_classifier(ModelConfig(width=0.5), spec_of((3, 32, 32)))
    assert isinstance(colour, PreActResNet18)
    assert colour.output.in_features == 256
    for classifier, shape in ((grey, (1, 28, 28)), (colour, (3, 32, 32))):
        found = classifier.normalize(torch.full((1, *shape), 0.8))
        torch.testing.assert_close(found, torch.full_like(found, 2.0))


@pytest.mark.parametrize(
    ("architecture", "shape", "message"),
    [
        (
            "mnist-cnn",
            (3, 32, 32),
            "model.architecture: expected images of shape 1x28x28 for mnist-cnn; found 3x32x32; take preact-resnet18",
        ),
        (
            "auto",
            (1, 32, 32),
            "model.architecture: expected images of shape 1x28x28 for mnist-cnn; found 1x32x32; take preact-resnet18",
        ),
        (
            "preact-resnet18",
            (3, 64, 64),
            "model.architecture: expected images of 1 or 3 channels and 28x28 or 32x32 pixels for preact-resnet18; "
            "found 3x64x64; resize the images",
        ),
        (
            "auto",
            (4, 32, 28),
            "model.architecture: expected images of 1 or 3 channels and 28x28 or 32x32 pixels for preact-resnet18; "
            "found 4x32x28; resize the images",
        ),
    ],
)
def test_refuses_images_that_do_not_fit(
    architecture: ArchitectureName, shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        build_classifier(ModelConfig(architecture=architecture), spec_of(shape))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_refuses_images_of_another_size_than_it_is_made_for(shape: tuple[int, int, int], unchecked: None) -> None:
    classifier = build_classifier(ModelConfig(width=0.05), spec_of(shape)).eval()
    for wrong in ((shape[0], 31, 31), (shape[0], 27, 27), (4 - shape[0], *shape[1:]), shape[1:]):
        with pytest.raises(
            DataError, match=rf"^images: expected a tensor of shape \(batch, {shape[0]}, .*; found \(2, "
        ):
            classifier(torch.rand(2, *wrong))


@pytest.mark.parametrize("dataset", ["mnist", "gtsrb"])
def test_a_classifier_with_its_check_of_shapes_is_exported_and_mapped(dataset: str) -> None:
    spec = dataset_spec(dataset)
    classifier = build_classifier(ModelConfig(width=0.05), spec).eval().requires_grad_(False)
    images = torch.rand(3, *spec.shape)
    program = torch.export.export(classifier, (images,), dynamic_shapes=({0: torch.export.Dim("images")},))
    expected = classifier(images)
    torch.testing.assert_close(program.module()(images), expected)
    each = torch.func.vmap(lambda image: classifier(image[None])[0])(images)
    torch.testing.assert_close(each, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "expected"), [((1, 28, 28), (64, 8, 8)), ((3, 32, 32), (24, 4, 4))])
def test_logits_follow_from_the_last_map_of_features(
    shape: tuple[int, int, int], expected: tuple[int, int, int]
) -> None:
    classifier = build_classifier(ModelConfig(width=0.05), spec_of(shape)).eval()
    maps: list[Tensor] = []
    handle = last_convolution(classifier).register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    with torch.no_grad():
        logits = classifier(torch.rand(2, *shape))
        assert len(maps) == 1
        assert maps[0].shape == (2, *expected)
        if isinstance(classifier, MnistCnn):
            hidden = F.relu(classifier.hidden(F.max_pool2d(F.relu(maps[0]), 2).flatten(1)))
            found = classifier.output(hidden)
        else:
            assert isinstance(classifier, PreActResNet18)
            found = classifier.output(maps[0].flatten(2).mean(2))
        head = head_after(classifier, last_convolution(classifier))
        assert head is not None
        assert torch.equal(head(maps[0]), logits)
    handle.remove()
    torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-6)


def test_the_head_after_another_layer_is_not_known() -> None:
    classifier = build_classifier(ModelConfig(hidden_units=8), spec_of((1, 28, 28)))
    assert head_after(classifier, classifier.get_submodule("first_convolution")) is None
    assert head_after(nn.Sequential(classifier), last_convolution(classifier)) is None


def test_last_map_of_another_network_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^classifier: expected MnistCnn or PreActResNet18; found Linear$"):
        last_convolution(nn.Linear(1, 1))


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_configuration_counts_the_sizes_of_the_classifier_that_is_built(dataset: str) -> None:
    config = preset_config("fast", dataset=dataset)
    sizes = {"mnist-cnn": {"model.hidden_units", "model.dropout"}, "preact-resnet18": {"model.width"}}
    counting = fields_that_count(config).keys() & set.union(*sizes.values())
    assert counting == sizes[architecture_name(config.model, dataset_spec(dataset))]
