"""Image regularization: smoothing and shrinking the colour depth (paper, table 4; Xu et al. 2018).

A trigger that lives in fine detail might not survive a filter that the classifier survives. Two sets of filters are
measured, the ones of the authors' release and those of feature squeezing, each before and after the trigger is applied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from inputaware.data.loader import in_chunks
from inputaware.defenses.base import CleanData, Defense, Examination, Finding, Progress, Score, Suspect, Trial
from inputaware.defenses.settings import ImageRegularizationSettings
from inputaware.evaluation.filters import AFFORDABLE, FILTER_SETS, best_filter
from inputaware.evaluation.metrics import attack_rates, mean_over
from inputaware.evaluation.words import in_percent, success_in_words

__all__ = ["ImageRegularization", "floor_depth", "gaussian_blur", "median_filter", "round_depth"]

_TAPS = {3: (1, 2, 1), 5: (1, 4, 6, 4, 1), 7: (2, 7, 14, 18, 14, 7, 2)}
"""OpenCV's Gaussian windows where no standard deviation is given."""

_Filter = Callable[[Tensor], Tensor]


def gaussian_blur(
    images: Float[Tensor, "batch channel height width"], side: int
) -> Float[Tensor, "batch channel height width"]:
    """Return images smoothed as the authors' release does: OpenCV's ``GaussianBlur`` of 8-bit images.

    A separable window, ``[1 2 1] / 4`` for 3 pixels and ``[1 4 6 4 1] / 16`` for 5. These are OpenCV's where it is to
    choose the standard deviation itself, as the release lets it; for small windows it has a table, whose numbers
    are not those of its formula ``0.3 ((k - 1) / 2 - 1) + 0.8``. The border is mirrored without repeating its
    pixels. Halves are rounded up.

    Args:
        images: pixels in [0, 1]; rounded to 8 bits first.
        side: side of the window in pixels, 3, 5 or 7.

    Returns:
        Pixels in [0, 1] that an 8-bit file can hold.
    """
    taps = _TAPS[side]
    values = _padded(_bytes(images), side // 2, repeat=False)
    height, width = images.shape[2:]
    # Sums of whole numbers, exact in float32 on every device.
    values = torch.stack([tap * values[:, :, start : start + height] for start, tap in enumerate(taps)]).sum(0)
    values = torch.stack([tap * values[:, :, :, start : start + width] for start, tap in enumerate(taps)]).sum(0)
    return (values / float(sum(taps) ** 2) + 0.5).floor() / 255


def floor_depth(
    images: Float[Tensor, "batch channel height width"], bits: int
) -> Float[Tensor, "batch channel height width"]:
    """Return images with fewer colours as the authors' release does: ``floor(b / t) t``.

    ``b`` is a byte and ``t = 2^(8 - bits)``. White becomes darker: with one bit it is 128/255.

    Args:
        images: pixels in [0, 1]; rounded to 8 bits first.
        bits: bits a channel, 1 to 8.
    """
    step = float(2 ** (8 - bits))
    return (_bytes(images) / step).floor() * step / 255


def median_filter(
    images: Float[Tensor, "batch channel height width"], side: int
) -> Float[Tensor, "batch channel height width"]:
    """Return images smoothed as feature squeezing does (Xu et al. 2018, section III-B): each window's median.

    The border is mirrored with its pixels repeated.

    Args:
        images: pixels in [0, 1]; rounded to 8 bits first.
        side: side of the window in pixels, an odd number.
    """
    values = _padded(_bytes(images), side // 2, repeat=True)
    windows = values.unfold(2, side, 1).unfold(3, side, 1).flatten(4)
    return windows.median(-1).values / 255


def round_depth(
    images: Float[Tensor, "batch channel height width"], bits: int
) -> Float[Tensor, "batch channel height width"]:
    """Return images with fewer colours as feature squeezing does (Xu et al. 2018, section III-A): ``round(x l) / l``.

    There are ``2^bits`` colours from black to white, ``l = 2^bits - 1``.

    Args:
        images: pixels in [0, 1]; rounded to 8 bits first.
        bits: bits a channel, 1 to 8.
    """
    levels = float(2**bits - 1)
    return (_bytes(images) / 255 * levels).round() / levels


def _bytes(images: Tensor) -> Tensor:
    """Return whole numbers from 0 to 255: a defender gets images as files hold them."""
    return (images * 255).round()


def _padded(values: Tensor, margin: int, *, repeat: bool) -> Tensor:
    """Return images with a mirrored border; ``repeat`` has the outermost pixels twice."""
    for dimension in (2, 3):
        length = values.shape[dimension]
        places = torch.arange(-margin, length + margin, device=values.device)
        below, above = (-1 - places, 2 * length - 1 - places) if repeat else (-places, 2 * length - 2 - places)
        places = torch.where(places < 0, below, torch.where(places >= length, above, places))
        values = values.index_select(dimension, places)
    return values


class ImageRegularization(Defense):
    """Every filter's price in clean accuracy, and what it leaves of the attack.

    Deviation: the authors' release filters the image before the trigger is made, so it never asks whether a filter
    destroys a trigger. Both orders are measured: ``filter_then_trigger`` is theirs and table 4's,
    ``trigger_then_filter`` is what a defender can do.
    """

    name = "image-regularization"
    settings: ImageRegularizationSettings

    def examine(self, suspect: Suspect, clean: CleanData, seed: int, progress: Progress) -> Examination:
        """Return the clean accuracy under every filter; no verdict, for a filter judges no model."""
        original = mean_over(_predicted(suspect, clean.pixels) == clean.labels)
        scores: dict[str, Any] = {"original": {"clean_accuracy": original}}
        filters = self._filters()
        for done, (kind, label, regularize) in enumerate(filters):
            accuracy = mean_over(_predicted(suspect, clean.pixels, regularize) == clean.labels)
            scores.setdefault(kind, {})[label] = {"clean_accuracy": accuracy}
            progress((done + 1) / len(filters))
        lowest = min(
            (rates["clean_accuracy"], f"{kind}, {label}")
            for kind, rows in scores.items()
            if kind != "original"
            for label, rates in rows.items()
        )
        sentence = (
            f"On the defender's images clean accuracy is {in_percent(original, 1)} without a filter and "
            f"{in_percent(lowest[0], 1)} under the filter that costs most ({lowest[1]}); filters judge no model."
        )
        return Examination("no-verdict", sentence, scores)

    def score(
        self, finding: Finding, suspect: Suspect, trial: Trial, *, progress: Progress = lambda share: None
    ) -> Score:
        """Return clean accuracy and attack rates for every filter, in both orders, laid out as table 4 is."""
        images, labels = trial.clean.pixels, trial.clean.labels
        filters = self._filters()
        scores: dict[str, Any] = {
            "original": {
                "clean_accuracy": mean_over(_predicted(suspect, images) == labels),
                "attack": None
                if trial.poisoned is None
                else attack_rates(_predicted(suspect, trial.poisoned.images), trial.poisoned.targets, labels),
            }
        }
        for done, (kind, label, regularize) in enumerate(filters):
            filtered = _filtered(images, regularize)
            rates: dict[str, Any] = {
                "clean_accuracy": mean_over(_predicted(suspect, filtered) == labels),
                "filter_then_trigger": None,
                "trigger_then_filter": None,
            }
            if trial.backdoor is not None and trial.poisoned is not None:
                targets = trial.poisoned.targets
                before = trial.backdoor.poison(filtered, labels).images
                rates["filter_then_trigger"] = attack_rates(_predicted(suspect, before), targets, labels)
                after = _predicted(suspect, trial.poisoned.images, regularize)
                rates["trigger_then_filter"] = attack_rates(after, targets, labels)
            scores.setdefault(kind, {})[label] = rates
            progress((done + 1) / len(filters))
        return Score(_sentence(finding.scores, scores), scores)

    def _filters(self) -> list[tuple[str, str, _Filter]]:
        """Return each filter with its set and its name, in table 4's order."""
        functions: tuple[tuple[Callable[..., Tensor], Callable[..., Tensor]], ...] = (
            (gaussian_blur, floor_depth),
            (median_filter, round_depth),
        )
        filters: list[tuple[str, str, _Filter]] = []
        for kind, (smooth, shrink) in zip(FILTER_SETS, functions, strict=True):
            filters += [(kind, f"k={side}", partial(smooth, side=side)) for side in self.settings.kernels]
            filters += [
                (kind, f"{bits} {'bit' if bits == 1 else 'bits'}", partial(shrink, bits=bits))
                for bits in self.settings.bits
            ]
        return filters


def _sentence(known: Mapping[str, Any], scored: Mapping[str, Any]) -> str:
    """Say what the filter leaves that turned out to be the best of those that a defender can afford."""
    original, best = scored["original"], best_filter(known, scored)
    clean = in_percent(original["clean_accuracy"], 1)
    if original["attack"] is None:
        return f"A clean model has no trigger to destroy; its clean accuracy is {clean} without a filter."
    attack = success_in_words(original["attack"])
    before = f"Without a filter the attack succeeds on {attack} of the images"
    limit = f"{100 * AFFORDABLE:g} points of clean accuracy on the defender's images"
    if best is None:
        return f"{before}; every filter costs more than {limit}."
    return (
        f"{before}; of the filters that cost at most {limit} the best in hindsight ({best.name}, after the trigger) "
        f"leaves {success_in_words(best.attack)}, with clean accuracy {in_percent(best.clean_accuracy, 1)}."
    )


def _filtered(images: Tensor, regularize: _Filter) -> Tensor:
    return torch.cat([regularize(chunk) for chunk in in_chunks(images)])


def _predicted(suspect: Suspect, images: Tensor, regularize: _Filter | None = None) -> Int64[Tensor, " batch"]:
    return suspect.logits(images if regularize is None else _filtered(images, regularize)).argmax(1)
