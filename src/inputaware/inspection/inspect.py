"""A run looked at: galleries and heat maps of a few images, and how much of the heat lies on triggers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from inputaware.attacks.base import Backdoor
from inputaware.data.loader import to_pixels
from inputaware.data.splits import subset_indices
from inputaware.evaluation.metrics import mean_over
from inputaware.evaluation.prediction import probabilities
from inputaware.figures.pictures import enlarge, grid, show_heat, show_pixels, show_residuals
from inputaware.inspection.cross_trigger import choose_of_each, cross_triggers
from inputaware.inspection.grad_cam import concentration, grad_cam, heat_auroc, heat_share
from inputaware.inspection.samples import choose_images, named_images

__all__ = ["Inspection", "inspect_classifier"]

_MEASURED = 1000
"""Images over which the numbers are averaged, where there are as many."""
_CROSSED = 10
"""Most images whose triggers are laid over one another: their number grows with its square."""
_CELL = 112
"""About how many pixels a picture in a grid is wide."""
_GAP = 6


@dataclass(frozen=True)
class Inspection:
    """What was seen.

    Attributes:
        record: what ``inspection.json`` holds.
        gallery: the arrays of ``gallery.npz``.
        grad_cam: the arrays of ``grad_cam.npz``.
        cross_trigger: the arrays of ``cross_trigger.npz``; none for a clean model.
        pictures: grids of bytes, by name.
    """

    record: dict[str, Any]
    gallery: dict[str, NDArray[Any]]
    grad_cam: dict[str, NDArray[Any]]
    cross_trigger: dict[str, NDArray[Any]] | None
    pictures: dict[str, UInt8[np.ndarray, "high wide 3"]]


def inspect_classifier(
    classifier: nn.Module,
    layer: nn.Module,
    backdoor: Backdoor | None,
    images: UInt8[Tensor, "batch channel height width"],
    labels: Int64[Tensor, " batch"],
    class_names: tuple[str, ...],
    *,
    each: int = 1,
    indices: Sequence[int] | None = None,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> Inspection:
    """Return samples, heat maps, and numbers that say whether the heat lies on the triggers.

    Samples are drawn at random from each class, unless they are named. The numbers are means over up to 1,000 images,
    drawn in proportion to the classes. A heat map explains the class that the classifier predicts for that very image.

    Args:
        classifier: maps pixels in [0, 1] to logits.
        layer: the module whose output is its last map of features.
        backdoor: how to apply the trigger; none for a clean model.
        images: 8-bit images.
        labels: their true labels.
        class_names: name of each class, by label.
        each: samples of each class.
        indices: the samples, in this order, in place of drawn ones.
        seed: of both draws.
        progress: told the share of the work that is done.

    Raises:
        ConfigError: fewer than one sample of each class is asked for, or more than there are, or indices are none of
            images, or not each of another one.
    """
    drawn = choose_images(labels, each, seed) if indices is None else named_images(indices, len(labels))
    chosen = drawn.to(labels.device)
    measured = subset_indices(labels, torch.arange(len(labels)), min(_MEASURED, len(labels)), seed).to(labels.device)
    samples, sample_labels = to_pixels(images[chosen]), labels[chosen]
    clean = probabilities(classifier, samples)
    clean_heat = grad_cam(classifier, layer, samples, clean.argmax(1))
    progress(0.1)
    arrays = _to_numpy({"index": chosen, "label": sample_labels})
    heat_arrays = arrays | _to_numpy({"clean": clean_heat})
    arrays |= _to_numpy({"image": samples, "clean_probabilities": clean})
    shown, factor = show_pixels(arrays["image"]), max(1, round(_CELL / images.shape[-1]))
    cells, columns = [shown], [shown, show_heat(heat_arrays["clean"], shown)]
    heat_numbers = crossed = cross_numbers = None
    if backdoor is not None:
        triggered, triggered_heat = _triggered(classifier, layer, backdoor, samples, sample_labels)
        arrays |= triggered
        heat_arrays |= triggered_heat
        shown_poisoned = show_pixels(arrays["poisoned"])
        cells += [show_pixels(arrays["mask"]), show_pixels(arrays["pattern"])]
        cells += [shown_poisoned, show_residuals(arrays["residual"])]
        columns += [shown_poisoned, show_heat(heat_arrays["backdoor"], shown_poisoned)]
        first = torch.arange(len(chosen))[:_CROSSED]
        places = (choose_of_each(sample_labels, _CROSSED) if indices is None else first).to(labels.device)
        crossed, cross_numbers = _crossed(classifier, backdoor, samples[places], sample_labels[places], chosen[places])
        heat_numbers, per_image = _heat_on_triggers(
            classifier, layer, backdoor, to_pixels(images[measured]), labels[measured], progress
        )
        heat_arrays |= {"measured_index": measured.cpu().numpy(), **per_image}
    pictures = {
        name: grid([enlarge(cell, factor) for cell in row], _GAP)
        for name, row in (("gallery", cells), ("grad_cam", columns))
    }
    progress(1.0)
    record = {
        "seed": seed,
        "images_of_each_class": each if indices is None else None,
        "indices": None if indices is None else chosen.tolist(),
        "test_images": len(labels),
        "gallery_columns": ["clean"] if backdoor is None else ["clean", "mask", "pattern", "backdoor", "residual"],
        "grad_cam_columns": ["clean", "heat"] + ([] if backdoor is None else ["backdoor", "heat"]),
        "pixels_for_a_pixel": factor,
        "residual_scale": "0.5 + (backdoor - clean) / 2",
        "heat_scale": "each map over its own maximum",
        "feature_map": list(_map_size(layer, classifier, samples[:1])),
        "heat_on_trigger": heat_numbers,
        "cross_trigger": cross_numbers,
        "samples": _rows(arrays, class_names),
    }
    return Inspection(record, arrays, heat_arrays, crossed, pictures)


def _triggered(
    classifier: nn.Module,
    layer: nn.Module,
    backdoor: Backdoor,
    images: Float[Tensor, "image channel height width"],
    labels: Int64[Tensor, " image"],
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return what gallery and heat maps hold of the images with their triggers."""
    found = backdoor.poison(images, labels)
    said = probabilities(classifier, found.images)
    gallery = {
        "mask": found.masks,
        "pattern": found.patterns,
        "poisoned": found.images,
        "residual": found.images - images,
        "target": found.targets,
        "backdoor_probabilities": said,
    }
    heat = grad_cam(classifier, layer, found.images, said.argmax(1))
    return _to_numpy(gallery), _to_numpy({"backdoor": heat, "mask": found.masks[:, 0]})


