"""Defenses that judge images: each measures something of an image, and refuses it beyond a threshold.

What they share stands here: how clean images are divided, how a threshold is set and measured, and how they are scored
on test images with and without triggers, so that their numbers can be compared.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from inputaware.defenses.base import CleanData, Defense, Examination, Finding, Progress, Score, Suspect, Trial
from inputaware.defenses.settings import DetectorSettings
from inputaware.errors import ConfigError, DefenseError
from inputaware.evaluation.metrics import mean_over
from inputaware.evaluation.words import in_percent, percent, short_number

__all__ = ["InputDetector", "Measure", "Side", "area_under_curve", "rate_with_interval"]

_BINS = 50
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TAKEN = ("indices", "histogram")
"""What arrays of numbers cannot be called, since others are: ``threshold_indices``, ``clean_histogram``."""
_OTHERS = ("threshold_", "held_out_", "reference_indices")
"""How the names of arrays begin that are not what was learned."""


Side = Literal["below", "above"]


@dataclass(frozen=True)
class Measure:
    """What a detector measures of an image.

    Attributes:
        name: one of it, as in ``mean_entropy_clean``.
        plural: several, as arrays are named by it: ``clean_entropies``.
        refuses: which images are refused, those with numbers below the threshold or above it.
        unit: of the numbers; empty where they have none.

    Raises:
        ConfigError: a name is no word, or taken, or images are refused on another side.
    """

    name: str
    plural: str
    refuses: Side
    unit: str = ""

    def __post_init__(self) -> None:
        """Refuse what neither arrays nor sentences can be made of."""
        for words in (self.name, self.plural):
            if not isinstance(words, str) or not _NAME.fullmatch(words) or words in _TAKEN:
                raise ConfigError(
                    "measure: expected names in small letters, digits and underscores, a letter first, other than "
                    f"{' and '.join(_TAKEN)}; found {words!r}"
                )
        if self.refuses not in (sides := get_args(Side)):
            raise ConfigError(f"measure: expected refuses to be one of {', '.join(sides)}; found {self.refuses!r}")

    @property
    def with_article(self) -> str:
        """The name with its article."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"

    def in_words(self, value: float) -> str:
        """Return a number with its unit."""
        return f"{short_number(value)} {self.unit}".rstrip()


def area_under_curve(clean: Float[Tensor, " clean"], triggered: Float[Tensor, " triggered"]) -> float:
    """Return the area under the ROC curve: how often a triggered image has a lower number than a clean one.

    Ties count half.
    """
    from sklearn.metrics import roc_auc_score  # here, since it takes a second

    truth = np.concatenate([np.zeros(len(clean)), np.ones(len(triggered))])
    return float(roc_auc_score(truth, -torch.cat([clean, triggered]).cpu().numpy()))


