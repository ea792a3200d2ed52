"""Beatrix (Ma et al. 2023): which channels are active together, against clean images of the same class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from inputaware.data.loader import in_chunks, to_pixels
from inputaware.defenses.base import CleanData, Examination, Finding, Progress, Score, Suspect, Trial
from inputaware.defenses.detector import InputDetector, Measure, area_under_curve, rate_with_interval
from inputaware.defenses.features import ignores_negative, known_layer, run_with_features
from inputaware.defenses.settings import BeatrixSettings
from inputaware.models.registry import map_before_last

__all__ = [
    "Beatrix",
    "area_within_classes",
    "class_thresholds",
    "deviations",
    "entry_bounds",
    "gram_entries",
    "left_out_deviations",
    "relative_excess",
]

_FEWEST = 3
"""References of a class below which those of all classes stand in: one is left out, and two have a spread."""
_FOLDS = 5
"""Parts of a class's references that are left out in turn, as in the authors' release."""
_LEAST_THRESHOLD = 0.01
"""A class's threshold is at least this share of the median of all: of few references none may deviate at all."""
_AT_A_TIME = 2**22
"""Entries of Gram matrices that are held at a time, 32 MiB of them."""
_ADDED = 1e-6
"""Added to a bound before it divides, as in the authors' release: a bound of zero is that of a silent channel."""
_SHOWN = 0.98
"""Share of the numbers that the histograms reach to; the rest stands in the last bin."""


def gram_entries(
    maps: Float64[Tensor, "batch features positions"], order: int, rows: slice = slice(None)
) -> Float64[Tensor, "batch entries"]:
    """Return ``G_ij = (sum over x of v_ix^p v_jx^p)^(1/p)`` for ``j >= i``, row after row (Ma et al. 2023, equation 9).

    The root keeps the sign: of an odd order the sum may be negative. A map is divided by its largest value first, and
    the entries multiplied by its square: that changes nothing but keeps powers from overflowing.

    Args:
        maps: v, one map of features for each image; places in rows and columns stand one after another.
        order: p.
        rows: which i; all where none are named.
    """
    count = maps.shape[1]
    first, last, _ = rows.indices(count)
    largest = maps.abs().amax((1, 2), keepdim=True)
    powers = (maps / largest.clamp(min=torch.finfo(maps.dtype).tiny)) ** order
    sums = powers[:, first:last] @ powers[:, first:].transpose(1, 2)
    row, column = torch.triu_indices(last - first, count - first, device=maps.device)
    entries = sums[:, row, column]
    return largest[:, :, 0] ** 2 * entries.sign() * entries.abs() ** (1 / order)


def entry_bounds(
    entries: Float64[Tensor, "references entries"], *, bound: float
) -> tuple[Float64[Tensor, " entries"], Float64[Tensor, " entries"]]:
    """Return ``median - k MAD`` and ``median + k MAD`` of each entry (Ma et al. 2023, equations 10, 11 and 13).

    MAD is the median of the distances from the median.

    Args:
        entries: of the references of a class.
        bound: k.
    """
    middle = _median(entries)
    spread = bound * _median((entries - middle).abs())
    return middle - spread, middle + spread


def relative_excess(
    entries: Float64[Tensor, "batch entries"], low: Float64[Tensor, " entries"], high: Float64[Tensor, " entries"]
) -> Float64[Tensor, " batch"]:
    """Return how far an image's entries lie outside their bounds, summed: equation 13.

    ``(low - g) / (|low| + 1e-6)`` below, ``(g - high) / (|high| + 1e-6)`` above, zero between them.
    """
    below = (low - entries).relu() / (low.abs() + _ADDED)
    above = (entries - high).relu() / (high.abs() + _ADDED)
    return (below + above).sum(1)


