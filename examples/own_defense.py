"""A defense of one's own: inputaware defend RUN examples/own_defense.py:FeatureSqueezing --feature-squeezing.side 5.

Feature squeezing as a detector (Xu, Evans & Qi 2018, *Feature Squeezing*, NDSS): what the classifier says of an
image and of the smoothed image is compared. Where the two are far apart, the image is refused.
"""

from dataclasses import dataclass

from torch import Tensor

from inputaware.defenses.base import CleanData, Defense, Examination, Finding, Progress, Score, Suspect, Trial
from inputaware.defenses.image_regularization import median_filter
from inputaware.defenses.settings import Settings
from inputaware.defenses.strip import area_under_curve
from inputaware.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SqueezingSettings(Settings):
    """Are options of the command line, written into the result, and checked when the defense is made."""

    side: int = 3
    """Side of the median filter's window in pixels, an odd number."""
    false_rejection_rate: float = 0.01
    """Share of the defender's clean images that the threshold refuses."""

    def check(self) -> None:
        """Refuse a window without a middle, and a rate that is none."""
        if self.side < 1 or self.side % 2 == 0:
            raise ConfigError(f"side: expected an odd number above 0; found {self.side!r}")
        if not 0 < self.false_rejection_rate < 1:
            raise ConfigError(
                f"false_rejection_rate: expected a number above 0 and below 1; found {self.false_rejection_rate!r}"
            )


class FeatureSqueezing(Defense):
    """Refuses an image whose prediction moves when it is smoothed."""

    name = "feature-squeezing"  # its result is RUN/defenses/feature-squeezing.json

    settings: SqueezingSettings  # whose defaults are taken where none are handed over

    def distances(self, suspect: Suspect, pixels: Tensor) -> Tensor:
        """Return ``|p(x) - p(squeezed x)|``, summed over the classes: from 0 to 2."""
        original = suspect.logits(pixels).softmax(1)
        squeezed = suspect.logits(median_filter(pixels, self.settings.side)).softmax(1)
        return (original - squeezed).abs().sum(1)

    def examine(self, suspect: Suspect, clean: CleanData, seed: int, progress: Progress) -> Examination:
        """Set the threshold. This part gets the classifier and clean images, and never sees the backdoor."""
        distances = self.distances(suspect, clean.pixels)
        threshold = float(distances.quantile(1 - self.settings.false_rejection_rate))
        return Examination(
            "no-verdict",  # on the model; "flagged" and "not-flagged" are for defenses that judge models
            f"Images whose prediction moves by more than {threshold:.3f} are refused.",
            {"threshold": threshold},
            {"distances": distances.cpu().numpy()},
        )

    def score(
        self, finding: Finding, suspect: Suspect, trial: Trial, *, progress: Progress = lambda share: None
    ) -> Score:
        """Say how it did on test images with and without triggers; a clean model has none."""
        threshold = finding.scores["threshold"]
        clean = self.distances(suspect, trial.clean.pixels)
        progress(0.5)
        scores = {"false_rejection_rate": float((clean > threshold).double().mean())}
        words = f"{scores['false_rejection_rate']:.1%} of {len(clean)} clean test images are refused"
        if trial.poisoned is not None:
            triggered = self.distances(suspect, trial.poisoned.images)
            scores["false_acceptance_rate"] = float((triggered <= threshold).double().mean())
            # The lower of two numbers counts as triggered there, as STRIP's entropies have it.
            scores["auroc"] = area_under_curve(-clean, -triggered)
            words += (
                f", and {scores['false_acceptance_rate']:.1%} of those with a trigger are accepted; "
                f"the area under the ROC curve is {scores['auroc']:.3f}"
            )
        return Score(words + ".", scores)
