"""Beatrix (Ma et al. 2023): which channels are active together, against clean images of the same class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from inputaware.data.loader import in_chunks, to_pixels
from inputaware.defenses.base import CleanData, Examination, Progress, Suspect
from inputaware.defenses.detector import InputDetector, Measure
from inputaware.defenses.features import ignores_negative, known_layer, run_with_features
from inputaware.defenses.settings import BeatrixSettings

__all__ = ["Beatrix", "deviations", "entry_bounds", "gram_entries", "relative_excess"]

_FEWEST = 2
"""References of a class below which those of all classes stand in: of one alone nothing can be said of their spread."""
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


class Beatrix(InputDetector):
    """Refuses an image whose channels are active together as in no clean image of the class that it is predicted as.

    Ma, Wang, Sun, Xue, Wen & Xiang 2023, *The "Beatrix" Resurrections: Robust Backdoor Detection via Gram Matrices*,
    NDSS. Of the last map of features :func:`gram_entries` are taken; :func:`entry_bounds` of each class come from clean
    images that are predicted as it; an image's number is :func:`deviations` from the bounds of its predicted class.

    Half of the defender's images are references. Of each class, as it is predicted, the first 30 of them are kept. They
    stand among what is learned, not the bounds, which of a wide network take many times the space.

    Deviation: the paper goes on to find the attacker's class, by a kernel's distance between the refused and the other
    images of each class. That needs a stream of images in which some carry triggers. A defender here has clean ones.

    Deviation: the authors' release reads the map before the last group of blocks of PreActResNet-18. Here it is the
    last map of features, which Fine-Pruning reads too.

    Deviation: where the rest of the network ignores negative values, since ReLU comes next, they count as zero (setting
    ``features``). The paper speaks of activations; in the release's network no ReLU follows the map that is read.

    Deviation: where a class has fewer than two references, those of all classes stand in.

    Deviation: one threshold stands for all classes, on images that no bounds were taken from. The paper sets one for
    each class by leaving out a part of its references in turn; of the few images here there would be none.

    Deviation: the paper divides by the bound itself, which is zero where a channel is silent in clean images. The
    release adds 1e-6, and so does this. What a silent channel does then outweighs everything else.

    Args:
        settings: orders, bound and references, how many images, and the rate that the threshold is set at.
    """

    name = "beatrix"
    measure = Measure("deviation", "deviations", "above")
    settings: BeatrixSettings

    def check(self, suspect: Suspect, clean: CleanData) -> None:
        """Check the data, and that the feature layer is known.

        Raises:
            DefenseError: they do not suffice, or it is not.
        """
        super().check(suspect, clean)
        known_layer(suspect, self.name)

    def references(self, images: int) -> int:
        """Return how many clean images are looked at for references: half, so that most classes have enough."""
        return images // 2

    def learn(self, suspect: Suspect, clean: CleanData, progress: Progress) -> dict[str, Tensor]:
        """Return the references that are kept, 8-bit, their predicted classes, and whether maps are rectified."""
        classes = suspect.logits(clean.pixels).argmax(1)
        progress(1.0)
        kept = [(classes == label).nonzero()[: self.settings.references, 0] for label in range(suspect.classes)]
        chosen = torch.cat(kept)
        rectified = self.settings.features == "auto" and ignores_negative(suspect, in_chunks(clean.pixels)[0])
        return {
            "references": clean.images[chosen],
            "reference_predictions": classes[chosen],
            "rectified": torch.tensor([rectified]),
        }

    def measured(
        self,
        suspect: Suspect,
        learned: Mapping[str, Tensor],
        pixels: Float[Tensor, "batch channel height width"],
        progress: Progress,
    ) -> dict[str, Tensor]:
        """Return the images' deviations from the bounds of their predicted classes, and these classes."""
        rectified = bool(learned["rectified"])
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
        return Examination(found.verdict, words, scores, found.arrays)


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
