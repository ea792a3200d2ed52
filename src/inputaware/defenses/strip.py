"""STRIP (Gao et al. 2019): an image whose label survives being blended with others carries a trigger."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inputaware.data.loader import to_pixels
from inputaware.defenses.base import CleanData, Examination, Finding, Progress, Score, Suspect, Trial
from inputaware.defenses.detector import InputDetector, Measure, rate_with_interval
from inputaware.defenses.settings import StripSettings

__all__ = [
    "Strip",
    "blended_entropies",
    "entropy_threshold",
    "shannon_entropy",
    "sigmoid_entropy",
    "superimpose",
]

_IN_FLIGHT = 1000
"""Blended images that are made at a time."""
_RELEASE_BOUNDARY = 0.2


def superimpose(
    images: Float[Tensor, "batch channel height width"], overlays: Float[Tensor, "overlays channel height width"]
) -> Float[Tensor, "blended channel height width"]:
    """Return ``clip(x + x_j, 0, 1)``, the first image with every overlay, then the second, and so on.

    Args:
        images: tested images, pixels in [0, 1].
        overlays: clean images, pixels in [0, 1].
    """
    return (images[:, None] + overlays[None]).flatten(0, 1).clamp(0, 1)


def shannon_entropy(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """Return ``-sum p log2 p`` of the softmax of logits, in bits: from 0 to ``log2(classes)``."""
    nats: Tensor = torch.special.entr(torch.softmax(logits, 1)).sum(1)
    return nats / math.log(2)


def sigmoid_entropy(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """Return ``-sum s log2 s`` of the sigmoid of logits, as the authors' release does; it is no entropy."""
    nats: Tensor = torch.special.entr(torch.sigmoid(logits)).sum(1)
    return nats / math.log(2)


