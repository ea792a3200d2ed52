"""A suspect's last map of features, which some defenses read or change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inputaware.defenses.base import Suspect
from inputaware.errors import DefenseError
from inputaware.models.precision import full_float32

__all__ = ["changed_output", "ignores_negative", "known_layer", "run_with_features"]


@contextmanager
def changed_output(layer: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let a layer return something else in place of its output."""
    handle = layer.register_forward_hook(lambda module, inputs, output: change(output))
    try:
        yield
    finally:
        handle.remove()


def ignores_negative(suspect: Suspect, images: Float[Tensor, "batch channel height width"]) -> bool:
    """Return whether a chunk's logits stay the same, bit for bit, where negative values of the last map become zero.

    So they do where ReLU comes next, and where there are none.

    Args:
        suspect: the classifier, in evaluation mode, and its feature layer.
        images: pixels in [0, 1], no more than go through the classifier at once.
    """
    with torch.no_grad(), full_float32():
        whole = suspect.classifier(images)
        with changed_output(known_layer(suspect), torch.relu):
            return torch.equal(whole, suspect.classifier(images))


def known_layer(suspect: Suspect, defense: str = "the defenses that need it") -> nn.Module:
    """Return the suspect's feature layer.

    Args:
        suspect: the classifier.
        defense: what is to be left out where it is not known, as an error names it.

    Raises:
        DefenseError: it is not known.
    """
    if suspect.feature_layer is None:
        raise DefenseError(
            "suspect: expected a feature layer, the module whose output is the last map of features; found none; "
            f"give it as feature_layer, or leave {defense} out"
        )
    return suspect.feature_layer


def run_with_features(
    suspect: Suspect, images: Float[Tensor, "batch channel height width"]
) -> tuple[Float[Tensor, "batch features rows columns"], Tensor]:
    """Return the map of features of a chunk of images, and what the classifier returns of them, in one pass.

    Args:
        suspect: the classifier, in evaluation mode, and its feature layer.
        images: pixels in [0, 1], no more than go through the classifier at once.

    Raises:
        DefenseError: the feature layer is unknown, or its output is no map of features.
    """
    found: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        # An activation that comes next may work in place.
        found.append(output.clone() if isinstance(output, Tensor) else output)
        return output

    with torch.no_grad(), full_float32(), changed_output(known_layer(suspect), keep):
        returned = suspect.classifier(images)
    if len(found) != 1 or not isinstance(found[0], Tensor) or found[0].ndim != 4:
        raise DefenseError(
            "suspect: expected a feature layer that is run once and returns a map (batch, channel, height, width); "
            + (f"found {len(found)} runs" if len(found) != 1 else f"found shape {tuple(found[0].shape)}")
            + "; give the last convolution or the block around it"
        )
    return found[0], returned
