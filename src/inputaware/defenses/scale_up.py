"""SCALE-UP (Guo et al. 2023): an image whose class survives brighter and brighter copies of it carries a trigger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from inputaware.defenses.base import CleanData, Examination, Finding, Progress, Score, Suspect, Trial
from inputaware.defenses.detector import InputDetector, Measure, area_under_curve, rate_with_interval
from inputaware.defenses.settings import ScaleUpSettings

__all__ = ["ScaleUp", "amplify", "class_statistics", "normalized_consistency", "scaled_prediction_consistency"]


def amplify(
    images: Float[Tensor, "batch channel height width"], factor: int
) -> Float[Tensor, "batch channel height width"]:
    """Return ``clip(n * x, 0, 1)``.

    Args:
        images: pixels in [0, 1].
        factor: by which each pixel is multiplied, 1 or more.
    """
    return (images * factor).clamp(0, 1)


def scaled_prediction_consistency(
    suspect: Suspect,
    images: Float[Tensor, "batch channel height width"],
    factors: Sequence[int],
    *,
    progress: Progress = lambda share: None,
) -> tuple[Float[Tensor, " batch"], Int64[Tensor, " batch"]]:
    """Return the share of amplified copies of each image that keep its class, and that class.

    Guo et al. 2023, equation 2: ``SPC(x) = 1/|S| * sum over n in S of [C(n * x) = C(x)]``, with ``C`` the class that
    the model predicts, right or wrong.

    Args:
        suspect: the classifier.
        images: tested images, pixels in [0, 1].
        factors: the set ``S``.
        progress: told the share of the passes that are done.

    Returns:
        The shares, in [0, 1], and the predicted classes.

    Raises:
        DefenseError: the classifier returns numbers that are not finite.
    """
    predicted = suspect.logits(images).argmax(1)
    kept = torch.zeros_like(predicted)
    for done, factor in enumerate(factors, 1):
        kept += suspect.logits(amplify(images, factor)).argmax(1) == predicted
        progress(done / len(factors))
    return kept.float() / len(factors), predicted


def class_statistics(
    shares: Float[Tensor, " batch"], labels: Int64[Tensor, " batch"], classes: int
) -> tuple[Float[Tensor, " classes"], Float[Tensor, " classes"]]:
    """Return mean and standard deviation of the consistency of each class's images.

    Guo et al. 2023, equation 3. A class whose images are all equally consistent, or that has none or only one, gets
    mean and standard deviation of all images together: with a mean of 1 of its own none of its images could be above
    it, and so none be refused. Where all images are equally consistent the standard deviation is 1, so that a
    normalised consistency is the plain difference; where there are none the mean is 0. The paper says nothing of these
    cases.

    Args:
        shares: consistency of clean images, in [0, 1].
        labels: their true labels.
        classes: how many classes there are.

    Returns:
        Means in [0, 1], and standard deviations (divided by ``n``) above 0, by class.
    """
    # Not every device has float64.
    values, own = shares.cpu().double(), labels.cpu()
    together = _mean_and_deviation(values)
    found = [_mean_and_deviation(values[own == label]) for label in range(classes)]
    means, deviations = zip(*[known if known[1] else together for known in found], strict=True)
    return torch.tensor(means).to(shares), torch.tensor([deviation or 1.0 for deviation in deviations]).to(shares)


def _mean_and_deviation(values: Float[Tensor, " batch"]) -> tuple[float, float]:
    """Return both; of values that are all the same a deviation of 0, where rounding would leave another."""
    if not len(values):
        return 0.0, 0.0
    if bool((values == values[0]).all()):
        return float(values[0]), 0.0
    return float(values.mean()), float(values.std(correction=0))


def normalized_consistency(
    shares: Float[Tensor, " batch"],
    predicted: Int64[Tensor, " batch"],
    means: Float[Tensor, " classes"],
    deviations: Float[Tensor, " classes"],
) -> Float[Tensor, " batch"]:
    """Return ``(SPC(x) - mean_c) / std_c`` with ``c = C(x)``, the predicted class (Guo et al. 2023, equation 4).

    Args:
        shares: consistency of the images, in [0, 1].
        predicted: the classes that they are taken for.
        means: as :func:`class_statistics` returns them.
        deviations: the same.
    """
    return (shares - means[predicted]) / deviations[predicted]


class ScaleUp(InputDetector):
    """Multiplies the pixels of an image, and refuses it where the prediction stays the same.

    Guo, Li, Chen, Guo, Sun & Liu 2023, *SCALE-UP: An Efficient Black-box Input-level Backdoor Detection via Analyzing
    Scaled Prediction Consistency*, ICLR.
    It needs predicted classes alone. By default the consistency of an image is compared with that of clean images of
    its predicted class (the paper's data-limited variant); without ``normalize`` it stands for itself (data-free).

    It judges inputs, so it has no verdict on the model.

    Deviation: the threshold is the quantile of clean images at the asked-for rate, as for our other detectors; the
    paper leaves its ``T`` to the defender. Beside it stand the rates with ``T`` as it is in the settings (``fixed_...``
    in the scores). Consistency takes few values, so that many images may lie at the quantile itself; none of these is
    refused, and fewer images are than were asked for.

    Deviation: references are drawn at random from all classes, where the paper takes as many of each.

    Args:
        settings: the factors, how many references and images, and both thresholds.
    """

    name = "scale-up"
    settings: ScaleUpSettings

    @property
    def measure(self) -> Measure:  # type: ignore[override]
        """What is measured: a share, or how many standard deviations it is above the mean of its class."""
        unit = "standard deviations from the mean of their class" if self.settings.normalize else ""
        return Measure("consistency", "consistencies", "above", unit)

    def references(self, images: int) -> int:
        """Return how many clean images the consistency is compared with: as many as asked for, at most half."""
        return min(self.settings.references, images // 2) if self.settings.normalize else 0

    def learn(self, suspect: Suspect, clean: CleanData, progress: Progress) -> dict[str, Tensor]:
        """Return mean and standard deviation of the consistency by class, and how many references it has."""
        if not self.settings.normalize:
            return {}
        shares, _ = scaled_prediction_consistency(suspect, clean.pixels, self.settings.factors, progress=progress)
        means, deviations = class_statistics(shares, clean.labels, suspect.classes)
        return {
            "class_means": means,
            "class_deviations": deviations,
            "class_references": torch.bincount(clean.labels, minlength=suspect.classes),
        }

    def measured(
        self,
        suspect: Suspect,
        learned: Mapping[str, Tensor],
        pixels: Float[Tensor, "batch channel height width"],
        progress: Progress,
    ) -> dict[str, Tensor]:
        """Return the consistencies that images are judged by; beside them those not normalised, and the classes."""
        shares, predicted = scaled_prediction_consistency(suspect, pixels, self.settings.factors, progress=progress)
        judged = shares
        if self.settings.normalize:
            judged = normalized_consistency(shares, predicted, learned["class_means"], learned["class_deviations"])
        return {"consistencies": judged, "spc": shares, "predictions": predicted}

    def limit(self, suspect: Suspect, learned: Mapping[str, Tensor]) -> float:
        """Return the consistency of an image whose copies all keep its class: of the class where that is highest."""
        return float(_highest(learned).max()) if self.settings.normalize else 1.0

    def bounds(self, suspect: Suspect, numbers: Float[Tensor, " batch"]) -> tuple[float, float]:
        """Return 0 and 1, and the lowest and the highest number where they are normalised."""
        return super().bounds(suspect, numbers) if self.settings.normalize else (0.0, 1.0)

    def examine(self, suspect: Suspect, clean: CleanData, seed: int, progress: Progress) -> Examination:
        """Set the threshold on one part of the clean images, and measure it on another; measure that of the settings.

        Both are applied to the same numbers.
        """
        found = super().examine(suspect, clean, seed, progress)
        scores, words = dict(found.scores), found.sentence
        held_out = torch.from_numpy(found.arrays["held_out_consistencies"])
        scores["fixed_threshold"] = fixed = self.settings.threshold
        rate, *interval = rate_with_interval(self.refused(held_out, fixed))
        scores["fixed_held_out_false_rejection_rate"] = rate
        scores["fixed_held_out_false_rejection_interval"] = interval
        scores["fully_consistent"] = float(np.mean(found.arrays["threshold_spc"] == 1))
        reachable = 0 if scores["refuses_nothing"] else suspect.classes
        if self.settings.normalize and reachable:
            highest = _highest({name: torch.from_numpy(values) for name, values in found.arrays.items()})
            reachable = int(self.refused(highest, scores["threshold"]).sum())
            if reachable < suspect.classes:
                words += (
                    f" Only images that are taken for {reachable} of the {suspect.classes} classes can be refused: "
                    "of the others none can be above it."
                )
        scores["refusable_classes"] = reachable
        return Examination(found.verdict, words, scores, found.arrays)

    def score(
        self, finding: Finding, suspect: Suspect, trial: Trial, *, progress: Progress = lambda share: None
    ) -> Score:
        """Return how many clean and triggered test images are refused, and how well consistency tells them apart.

        Beside that stand the rates with the threshold of the settings, the area under the curve without normalisation,
        and how many images keep their class in all copies.
        """
        found = super().score(finding, suspect, trial, progress=progress)
        scores = found.scores
        arrays = {name: torch.from_numpy(values) for name, values in found.arrays.items()}
        scores["fixed_threshold"] = fixed = finding.scores["fixed_threshold"]
        scores["fixed_false_rejection_rate"] = _share(self.refused(arrays["clean_consistencies"], fixed))
        scores["fully_consistent_clean"] = _share(arrays["clean_spc"] == 1)
        scores["fixed_false_acceptance_rate"] = scores["fully_consistent_triggered"] = scores["data_free_auroc"] = None
        scores["refusable_triggered"] = None
        words = found.sentence
        if trial.poisoned is not None:
            scores["fixed_false_acceptance_rate"] = _share(~self.refused(arrays["triggered_consistencies"], fixed))
            scores["fully_consistent_triggered"] = _share(arrays["triggered_spc"] == 1)
            scores["data_free_auroc"] = area_under_curve(-arrays["clean_spc"], -arrays["triggered_spc"])
            highest = torch.ones(suspect.classes)
            if self.settings.normalize:
                highest = _highest({name: torch.from_numpy(values) for name, values in finding.arrays.items()})
                words += f" Without normalisation it is {scores['data_free_auroc']:.3f}."
            within = self.refused(highest, finding.scores["threshold"])[arrays["triggered_predictions"]]
            scores["refusable_triggered"] = _share(within)
        return Score(words, scores, found.arrays)


def _highest(learned: Mapping[str, Tensor]) -> Float[Tensor, " classes"]:
    """Return the highest normalised consistency that an image can have, by the class that it is taken for."""
    means, deviations = learned["class_means"], learned["class_deviations"]
    every = torch.arange(len(means), device=means.device)
    return normalized_consistency(torch.ones_like(means), every, means, deviations)


def _share(hits: Tensor) -> float:
    return int(hits.sum()) / len(hits)
