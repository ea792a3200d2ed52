"""A defense of one's own: inputaware defend RUN examples/own_defense.py:FeatureSqueezing --feature-squeezing.side 5.

Feature squeezing as a detector (Xu, Evans & Qi 2018, *Feature Squeezing*, NDSS): what the classifier says of an
image and of the smoothed image is compared. Where the two are far apart, the image is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from inputaware.defenses.base import Progress, Suspect
from inputaware.defenses.detector import InputDetector, Measure
from inputaware.defenses.image_regularization import median_filter
from inputaware.defenses.settings import DetectorSettings
from inputaware.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SqueezingSettings(DetectorSettings):
    """Are options of the command line, written into the result, and checked when the defense is made."""

    side: int = 3
    """Side of the median filter's window in pixels, an odd number."""

    def check(self) -> None:
        """Refuse a window without a middle, and what no detector takes."""
        if self.side < 1 or self.side % 2 == 0:
            raise ConfigError(f"side: expected an odd number above 0; found {self.side!r}")
        super().check()


class FeatureSqueezing(InputDetector):
    """Refuses an image whose prediction moves when it is smoothed."""

    name = "feature-squeezing"  # its result is RUN/defenses/feature-squeezing.json
    measure = Measure("distance", "distances", refuses="above")
    settings: SqueezingSettings  # whose defaults are taken where none are handed over

    def measured(
        self, suspect: Suspect, learned: Mapping[str, Tensor], pixels: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        """Return ``|p(x) - p(squeezed x)|``, summed over the classes: from 0 to 2."""
        original = suspect.logits(pixels).softmax(1)
        squeezed = suspect.logits(median_filter(pixels, self.settings.side)).softmax(1)
        progress(1.0)
        return {"distances": (original - squeezed).abs().sum(1)}