class InputDetector(Defense):
    """Measures something of each image, and refuses those beyond a threshold that clean images set.

    The defender's images are divided at random: references, which the detector learns from, where it does; one half
    of the rest, on which the threshold is set; the other half, on which its false-rejection rate is measured. No image
    is in two of them. It judges inputs, so it has no verdict on the model.

    A detector says what it measures (``measure``) and how (:meth:`measured`); those that learn from clean images
    override :meth:`references` and :meth:`learn` too.

    Args:
        settings: how many images, and the rate that the threshold is set at.
    """

    measure: Measure
    fewest_judged: ClassVar[int] = 4
    """Fewer clean images than this, beside the references, have no two halves with a standard deviation."""
    settings: DetectorSettings

    @abstractmethod
    def measured(
        self,
        suspect: Suspect,
        learned: Mapping[str, Tensor],
        pixels: Float[Tensor, "batch channel height width"],
        progress: Progress,
    ) -> dict[str, Tensor]:
        """Return numbers of each image, by what several of them are called.

        Args:
            suspect: the classifier.
            learned: what :meth:`learn` returned, on the images' device.
            pixels: images in [0, 1].
            progress: told the share of the images that are done.

        Returns:
            Those that the images are judged by, of shape (batch,), by ``measure.plural``. Others may stand beside them,
            and are kept.
        """

    def references(self, images: int) -> int:
        """Return how many of so many clean images :meth:`learn` gets: none here.

        Args:
            images: how many there are; at least four of them set the threshold and measure it.
        """
        return 0

    def learn(self, suspect: Suspect, clean: CleanData, progress: Progress) -> dict[str, Tensor]:
        """Return what is kept of the references for judging images, and stands among the arrays: nothing here.

        Args:
            suspect: the classifier.
            clean: the references.
            progress: told the share of the work that is done.
        """
        return {}

    def set_threshold(self, numbers: Float[Tensor, " batch"]) -> float:
        """Return the number beyond which the asked-for share of clean images lies: their own quantile.

        Args:
            numbers: of clean images, two or more; between two of them the quantile is interpolated.
        """
        rate = self.settings.false_rejection_rate
        share = rate if self.measure.refuses == "below" else 1 - rate
        return float(numbers.cpu().double().quantile(share))

    def bounds(self, suspect: Suspect, numbers: Float[Tensor, " batch"]) -> tuple[float, float]:
        """Return the lowest and the highest number that the histograms reach to; others count at the ends.

        Args:
            suspect: the classifier.
            numbers: all that are to be counted.
        """
        return float(numbers.min()), float(numbers.max())

    def limit(self, suspect: Suspect, learned: Mapping[str, Tensor]) -> float | None:
        """Return the number beyond which none lies on the side that is refused, whatever the image: none is known here.

        A threshold that is there or beyond refuses nothing, which is then said.

        Args:
            suspect: the classifier.
            learned: what :meth:`learn` returned.
        """
        return None

    def refused(self, numbers: Float[Tensor, " batch"], threshold: float) -> Bool[Tensor, " batch"]:
        """Return which images are refused."""
        return numbers < threshold if self.measure.refuses == "below" else numbers > threshold

    def check(self, suspect: Suspect, clean: CleanData) -> None:
        """Check the data, and that they suffice for two halves that have a standard deviation.

        Raises:
            DefenseError: they do not.
        """
        super().check(suspect, clean)
        images = len(clean.images)
        for name, kind in (("settings", DetectorSettings), ("measure", Measure)):
            if not isinstance(found := getattr(self, name, None), kind):
                raise DefenseError(
                    f"{self.name}: expected {name} of {kind.__name__}, as all detectors have them; found "
                    f"{'none' if found is None else type(found).__name__}; give it to the class"
                )
        count = self.references(images)
        if not isinstance(count, int) or count < 0:
            raise DefenseError(
                f"{self.name}: expected references to return how many images, a whole number from 0; found {count!r}"
            )
        if images - count < self.fewest_judged:
            enough = (
                more for more in range(images, 2 * images + 1000) if more - self.references(more) >= self.fewest_judged
            )
            if (needed := next(enough, None)) is None:
                raise DefenseError(
                    f"{self.name}: expected references to leave at least {self.fewest_judged} of {images} images, by "
                    f"which the threshold is set and measured; found {images - count} left; ask for fewer"
                )
            raise DefenseError(
                f"clean data: expected at least {needed} images for {self.name}; found {images}; give more"
            )

    def examine(self, suspect: Suspect, clean: CleanData, seed: int, progress: Progress) -> Examination:
        """Learn from one part of the clean images, set the threshold on another, and measure it on a third."""
        device = clean.images.device
        order = torch.randperm(len(clean.images), generator=torch.Generator().manual_seed(seed))
        count = self.references(len(order))
        references, rest = order[:count], order[count:]
        half = min(self.settings.images, len(rest) // 2)
        setting, held_out = rest[:half], rest[half : half + self.settings.images]
        chosen = references.to(device)
        # Where learning tells of its progress, it takes its part of the time by its number of images.
        share = count / (count + half + len(held_out))
        before = 0.0

        def learning(done: float) -> None:
            nonlocal before
            before = share * done
            progress(before)

        learned = self.learn(suspect, CleanData(clean.images[chosen], clean.labels[chosen], clean.split), learning)
        self._check_learned(learned)
        found = self._measured(
            suspect,
            learned,
            clean.pixels[torch.cat([setting, held_out]).to(device)],
            lambda done: progress(before + (1 - before) * done),
        )
        numbers = found[self.measure.plural]
        threshold = self.set_threshold(numbers[:half])
        rate, *interval = rate_with_interval(self.refused(numbers[half:], threshold))
        low, high = interval
        asked = in_percent(self.settings.false_rejection_rate, 1)
        limit = self.limit(suspect, learned)
        nothing = (
            limit is not None
            and math.isfinite(limit)
            and not self.refused(numbers.new_tensor([limit]), threshold).item()
        )
        caveat = (
            f" No {self.measure.name} is {self.measure.refuses} {limit:.3g}, so that this threshold refuses nothing, "
            "whatever trigger there is."
            if nothing
            else ""
        )
        return Examination(
            "no-verdict",
            f"Images with {self.measure.with_article} {self.measure.refuses} {self.measure.in_words(threshold)} are "
            f"refused: {in_percent(rate, 1)} of {len(held_out)} held-out clean images (95 % interval {percent(low, 1)} "
            f"to {in_percent(high, 1)}), where {asked} was asked for.{caveat}",
            {
                "measure": self.measure.name,
                "unit": self.measure.unit,
                "refuses": self.measure.refuses,
                "threshold": threshold,
                "refuses_nothing": nothing,
                "reference_images": count,
                "threshold_images": half,
                "held_out_images": len(held_out),
                f"mean_{self.measure.name}": float(numbers[:half].mean()),
                "held_out_false_rejection_rate": rate,
                "held_out_false_rejection_interval": interval,
            },
            {
                **{name: values.cpu().numpy() for name, values in learned.items()},
                "reference_indices": references.numpy(),
                "threshold_indices": setting.numpy(),
                "held_out_indices": held_out.numpy(),
                **{f"threshold_{name}": values[:half].cpu().numpy() for name, values in found.items()},
                **{f"held_out_{name}": values[half:].cpu().numpy() for name, values in found.items()},
            },
        )

    def score(
        self, finding: Finding, suspect: Suspect, trial: Trial, *, progress: Progress = lambda share: None
    ) -> Score:
        """Return how many clean and triggered test images are refused, and how well the numbers tell them apart.

        The images are drawn by the finding's seed, the same with and without their triggers; the array ``indices`` says
        which these are, in the order of their numbers.
        """
        pixels = trial.clean.pixels
        learned = {name: torch.from_numpy(values).to(pixels.device) for name, values in finding.arrays.items()}
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(finding.seed))
        chosen = order[: self.settings.images].to(pixels.device)
        threshold = finding.scores["threshold"]
        plural = self.measure.plural
        share = 1.0 if trial.backdoor is None else 0.5
        found = {"clean": self._measured(suspect, learned, pixels[chosen], lambda done: progress(share * done))}
        if trial.poisoned is not None:
            found["triggered"] = self._measured(
                suspect, learned, trial.poisoned.images[chosen], lambda done: progress(0.5 + done / 2)
            )
        clean = found["clean"][plural]
        rate, *interval = rate_with_interval(self.refused(clean, threshold))
        scores: dict[str, Any] = {
            "threshold": threshold,
            "images": len(chosen),
            "false_rejection_rate": rate,
            "false_rejection_interval": interval,
            "false_acceptance_rate": None,
            "false_acceptance_interval": None,
            "false_acceptance_rate_excluding_target": None,
            "auroc": None,
            f"mean_{self.measure.name}_clean": float(clean.mean()),
            f"mean_{self.measure.name}_triggered": None,
        }
        words = f"{in_percent(rate, 1)} of {len(chosen)} test images are refused without a trigger"
        if trial.poisoned is None:
            words += "; the model is clean, so there is nothing to catch."
        else:
            triggered = found["triggered"][plural]
            accepted = ~self.refused(triggered, threshold)
            missed, *interval = rate_with_interval(accepted)
            others = trial.clean.labels[chosen] != trial.poisoned.targets[chosen]
            sign = 1 if self.measure.refuses == "below" else -1
            scores["false_acceptance_rate"] = missed
            scores["false_acceptance_interval"] = interval
            scores["false_acceptance_rate_excluding_target"] = mean_over(accepted, others)
            scores["auroc"] = area_under_curve(sign * clean, sign * triggered)
            scores[f"mean_{self.measure.name}_triggered"] = float(triggered.mean())
            meaning = (
                "below 0.5: with triggers they look less suspicious" if scores["auroc"] < 0.5 else "0.5: not at all"
            )
            words += (
                f"; with their triggers {in_percent(missed, 1)} pass. {self.measure.name.capitalize()} tells the two "
                f"apart with an area under the ROC curve of {scores['auroc']:.3f} ({meaning})."
            )
        everything = torch.cat([numbers[plural] for numbers in found.values()])
        low, high = self.bounds(suspect, everything)
        if not -math.inf < low <= high < math.inf:
            raise DefenseError(
                f"{self.name}: expected bounds of the histograms, the lower one first; found {low!r} and {high!r}"
            )
        scores["outside_histogram"] = int(((everything < low) | (everything > high)).sum())
        edges = np.linspace(low, high, _BINS + 1)
        arrays = {"indices": chosen.cpu().numpy(), "bin_edges": edges}
        for kind, numbers in found.items():
            arrays |= {f"{kind}_{name}": values.cpu().numpy() for name, values in numbers.items()}
            arrays[f"{kind}_histogram"] = _histogram(numbers[plural], edges)
        return Score(words, scores, arrays)

    def _check_learned(self, learned: object) -> None:
        """Check what :meth:`learn` returned.

        Raises:
            DefenseError: it is no dictionary of tensors with names that no other array has.
        """
        if not isinstance(learned, dict):
            raise DefenseError(
                f"{self.name}: expected learn to return a dictionary of tensors; found {type(learned).__name__}"
            )
        for name, values in learned.items():
            if not isinstance(values, Tensor) or str(name).startswith(_OTHERS):
                raise DefenseError(
                    f"{self.name}: expected learn to return tensors, with names that do not begin with "
                    f"{', '.join(_OTHERS)}; found {type(values).__name__} as {name!r}"
                )

    def _measured(
        self,
        suspect: Suspect,
        learned: Mapping[str, Tensor],
        pixels: Float[Tensor, "batch channel height width"],
        progress: Progress,
    ) -> dict[str, Tensor]:
        """Return what :meth:`measured` does, checked.

        Raises:
            DefenseError: it is not a finite number for each image, by the measure's plural.
        """
        found, plural = self.measured(suspect, learned, pixels, progress), self.measure.plural
        if not isinstance(found, dict) or plural not in found:
            what = f"one with {', '.join(map(repr, found))}" if isinstance(found, dict) else type(found).__name__
            raise DefenseError(
                f"{self.name}: expected measured to return a dictionary with {plural!r}, the measure's plural; found "
                f"{what}"
            )
        for name, values in found.items():
            if not isinstance(values, Tensor) or len(values.shape) < 1 or len(values) != len(pixels) or name in _TAKEN:
                what = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
                raise DefenseError(
                    f"{self.name}: expected measured to return tensors, an entry for each of {len(pixels)} images, "
                    f"none of them {' or '.join(_TAKEN)}; found {what} as {name!r}"
                )
        numbers = found[plural].detach().float()
        if numbers.ndim != 1 or not torch.isfinite(numbers).all():
            what = f"shape {tuple(numbers.shape)}" if numbers.ndim != 1 else "NaN or infinity"
            raise DefenseError(f"{self.name}: expected {plural}, a finite number for each image; found {what}")
        return {**{name: values.detach() for name, values in found.items()}, plural: numbers}


def rate_with_interval(hits: Tensor) -> tuple[float, float, float]:
    """Return the share of hits with Wilson's 95 % interval, which holds for few images and for rates near 0 too."""
    from scipy.stats import binomtest  # here, since it takes a second

    count = int(hits.sum())
    low, high = binomtest(count, len(hits)).proportion_ci(method="wilson")
    return count / len(hits), float(low), float(high)


def _histogram(numbers: Float[Tensor, " batch"], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    # Rounding may lift a number above the highest one that there is.
    return np.histogram(np.clip(numbers.cpu().numpy(), edges[0], edges[-1]), edges)[0]