def _rows(arrays: Mapping[str, NDArray[Any]], class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return what each sample is and what the classifier says of it, from the arrays of the gallery."""
    poisoned, targets = arrays.get("backdoor_probabilities"), arrays.get("target")
    return [
        {
            "index": index,
            "label": label,
            "class": class_names[label],
            "clean": _said(arrays["clean_probabilities"][place], class_names),
            "backdoor": None if poisoned is None else _said(poisoned[place], class_names),
            "target": None if targets is None else int(targets[place]),
        }
        for place, (index, label) in enumerate(zip(arrays["index"].tolist(), arrays["label"].tolist(), strict=True))
    ]


def _crossed(
    classifier: nn.Module,
    backdoor: Backdoor,
    images: Float[Tensor, "image channel height width"],
    labels: Int64[Tensor, " image"],
    indices: Int64[Tensor, " image"],
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the images with one another's triggers and what the classifier says of them, and how often it errs."""
    crossed, targets = cross_triggers(backdoor, images), backdoor.targets(labels)
    said = probabilities(classifier, crossed.flatten(0, 1)).view(*crossed.shape[:2], -1)
    predicted = said.argmax(2)
    own = torch.eye(len(images), dtype=torch.bool, device=labels.device)
    # An image that is already of the class that the attacker wants shows nothing.
    hits, kept, wanted = predicted == targets, predicted == labels, (labels != targets).expand_as(own)
    numbers = {
        "images": len(images),
        "own_trigger_gets_target": mean_over(hits, own & wanted),
        "other_trigger_gets_target": mean_over(hits, ~own & wanted),
        "other_trigger_keeps_label": mean_over(kept, ~own),
    }
    arrays = {
        "index": indices,
        "label": labels,
        "target": targets,
        "poisoned": crossed,
        "probabilities": said,
    }
    return _to_numpy(arrays), numbers


def _to_numpy(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def _heat_on_triggers(
    classifier: nn.Module,
    layer: nn.Module,
    backdoor: Backdoor,
    images: Float[Tensor, "batch channel height width"],
    labels: Int64[Tensor, " batch"],
    progress: Callable[[float], None],
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return how the heat of triggered and of clean images lies on the triggers' masks: means, and each image's."""
    poisoned = backdoor.poison(images, labels)
    # The numbers are computed in float64 on the CPU, for not every device has it.
    masks = poisoned.masks[:, 0].cpu()
    inside = (masks > 0.5).flatten(1)
    numbers: dict[str, Any] = {
        "images": len(images),
        "mask_area": float(masks.double().mean()),
        # With no pixel inside or none outside there is no AUROC.
        "without_mask": int((~inside.any(1) | inside.all(1)).sum()),
    }
    arrays: dict[str, NDArray[Any]] = {}
    for done, (name, shown) in enumerate((("backdoor", poisoned.images), ("clean", images))):
        predicted = probabilities(classifier, shown).argmax(1)
        heat = grad_cam(classifier, layer, shown, predicted).cpu()
        found = {
            "heat_share": heat_share(heat, masks),
            "concentration": concentration(heat, masks),
            "auroc": heat_auroc(heat, masks),
        }
        numbers[name] = {
            **{key: _finite_mean(values) for key, values in found.items()},
            "without_heat": int((heat.amax((1, 2)) == 0).sum()),
        }
        arrays |= {f"{name}_{key}": values.numpy() for key, values in found.items()}
        progress(0.55 + 0.4 * done)
    return numbers, arrays


def _finite_mean(values: Float64[Tensor, " batch"]) -> float | None:
    """Return the mean over the images for which there is a number; none where there is none."""
    mean = float(values.nanmean())
    return None if math.isnan(mean) else mean


def _said(shares: Float[np.ndarray, " classes"], class_names: tuple[str, ...]) -> dict[str, Any]:
    """Return the predicted class with its name and probability."""
    label = int(shares.argmax())
    return {
        "prediction": label,
        "class": class_names[label],
        "probability": round(float(shares[label]), 4),
    }


def _map_size(layer: nn.Module, classifier: nn.Module, images: Tensor) -> tuple[int, int]:
    """Return rows and columns of the map of features."""
    sizes: list[tuple[int, int]] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[2:])))
    try:
        probabilities(classifier, images)
    finally:
        handle.remove()
    return sizes[0]
