"""STRIP (Gao et al. 2019): an image whose label survives being blended with others carries a trigger."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from inputaware.data.loader import to_pixels
from inputaware.defenses.base import CleanData, Defense, Examination, Finding, Progress, Score, Suspect, Trial
from inputaware.defenses.settings import StripSettings
from inputaware.errors import DefenseError
from inputaware.evaluation.metrics import mean_over
from inputaware.evaluation.words import in_percent, percent

__all__ = [
    "Strip",
    "area_under_curve",
    "blended_entropies",
    "entropy_quantile",
    "entropy_threshold",
    "shannon_entropy",
    "sigmoid_entropy",
    "superimpose",
]

_IN_FLIGHT = 1000
"""Blended images that are made at a time."""
_BINS = 50
_FEWEST = 2
"""Of fewer entropies there is no standard deviation."""
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


def entropy_quantile(entropies: Float[Tensor, " batch"], *, rate: float) -> float:
    """Return the entropy below which a share of these clean images falls: their own quantile, not a normal's.

    Args:
        entropies: of clean images, two or more; between two of them the quantile is interpolated.
        rate: false-rejection rate, in (0, 0.5].
    """
    return float(entropies.cpu().double().quantile(rate))


def area_under_curve(clean: Float[Tensor, " clean"], triggered: Float[Tensor, " triggered"]) -> float:
    """Return the area under the ROC curve: how often a triggered image has a lower entropy than a clean one.

    Ties count half.
    """
    from sklearn.metrics import roc_auc_score  # here, since it takes a second

    truth = np.concatenate([np.zeros(len(clean)), np.ones(len(triggered))])
    return float(roc_auc_score(truth, -torch.cat([clean, triggered]).cpu().numpy()))


class Strip(Defense):
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

    settings: StripSettings

    def check(self, suspect: Suspect, clean: CleanData) -> None:
        """Check the data, and that they suffice for overlays and for two halves that have a standard deviation.

        Raises:
            DefenseError: they do not.
        """
        super().check(suspect, clean)
        needed = min(self.settings.overlays, 2 * _FEWEST) + 2 * _FEWEST
        if len(clean.images) < needed:
            raise DefenseError(
                f"clean data: expected at least {needed} images for strip; found {len(clean.images)}; give more"
            )

    def _overlays(self, images: int) -> int:
        """Return how many clean images are overlays: as many as asked for, or half where too few would be left."""
        asked = self.settings.overlays
        return asked if images >= asked + 2 * _FEWEST else images // 2

    def examine(self, suspect: Suspect, clean: CleanData, seed: int, progress: Progress) -> Examination:
        """Set the threshold on one part of the clean images, and measure it on another."""
        settings = self.settings
        order = torch.randperm(len(clean.images), generator=torch.Generator().manual_seed(seed))
        count = self._overlays(len(order))
        chosen, rest = order[:count], order[count:]
        half = min(settings.images, len(rest) // 2)
        setting, held_out = rest[:half], rest[half : half + settings.images]
        overlays = clean.images[chosen.to(clean.images.device)]
        tested = clean.pixels[torch.cat([setting, held_out]).to(clean.images.device)]
        entropies, _ = blended_entropies(suspect, tested, to_pixels(overlays), progress=progress)
        threshold = entropy_threshold(entropies[:half], rate=settings.false_rejection_rate)
        quantile = entropy_quantile(entropies[:half], rate=settings.false_rejection_rate)
        rate, low, high = _rate(entropies[half:] < threshold)
        by_quantile, *interval = _rate(entropies[half:] < quantile)
        words = (
            f"Images with an entropy below {threshold:.3f} bits are refused: {in_percent(rate, 1)} of {len(held_out)} "
            f"held-out clean images (95 % interval {percent(low, 1)} to {in_percent(high, 1)}), where "
            f"{in_percent(settings.false_rejection_rate, 1)} was asked for."
        )
        if threshold <= 0:
            words += " No entropy is below 0, so that this threshold refuses nothing, whatever trigger there is."
        if count < settings.overlays:
            words += f" There were clean images for {count} overlays in place of {settings.overlays}."
        return Examination(
            "no-verdict",
            words,
            {
                "threshold": threshold,
                "overlays": len(chosen),
                "threshold_images": half,
                "held_out_images": len(held_out),
                "mean_entropy": float(entropies[:half].mean()),
                "held_out_false_rejection_rate": rate,
                "held_out_false_rejection_interval": [low, high],
                "quantile_threshold": quantile,
                "quantile_held_out_false_rejection_rate": by_quantile,
                "quantile_held_out_false_rejection_interval": interval,
            },
            {
                "overlays": overlays.cpu().numpy(),
                "overlay_indices": chosen.numpy(),
                "threshold_indices": setting.numpy(),
                "held_out_indices": held_out.numpy(),
                "threshold_entropies": entropies[:half].cpu().numpy(),
                "held_out_entropies": entropies[half:].cpu().numpy(),
            },
        )

    def score(
        self, finding: Finding, suspect: Suspect, trial: Trial, *, progress: Progress = lambda share: None
    ) -> Score:
        """Return how many clean and triggered test images are refused, and how well entropy tells them apart.

        The images are drawn by the finding's seed, the same with and without their triggers; the array ``indices`` says
        which these are, in the order of their entropies.
        """
        pixels = trial.clean.pixels
        overlays = to_pixels(torch.from_numpy(finding.arrays["overlays"])).to(pixels.device)
        threshold, quantile = finding.scores["threshold"], finding.scores["quantile_threshold"]
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(finding.seed))
        chosen = order[: self.settings.images].to(pixels.device)
        share = 1.0 if trial.backdoor is None else 0.5
        clean, release = blended_entropies(
            suspect, pixels[chosen], overlays, progress=lambda done: progress(share * done)
        )
        edges = np.linspace(0, math.log2(suspect.classes), _BINS + 1)
        rate, low, high = _rate(clean < threshold)
        by_quantile = _rate(clean < quantile)[0]
        scores: dict[str, Any] = {
            "threshold": threshold,
            "images": len(chosen),
            "false_rejection_rate": rate,
            "false_rejection_interval": [low, high],
            "false_acceptance_rate": None,
            "false_acceptance_interval": None,
            "false_acceptance_rate_excluding_target": None,
            "quantile_threshold": quantile,
            "quantile_false_rejection_rate": by_quantile,
            "quantile_false_acceptance_rate": None,
            "auroc": None,
            "mean_entropy_clean": float(clean.mean()),
            "mean_entropy_triggered": None,
        }
        arrays = {
            "indices": chosen.cpu().numpy(),
            "bin_edges": edges,
            "clean_entropies": clean.cpu().numpy(),
            "clean_histogram": _histogram(clean, edges),
        }
        words = f"{in_percent(rate, 1)} of {len(chosen)} test images are refused without a trigger"
        if trial.poisoned is None:
            words += "; the model is clean, so there is nothing to catch."
        else:
            triggered, release_triggered = blended_entropies(
                suspect, trial.poisoned.images[chosen], overlays, progress=lambda done: progress(0.5 + done / 2)
            )
            release = torch.cat([release, release_triggered])
            accepted = triggered >= threshold
            missed, low, high = _rate(accepted)
            others = trial.clean.labels[chosen] != trial.poisoned.targets[chosen]
            scores["false_acceptance_rate"] = missed
            scores["false_acceptance_interval"] = [low, high]
            scores["false_acceptance_rate_excluding_target"] = mean_over(accepted, others)
            scores["quantile_false_acceptance_rate"] = _rate(triggered >= quantile)[0]
            scores["auroc"] = area_under_curve(clean, triggered)
            scores["mean_entropy_triggered"] = float(triggered.mean())
            arrays["triggered_entropies"] = triggered.cpu().numpy()
            arrays["triggered_histogram"] = _histogram(triggered, edges)
            words += (
                f"; with their triggers {in_percent(missed, 1)} pass. Entropy tells the two apart with an area under "
                f"the ROC curve of {scores['auroc']:.3f} (0.5: not at all)."
            )
        scores["release_rule_min_entropy"] = float(release.min())
        scores["release_rule_flags"] = scores["release_rule_min_entropy"] < _RELEASE_BOUNDARY
        return Score(words, scores, arrays)


def _rate(hits: Tensor) -> tuple[float, float, float]:
    """Return the share of hits with Wilson's 95 % interval, which holds for few images and for rates near 0 too."""
    from scipy.stats import binomtest  # here, since it takes a second

    count = int(hits.sum())
    low, high = binomtest(count, len(hits)).proportion_ci(method="wilson")
    return count / len(hits), float(low), float(high)


def _histogram(entropies: Float[Tensor, " batch"], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    # Rounding may lift an entropy above the highest one that there is.
    return np.histogram(np.clip(entropies.cpu().numpy(), edges[0], edges[-1]), edges)[0]