def blended_entropies(
    suspect: Suspect,
    images: Float[Tensor, "batch channel height width"],
    overlays: Float[Tensor, "overlays channel height width"],
    *,
    in_flight: int = _IN_FLIGHT,
    progress: Progress = lambda share: None,
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Return the mean entropy of each image over its blends, and the mean of :func:`sigmoid_entropy`.

    Gao et al. 2019: ``H = 1/N * sum over j of H_j``, with ``H_j`` the entropy of the prediction for the blend with
    overlay ``j`` of ``N``. A trigger that dominates the prediction gives a low one.

    Args:
        suspect: the classifier.
        images: tested images, pixels in [0, 1].
        overlays: clean images, pixels in [0, 1].
        in_flight: blended images that are made at a time; at least one tested image's are.
        progress: told the share of the images that are done.

    Raises:
        DefenseError: the classifier returns numbers that are not finite.
    """
    soft, release = [], []
    for chunk in torch.split(images, max(1, in_flight // len(overlays))):
        logits = suspect.logits(superimpose(chunk, overlays))
        soft.append(shannon_entropy(logits).view(len(chunk), -1).mean(1))
        release.append(sigmoid_entropy(logits).view(len(chunk), -1).mean(1))
        progress(sum(map(len, soft)) / len(images))
    return torch.cat(soft), torch.cat(release)


def entropy_threshold(entropies: Float[Tensor, " batch"], *, rate: float) -> float:
    """Return the entropy below which a share of clean images falls, by the normal distribution.

    Gao et al. 2019: the ``rate`` quantile of a normal distribution with the entropies' mean and standard deviation.

    Args:
        entropies: of clean images, two or more.
        rate: false-rejection rate, in (0, 0.5].
    """
    values = entropies.cpu().double()  # not every device has float64
    return float(values.mean()) + NormalDist().inv_cdf(rate) * float(values.std())


class Strip(InputDetector):
    """Blends an image with clean ones, and refuses it where the predictions stay sure.

    Gao, Xu, Wang, Chen, Ranasinghe & Nepal 2019, *STRIP: A Defence Against Trojan Attacks on Deep Neural Networks*,
    ACSAC.
    The defender's images are divided at random: overlays; one half of the rest, on which the threshold is set;
    the other half, on which its false-rejection rate is measured. No image is in two of them.

    It judges inputs, so it has no verdict on the model.

    Deviation: the overlays are drawn once and blended with every image, where the paper draws anew for each. So that
    what is scored later is judged by the same overlays.

    Beside the paper's threshold, which takes entropies for normally distributed, stands that of their own quantile
    (``quantile_...`` in the scores). Where they are not normal, the first refuses another share of clean images than
    was asked for. Of a few dozen images the second is no better: a quantile of 22 numbers lies near the smallest.

    Deviation: where the clean images do not suffice for the overlays that are asked for and two images in each of both
    halves, half of them are overlays. The paper has 100, of sets of tens of thousands.

    Args:
        settings: how many overlays and images, and the rate that the threshold is set at.
    """

    name = "strip"
    measure = Measure("entropy", "entropies", "below", "bits")
    settings: StripSettings

    def references(self, images: int) -> int:
        """Return how many clean images are overlays: as many as asked for, or half where too few would be left."""
        asked = self.settings.overlays
        return asked if images >= asked + self.fewest_judged else images // 2

    def learn(self, suspect: Suspect, clean: CleanData, progress: Progress) -> dict[str, Tensor]:
        """Return the overlays, 8-bit."""
        return {"overlays": clean.images}

    def measured(
        self,
        suspect: Suspect,
        learned: Mapping[str, Tensor],
        pixels: Float[Tensor, "batch channel height width"],
        progress: Progress,
    ) -> dict[str, Tensor]:
        """Return the mean entropies over the overlays, and beside them the means of :func:`sigmoid_entropy`."""
        entropies, release = blended_entropies(suspect, pixels, to_pixels(learned["overlays"]), progress=progress)
        return {"entropies": entropies, "release_entropies": release}

    def set_threshold(self, numbers: Float[Tensor, " batch"]) -> float:
        """Return :func:`entropy_threshold`."""
        return entropy_threshold(numbers, rate=self.settings.false_rejection_rate)

    def limit(self, suspect: Suspect, learned: Mapping[str, Tensor]) -> float:
        """Return the lowest entropy that there is."""
        return 0.0

    def bounds(self, suspect: Suspect, numbers: Float[Tensor, " batch"]) -> tuple[float, float]:
        """Return the lowest and the highest entropy that there is."""
        return 0.0, math.log2(suspect.classes)

    def examine(self, suspect: Suspect, clean: CleanData, seed: int, progress: Progress) -> Examination:
        """Set the threshold on one part of the clean images, and measure it on another; the same by their quantile."""
        found = super().examine(suspect, clean, seed, progress)
        scores, arrays = dict(found.scores), dict(found.arrays)
        arrays["overlay_indices"] = arrays.pop("reference_indices")
        count = scores["overlays"] = scores.pop("reference_images")
        quantile = super().set_threshold(torch.from_numpy(arrays["threshold_entropies"]))
        by_quantile, *interval = rate_with_interval(torch.from_numpy(arrays["held_out_entropies"]) < quantile)
        scores["quantile_threshold"] = quantile
        scores["quantile_held_out_false_rejection_rate"] = by_quantile
        scores["quantile_held_out_false_rejection_interval"] = interval
        words = found.sentence
        if count < self.settings.overlays:
            words += f" There were clean images for {count} overlays in place of {self.settings.overlays}."
        return Examination(found.verdict, words, scores, arrays)

    def score(
        self, finding: Finding, suspect: Suspect, trial: Trial, *, progress: Progress = lambda share: None
    ) -> Score:
        """Return how many clean and triggered test images are refused, and how well entropy tells them apart.

        Beside that stand the rates by the quantile, and the rule of the authors' release.
        """
        found = super().score(finding, suspect, trial, progress=progress)
        scores, arrays = found.scores, found.arrays
        quantile = scores["quantile_threshold"] = finding.scores["quantile_threshold"]
        scores["quantile_false_rejection_rate"] = float(np.mean(arrays["clean_entropies"] < quantile))
        triggered = arrays.get("triggered_entropies")
        accepted = None if triggered is None else float(np.mean(triggered >= quantile))
        scores["quantile_false_acceptance_rate"] = accepted
        release = [float(values.min()) for name, values in arrays.items() if name.endswith("release_entropies")]
        scores["release_rule_min_entropy"] = min(release)
        scores["release_rule_flags"] = min(release) < _RELEASE_BOUNDARY
        return found
