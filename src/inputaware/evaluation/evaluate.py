"""The paper's three tests, with the numbers that the literature also reports."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from inputaware.attacks.base import Backdoor
from inputaware.attacks.trigger import apply_trigger
from inputaware.data.loader import derangement, to_pixels
from inputaware.evaluation.metrics import (
    SSIM_WINDOW,
    attack_rates,
    class_rates,
    mean_over,
    peak_signal_to_noise,
    rms_distance,
    round_to_8_bits,
    structural_similarity,
)
from inputaware.evaluation.prediction import predict
from inputaware.evaluation.reuse import rates_by_distance, rates_on_nearest
from inputaware.models.precision import full_float32

__all__ = ["evaluate", "three_accuracies"]

_PAIRINGS = 3
"""Cross-trigger pairings that are averaged."""


def _pairings(count: int, number: int, device: torch.device) -> list[Tensor]:
    """Return partners for the cross-trigger test: the same for every run on the same set."""
    generator = torch.Generator().manual_seed(0)
    return [derangement(count, generator).to(device) for _ in range(number)]


def _can_be_crossed(backdoor: Backdoor, masks: Tensor) -> bool:
    """Return whether another image's trigger is a notion: no if all share one, or if triggers are whole images.

    Where a mask is 1 everywhere, as of a warp, the trigger of another image is that image, changed. Nothing is left of
    the image that it lies on, whose label nobody could tell.
    """
    return not backdoor.universal and not bool((masks >= 1).all())


@full_float32()
def three_accuracies(
    classifier: nn.Module,
    backdoor: Backdoor | None,
    images: UInt8[Tensor, "batch channel height width"],
    labels: Int64[Tensor, " batch"],
) -> dict[str, float | None]:
    """Return clean accuracy, attack success rate and cross-trigger accuracy with one pairing.

    This is what is watched during training; :func:`evaluate` gives the full account.

    Args:
        classifier: maps pixels in [0, 1] to logits.
        backdoor: how to apply the trigger; none for a clean model.
        images: 8-bit images.
        labels: their true labels.
    """
    pixels = to_pixels(images)
    clean = mean_over(predict(classifier, pixels) == labels)
    if backdoor is None:
        return {"clean_accuracy": clean, "attack_success_rate": None, "cross_accuracy": None}
    poisoned = backdoor.poison(pixels, labels)
    attack = mean_over(predict(classifier, poisoned.images) == poisoned.targets)
    cross = None
    if len(labels) > 1 and _can_be_crossed(backdoor, poisoned.masks):
        partner = _pairings(len(labels), 1, labels.device)[0]
        crossed = apply_trigger(pixels, poisoned.masks[partner], poisoned.patterns[partner])
        cross = mean_over(predict(classifier, crossed) == labels)
    return {"clean_accuracy": clean, "attack_success_rate": attack, "cross_accuracy": cross}


@full_float32()
def evaluate(
    classifier: nn.Module,
    backdoor: Backdoor | None,
    images: UInt8[Tensor, "batch channel height width"],
    labels: Int64[Tensor, " batch"],
    classes: int,
    *,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """Return every number of ``evaluation.json``.

    Each generator runs once over the images; masks and patterns serve the attack test, all pairings of
    the cross-trigger test, the 8-bit tests and the trigger's size. Everything is computed in float32.

    Args:
        classifier: maps pixels in [0, 1] to logits.
        backdoor: how to apply the trigger; none for a clean model.
        images: 8-bit images.
        labels: their true labels.
        classes: how many classes there are.
        progress: told the share of the work that is done.

    Returns:
        Rates as fractions in [0, 1]; none where a notion does not apply.
    """
    pixels = to_pixels(images)
    total = 1 if backdoor is None else 4 if backdoor.universal else 5 + 2 * _PAIRINGS
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done / total)

    clean_hits = predict(classifier, pixels) == labels
    advance()
    per_class: dict[str, Any] = {
        "images": [int((labels == index).sum()) for index in range(classes)],
        "clean_accuracy": class_rates(clean_hits, labels, classes),
    }
    result: dict[str, Any] = {
        "test_images": len(labels),
        "clean_accuracy": mean_over(clean_hits),
        # Clean images are 8-bit already, so rounding leaves them as they are.
        "clean_accuracy_8bit": mean_over(clean_hits),
        **_attack_rates(None, None, labels, ""),
        **_attack_rates(None, None, labels, "_8bit"),
        **_cross_rates([], ""),
        **_cross_rates([], "_8bit"),
        "reuse": None,
        "trigger": None,
        "per_class": per_class,
    }
    if backdoor is not None:
        poisoned = backdoor.poison(pixels, labels)
        advance()
        predicted = predict(classifier, poisoned.images)
        advance()
        rounded = predict(classifier, round_to_8_bits(poisoned.images))
        advance()
        result |= _attack_rates(predicted, poisoned.targets, labels, "")
        result |= _attack_rates(rounded, poisoned.targets, labels, "_8bit")
        per_class["attack_success_rate"] = class_rates(predicted == poisoned.targets, labels, classes)
        per_class["robust_accuracy"] = class_rates(predicted == labels, labels, classes)
        pairings = _pairings(len(labels), _PAIRINGS, labels.device) if len(labels) > 1 else []
        if _can_be_crossed(backdoor, poisoned.masks):
            said: dict[str, list[Tensor]] = {"": [], "_8bit": []}
            for partner in pairings:
                crossed = apply_trigger(pixels, poisoned.masks[partner], poisoned.patterns[partner])
                said[""].append(predict(classifier, crossed))
                advance()
                said["_8bit"].append(predict(classifier, round_to_8_bits(crossed)))
                advance()
            for suffix, found in said.items():
                result |= _cross_rates([int((each == labels).sum()) / len(labels) for each in found], suffix)
            if pairings:
                every, repeated = torch.cat(said[""]), labels.repeat(len(pairings))
                per_class["cross_accuracy"] = class_rates(every == repeated, repeated, classes)
                distances = torch.cat([rms_distance(pixels, pixels[partner]) for partner in pairings])
                result["reuse"] = {
                    "nearest": rates_on_nearest(classifier, images, labels, poisoned),
                    "by_distance": rates_by_distance(
                        distances, every, repeated, poisoned.targets.repeat(len(pairings))
                    ),
                }
        result["trigger"] = _trigger_size(pixels, poisoned.images, poisoned.masks, poisoned.patterns, pairings)
    progress(1.0)
    return result


def _attack_rates(
    predicted: Tensor | None, targets: Tensor | None, labels: Tensor, suffix: str
) -> dict[str, float | None]:
    """Return attack success and robust accuracy by both conventions; none of them for a clean model."""
    names = ("attack_success_rate", "robust_accuracy")
    if predicted is None or targets is None:
        return {f"{name}{part}{suffix}": None for name in names for part in ("", "_excluding_target")}
    return {f"{name}{suffix}": rate for name, rate in attack_rates(predicted, targets, labels).items()}


def _cross_rates(accuracies: list[float], suffix: str) -> dict[str, Any]:
    """Return the mean over pairings, its spread, and each pairing's accuracy."""
    return {
        f"cross_accuracy{suffix}": statistics.fmean(accuracies) if accuracies else None,
        f"cross_accuracy_std{suffix}": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        f"cross_accuracy_by_pairing{suffix}": accuracies or None,
    }


def _trigger_size(
    images: Tensor, poisoned: Tensor, masks: Tensor, patterns: Tensor, pairings: list[Tensor]
) -> dict[str, float | None]:
    """Return how large triggers are and how much they differ from image to image, in pixels of [0, 1]."""

    def over_pairings(values: Tensor) -> float | None:
        return (
            float(torch.stack([rms_distance(values, values[partner]).mean() for partner in pairings]).mean())
            if pairings
            else None
        )

    return {
        "mask_area": float(masks.cpu().mean(dtype=torch.float64)),
        "mask_distance": over_pairings(masks),
        "pattern_distance": over_pairings(patterns),
        "l2": float((poisoned - images).flatten(1).norm(dim=1).mean()),
        "psnr_db": float(peak_signal_to_noise(images, poisoned).mean()),
        "ssim": None if min(images.shape[2:]) < SSIM_WINDOW else float(structural_similarity(images, poisoned).mean()),
    }
