"""Whether a trigger works on other images the more, the more they resemble its own."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from inputaware.attacks.base import Poisoned
from inputaware.attacks.trigger import apply_trigger
from inputaware.data.loader import to_pixels
from inputaware.data.splits import subset_indices
from inputaware.evaluation.metrics import mean_over, rms_distance
from inputaware.evaluation.prediction import predict

__all__ = ["nearest_images", "rates_by_distance", "rates_on_nearest", "reuse_rates"]

_COMPARED = 2000
"""Images among which each one's nearest is sought, where there are as many: distances grow with their square."""

_PARTS = 10
"""Parts into which pairs are divided by their distance."""


def nearest_images(images: UInt8[Tensor, "batch channel height width"]) -> Int64[Tensor, " batch"]:
    """Return for each image the other one with the least Euclidean distance; of several the first.

    On a CPU and in whole numbers, so that it is the same image on every machine.

    Args:
        images: two or more, as bytes.
    """
    pixels = images.cpu().flatten(1).double()
    squares = pixels.square().sum(1)
    distances = squares[:, None] + squares - 2 * (pixels @ pixels.t())
    distances.fill_diagonal_(float("inf"))
    return distances.argmin(1).to(images.device)


def reuse_rates(
    predicted: Int64[Tensor, " pair"], labels: Int64[Tensor, " pair"], targets: Int64[Tensor, " pair"]
) -> dict[str, float | None]:
    """Return how often images with another image's trigger keep their label, and get what the attacker wants for them.

    Args:
        predicted: the classes of these images.
        labels: their true classes.
        targets: the classes that the attacker wants for them.

    Returns:
        ``keeps_label`` over all images, as cross accuracy is, and ``gets_target`` over those that are not of that class
        already; fractions in [0, 1], none where there are no such images.
    """
    return {
        "keeps_label": mean_over(predicted == labels),
        "gets_target": mean_over(predicted == targets, labels != targets),
    }


def rates_on_nearest(
    classifier: nn.Module,
    images: UInt8[Tensor, "batch channel height width"],
    labels: Int64[Tensor, " batch"],
    poisoned: Poisoned,
) -> dict[str, Any]:
    """Return what triggers do on the images that resemble their own most; both are among up to 2,000 of all.

    Args:
        classifier: maps pixels in [0, 1] to logits.
        images: 8-bit images, two or more.
        labels: their true labels.
        poisoned: their triggers.

    Returns:
        How many ``images`` these are, the mean ``distance``, the share of pairs of the ``same_class``, and the rates of
        :func:`reuse_rates`.
    """
    count = min(_COMPARED, len(labels))
    chosen = subset_indices(labels, torch.arange(len(labels)), count).to(labels.device)
    partner = chosen[nearest_images(images[chosen])]
    pixels = to_pixels(images[chosen])
    crossed = apply_trigger(pixels, poisoned.masks[partner], poisoned.patterns[partner])
    return {
        "images": count,
        "distance": float(rms_distance(pixels, to_pixels(images[partner])).cpu().mean(dtype=torch.float64)),
        "same_class": mean_over(labels[chosen] == labels[partner]),
        **reuse_rates(predict(classifier, crossed), labels[chosen], poisoned.targets[chosen]),
    }


def rates_by_distance(
    distances: Float[Tensor, " pair"],
    predicted: Int64[Tensor, " pair"],
    labels: Int64[Tensor, " pair"],
    targets: Int64[Tensor, " pair"],
) -> list[dict[str, Any]]:
    """Return the rates of :func:`reuse_rates` for each tenth of the pairs, the most similar images first.

    Args:
        distances: between the two images of each pair.
        predicted: the class of the first image with the trigger of the second.
        labels: its true class.
        targets: the class that the attacker wants for it.

    Returns:
        For each part ``pairs``, how many these are, their mean ``distance``, and the rates.
    """
    order = distances.cpu().argsort(stable=True).to(distances.device)
    return [
        {
            "pairs": len(part),
            "distance": float(distances[part].cpu().mean(dtype=torch.float64)),
            **reuse_rates(predicted[part], labels[part], targets[part]),
        }
        for part in order.tensor_split(_PARTS)
        if len(part)
    ]