def deviations(
    maps: Float64[Tensor, "batch features positions"],
    references: Float64[Tensor, "references features positions"],
    *,
    orders: int,
    bound: float,
    at_a_time: int = _AT_A_TIME,
) -> Float64[Tensor, " batch"]:
    """Return the mean of :func:`relative_excess` over the entries of all orders (Ma et al. 2023, equation 14).

    Args:
        maps: of the tested images, which are all predicted as one class.
        references: maps of clean images of this class.
        orders: P; the orders are 1 to P.
        bound: k.
        at_a_time: entries of Gram matrices that are held at a time; at least a row of one image, or of all references.

    Returns:
        0 where no entry is out of its bounds.
    """
    count = maps.shape[1]
    found = torch.zeros(len(maps), dtype=maps.dtype, device=maps.device)
    for order in range(1, orders + 1):
        for rows in _row_blocks(count, at_a_time // (len(references) * count)):
            low, high = entry_bounds(gram_entries(references, order, rows), bound=bound)
            chunks = torch.split(maps, max(1, at_a_time // (count * (rows.stop - rows.start))))
            found += torch.cat([relative_excess(gram_entries(chunk, order, rows), low, high) for chunk in chunks])
    return found / (orders * count * (count + 1) / 2)


def left_out_deviations(
    references: Float64[Tensor, "references features positions"], *, orders: int, bound: float
) -> Float64[Tensor, " references"]:
    """Return the :func:`deviations` of a class's references from the bounds of the others, a fifth of them at a time.

    Args:
        references: maps of three clean images or more.
        orders: P.
        bound: k.
    """
    parts = torch.arange(len(references), device=references.device) % min(_FOLDS, len(references))
    found = torch.zeros(len(references), dtype=references.dtype, device=references.device)
    for part in range(min(_FOLDS, len(references))):
        out = parts == part
        found[out] = deviations(references[out], references[~out], orders=orders, bound=bound)
    return found


def class_thresholds(
    references: Float64[Tensor, "references features positions"],
    predicted: Int64[Tensor, " references"],
    classes: int,
    *,
    orders: int,
    bound: float,
    rate: float,
) -> Float64[Tensor, " classes"]:
    """Return for each class the deviation that a share of its own references exceed when they are left out.

    Args:
        references: maps of clean images.
        predicted: as which classes they are predicted.
        classes: how many there are. One with fewer than three references has the threshold of all of them.
        orders: P.
        bound: k.
        rate: that share.

    Returns:
        Thresholds above 0, each at least a hundredth of the median one; 1 where no reference deviates.
    """

    def at_rate(own: Tensor) -> Tensor:
        few = len(own) < _FEWEST
        return own.new_zeros(()) if few else left_out_deviations(own, orders=orders, bound=bound).quantile(1 - rate)

    parts = [references[predicted == label] for label in range(classes)]
    together = at_rate(references) if any(len(own) < _FEWEST for own in parts) else references.new_zeros(())
    thresholds = torch.stack([together if len(own) < _FEWEST else at_rate(own) for own in parts])
    if not (thresholds > 0).any():
        return torch.ones_like(thresholds)
    return thresholds.clamp(min=_LEAST_THRESHOLD * float(thresholds[thresholds > 0].median()))


def area_within_classes(
    clean: NDArray[np.float32],
    clean_classes: NDArray[np.int64],
    triggered: NDArray[np.float32],
    triggered_classes: NDArray[np.int64],
) -> float | None:
    """Return the area under the ROC curve among images of one predicted class, a mean over those that have both kinds.

    The classes count by their triggered images. None where no class has both.

    Args:
        clean: numbers of clean images, higher for suspicious ones.
        clean_classes: what they are predicted as.
        triggered: numbers of triggered images.
        triggered_classes: what they are predicted as.
    """
    areas, counts = [], []
    for label in np.intersect1d(clean_classes, triggered_classes):
        one, other = (
            torch.from_numpy(-values[own == label])
            for values, own in ((clean, clean_classes), (triggered, triggered_classes))
        )
        areas.append(area_under_curve(one, other))
        counts.append(len(other))
    return float(np.average(areas, weights=counts)) if areas else None


class Beatrix(InputDetector):
    """Refuses an image whose channels are active together as in no clean image of the class that it is predicted as.

    Ma, Wang, Sun, Xue, Wen & Xiang 2023, *The "Beatrix" Resurrections: Robust Backdoor Detection via Gram Matrices*,
    NDSS. Of a map of features :func:`gram_entries` are taken; :func:`entry_bounds` of each class come from clean images
    that are predicted as it; an image's number is :func:`deviations` from the bounds of its predicted class, as a
    multiple of this class's own threshold (:func:`class_thresholds`).

    Half of the defender's images are references. Of each class, as it is predicted, the first 30 of them are kept. They
    stand among what is learned, not the bounds, which of a wide network take many times the space.

    Deviation: the paper goes on to find the attacker's class, by a kernel's distance between the refused and the other
    images of each class. That needs a stream of images in which some carry triggers. A defender here has clean ones.

    Deviation: where the rest of the network ignores negative values, since ReLU comes next, they count as zero (setting
    ``features``). The paper speaks of activations; in the release's network no ReLU follows the map that is read.

    Deviation: where a class has fewer than three references, those of all classes stand in.

    Deviation: the paper refuses what is beyond its class's threshold. Here one more threshold stands before that, on
    images that no bounds were taken from, in multiples of it, so that as many clean images are refused as are asked
    for; the paper's rule stands beside it (``by_class_...`` in the scores).

    Deviation: the paper divides by the bound itself, which is zero where a channel is silent in clean images. The
    release adds 1e-6, and so does this. What a silent channel does then outweighs everything else.

    Args:
        settings: orders, bound and references, how many images, and the rate that the threshold is set at.
    """

    name = "beatrix"
    settings: BeatrixSettings

    @property
    def measure(self) -> Measure:  # type: ignore[override]
        """What is measured: a deviation, or how many times it is the threshold of its class."""
        unit = "times the threshold of their class" if self.settings.per_class else ""
        return Measure("deviation", "deviations", "above", unit)

    def check(self, suspect: Suspect, clean: CleanData) -> None:
        """Check the data, and that the feature layer is known.

        Raises:
            DefenseError: they do not suffice, or it is not.
        """
        super().check(suspect, clean)
        self._read(suspect)

    def references(self, images: int) -> int:
        """Return how many clean images are looked at for references: half, so that most classes have enough."""
        return images // 2

    def learn(self, suspect: Suspect, clean: CleanData, progress: Progress) -> dict[str, Tensor]:
        """Return the references that are kept, 8-bit, their predicted classes, and whether maps are rectified.

        Beside them stand the thresholds of the classes, where they are asked for.
        """
        settings, suspect = self.settings, self._read(suspect)
        classes = suspect.logits(clean.pixels).argmax(1)
        kept = [(classes == label).nonzero()[: settings.references, 0] for label in range(suspect.classes)]
        chosen = torch.cat(kept)
        rectified = settings.features == "auto" and ignores_negative(suspect, in_chunks(clean.pixels)[0])
        learned = {
            "references": clean.images[chosen],
            "reference_predictions": classes[chosen],
            "rectified": torch.tensor([rectified]),
        }
        if settings.per_class:
            maps, _ = _maps_and_classes(suspect, clean.pixels[chosen], rectified)
            thresholds = class_thresholds(
                maps,
                classes[chosen].to(maps.device),
                suspect.classes,
                orders=settings.orders,
                bound=settings.bound,
                rate=settings.false_rejection_rate,
            )
            learned["class_thresholds"] = thresholds.float().to(clean.images.device)
        progress(1.0)
        return learned

    def measured(
        self,
        suspect: Suspect,
        learned: Mapping[str, Tensor],
        pixels: Float[Tensor, "batch channel height width"],
        progress: Progress,
    ) -> dict[str, Tensor]:
        """Return the images' deviations from the bounds of their predicted classes, and these classes."""
        rectified, suspect = bool(learned["rectified"]), self._read(suspect)
        maps, classes = _maps_and_classes(suspect, pixels, rectified)
        references, _ = _maps_and_classes(suspect, to_pixels(learned["references"]), rectified)
        progress(0.2)
        found = torch.zeros_like(maps[:, 0, 0])
        done = 0
        for label in range(suspect.classes):
            own = (learned["reference_predictions"] == label).to(references.device)
            if own.sum() < _FEWEST:
                own = torch.ones_like(own)
            tested = (classes == label).to(maps.device)
            if not tested.any():
                continue
            found[tested] = deviations(
                maps[tested], references[own], orders=self.settings.orders, bound=self.settings.bound
            )
            if self.settings.per_class:
                found[tested] /= float(learned["class_thresholds"][label])
            done += int(tested.sum())
            progress(0.2 + 0.8 * done / len(pixels))
        return {"deviations": found.float().to(pixels.device), "predictions": classes}

    def bounds(self, suspect: Suspect, numbers: Float[Tensor, " batch"]) -> tuple[float, float]:
        """Return zero, and what 98 % of the numbers do not exceed: a few are many times as large."""
        return 0.0, float(numbers.cpu().double().quantile(_SHOWN)) or 1.0

    def examine(self, suspect: Suspect, clean: CleanData, seed: int, progress: Progress) -> Examination:
        """Set the threshold on one part of the clean images, and measure it on another; say what the references are."""
        found = super().examine(suspect, clean, seed, progress)
        counts = np.bincount(found.arrays["reference_predictions"], minlength=suspect.classes).tolist()
        pooled = [label for label, count in enumerate(counts) if count < _FEWEST]
        words = found.sentence
        if pooled:
            words += (
                f" For lack of references of their own, those of all classes stand in for "
                f"{len(pooled)} of {suspect.classes} classes."
            )
        scores = {
            **found.scores,
            "references_by_class": counts,
            "classes_without_references": pooled,
            "rectified": bool(found.arrays["rectified"][0]),
        }
        if self.settings.per_class:
            scores["class_thresholds"] = found.arrays["class_thresholds"].tolist()
            rate, *interval = rate_with_interval(torch.from_numpy(found.arrays["held_out_deviations"]) > 1)
            scores["by_class_held_out_false_rejection_rate"] = rate
            scores["by_class_held_out_false_rejection_interval"] = interval
        return Examination(found.verdict, words, scores, found.arrays)

    def score(
        self, finding: Finding, suspect: Suspect, trial: Trial, *, progress: Progress = lambda share: None
    ) -> Score:
        """Return how many clean and triggered test images are refused, and how well deviations tell them apart.

        Beside that stand the rates by the paper's rule, each class by its own threshold, and the area under the curve
        among images of one predicted class.
        """
        found = super().score(finding, suspect, trial, progress=progress)
        scores, arrays, words = found.scores, found.arrays, found.sentence
        if self.settings.per_class:
            scores["by_class_false_rejection_rate"] = float(np.mean(arrays["clean_deviations"] > 1))
            scores["by_class_false_acceptance_rate"] = None
        scores["auroc_within_class"] = None
        if trial.poisoned is not None:
            if self.settings.per_class:
                scores["by_class_false_acceptance_rate"] = float(np.mean(arrays["triggered_deviations"] <= 1))
            within = area_within_classes(
                arrays["clean_deviations"],
                arrays["clean_predictions"],
                arrays["triggered_deviations"],
                arrays["triggered_predictions"],
            )
            scores["auroc_within_class"] = within
            if within is not None:
                words += f" Among images of one predicted class it is {within:.3f}."
        return Score(words, scores, arrays)

    def _read(self, suspect: Suspect) -> Suspect:
        """Return the suspect with the layer whose map is read for its feature layer.

        Raises:
            DefenseError: none is known.
        """
        earlier = map_before_last(suspect.classifier) if self.settings.map == "earlier" else None
        if earlier is None:
            known_layer(suspect, self.name)
            return suspect
        return replace(suspect, feature_layer=earlier)


def _maps_and_classes(
    suspect: Suspect, pixels: Float[Tensor, "batch channel height width"], rectified: bool
) -> tuple[Float64[Tensor, "batch features positions"], Int64[Tensor, " batch"]]:
    """Return the maps of images in float64, which not every device has, and their predicted classes."""
    maps, classes = [], []
    for chunk in in_chunks(pixels):
        found, logits = run_with_features(suspect, chunk)
        suspect.check(logits)
        values = found.flatten(2)
        values = values if values.device.type == "cuda" else values.cpu()
        maps.append((values.relu() if rectified else values).double())
        classes.append(logits.argmax(1))
    return torch.cat(maps), torch.cat(classes)


def _median(values: Float64[Tensor, "images entries"]) -> Float64[Tensor, " entries"]:
    """Return the median over images; of an even number the mean of the middle two, of which torch takes the lower."""
    middle = len(values) // 2
    lowest = values.topk(middle + 1, 0, largest=False).values  # faster than to sort all
    return (lowest[(len(values) - 1) // 2] + lowest[middle]) / 2


def _row_blocks(count: int, size: int) -> Iterator[slice]:
    for first in range(0, count, max(1, size)):
        yield slice(first, min(count, first + max(1, size)))
