"""Classifiers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from inputaware.config.fields import ModelConfig
from inputaware.data.spec import DatasetSpec
from inputaware.errors import ConfigError
from inputaware.models.mnist_cnn import MnistCnn
from inputaware.models.normalize import Normalize
from inputaware.models.preact_resnet import PreActResNet18

__all__ = ["architecture_name", "build_classifier", "head_after", "last_convolution", "last_map", "map_before_last"]


def architecture_name(config: ModelConfig, spec: DatasetSpec) -> Literal["mnist-cnn", "preact-resnet18"]:
    """Return the architecture that a configuration means: ``auto`` depends on whether the images are grey."""
    if config.architecture == "auto":
        return "mnist-cnn" if spec.shape[0] == 1 else "preact-resnet18"
    return config.architecture


def build_classifier(config: ModelConfig, spec: DatasetSpec) -> nn.Module:
    """Return a classifier with fresh weights that reads pixels in [0, 1] and returns logits; it refuses other shapes.

    Args:
        config: architecture and its sizes.
        spec: the data set, for the images' shape, the number of classes and the normalisation.

    Raises:
        ConfigError: the architecture does not fit the images.
    """
    name = architecture_name(config, spec)
    channels, height, width = spec.shape
    found = f"{channels}x{height}x{width}"
    normalize = Normalize(spec.mean, spec.std, spec.shape)
    if name == "mnist-cnn":
        if spec.shape != (1, 28, 28):
            raise ConfigError(
                f"model.architecture: expected images of shape 1x28x28 for mnist-cnn; found {found}; "
                "take preact-resnet18"
            )
        return MnistCnn(spec.classes, hidden_units=config.hidden_units, dropout=config.dropout, normalize=normalize)
    if channels not in (1, 3) or height != width or height not in (28, 32):
        raise ConfigError(
            "model.architecture: expected images of 1 or 3 channels and 28x28 or 32x32 pixels for preact-resnet18; "
            f"found {found}; resize the images"
        )
    return PreActResNet18(spec.classes, channels=channels, width=config.width, normalize=normalize)


def head_after(classifier: nn.Module, layer: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return what computes the logits from a layer's output alone; none where it is not known.

    Args:
        classifier: any network.
        layer: one of its modules; known is what follows :func:`last_convolution` of a network of this package.
    """
    if isinstance(classifier, MnistCnn | PreActResNet18) and layer is last_convolution(classifier):
        return classifier.head
    return None


def last_convolution(classifier: nn.Module) -> nn.Module:
    """Return the module whose output is the classifier's last map of features.

    Args:
        classifier: a network of :func:`build_classifier`.

    Returns:
        For mnist-cnn its second convolution. For preact-resnet18 its last block, so that the map holds the
        shortcut too, as the linear layer sees it.

    Raises:
        TypeError: the network is of another kind.
    """
    if isinstance(classifier, MnistCnn):
        return classifier.second_convolution
    if isinstance(classifier, PreActResNet18):
        return list(classifier.groups[-1].children())[-1]
    raise TypeError(f"classifier: expected MnistCnn or PreActResNet18; found {type(classifier).__name__}")


def last_map(classifier: nn.Module) -> nn.Module:
    """Return the module whose output, in evaluation mode, is what the rest of the classifier sees of the last map.

    Args:
        classifier: a network of :func:`build_classifier`.

    Returns:
        For mnist-cnn the ReLU after its second convolution, for what is negative before it reaches no logit. For
        preact-resnet18 its last block, as :func:`last_convolution`.

    Raises:
        TypeError: the network is of another kind.
    """
    return classifier.second_pool.relu if isinstance(classifier, MnistCnn) else last_convolution(classifier)


def map_before_last(classifier: nn.Module) -> nn.Module | None:
    """Return the module whose output is the map of features before the last one; none where it is not known.

    Args:
        classifier: any network; of this package's, for mnist-cnn the first pooling, for preact-resnet18 the last group
            of blocks but one.
    """
    if isinstance(classifier, MnistCnn):
        return classifier.first_pool
    if isinstance(classifier, PreActResNet18):
        return classifier.groups[-2]
    return None
