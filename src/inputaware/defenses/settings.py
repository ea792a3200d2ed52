"""The settings of the defenses: frozen dataclasses that are flags, help text and record in one.

Nothing here imports torch, so that the command line can answer ``--help`` at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from inputaware.config.checks import check_number
from inputaware.errors import ConfigError

__all__ = [
    "DEFENSES",
    "PAPER_DEFENSES",
    "AdversarialNeuronPruningSettings",
    "BeatrixSettings",
    "DefenseName",
    "DefenseSettings",
    "DetectorSettings",
    "FinePruningSettings",
    "ImageRegularizationSettings",
    "NeuralCleanseSettings",
    "ScaleUpSettings",
    "Settings",
    "StripSettings",
    "expand_all",
    "field_of",
]

DefenseName = Literal[
    "neural-cleanse",
    "strip",
    "fine-pruning",
    "image-regularization",
    "scale-up",
    "beatrix",
    "adversarial-neuron-pruning",
]

DEFENSES: tuple[DefenseName, ...] = get_args(DefenseName)
"""All defenses, in the order in which they run."""

PAPER_DEFENSES: tuple[DefenseName, ...] = ("neural-cleanse", "strip", "fine-pruning", "image-regularization")
"""Those that the attack's paper has, which run where none is named."""


def expand_all(names: Sequence[Any]) -> list[Any]:
    """Return what is asked for, with the names of all defenses in place of ``all``."""
    return list(itertools.chain(*(DEFENSES if name == "all" else [name] for name in names)))


def field_of(name: str) -> str:
    """Return what the settings of a defense are called among those of all defenses."""
    return name.replace("-", "_")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one defense: none here. Those of a defense derive from it, as a frozen dataclass."""

    def check(self) -> None:
        """Check every range.

        Raises:
            ConfigError: a value is out of its range.
        """


@dataclass(frozen=True, kw_only=True)
class NeuralCleanseSettings(Settings):
    """Neural Cleanse."""

    threshold: float = 2.0
    """Anomaly index above which a class with a small trigger is flagged."""
    trials: int = 1
    """How often the triggers are reversed, each time from another start."""
    rounds: int = 100
    """Most rounds of a search."""
    images_per_round: int = 1000
    """Images of a round, after which success is judged and the cost is set; at most one pass over the clean images."""
    batch_size: int = 32
    """Images in a step."""
    learning_rate: float = 0.1
    """Learning rate of Adam."""
    success_threshold: float = 0.99
    """Share of images that a trigger must turn into its class."""
    initial_cost: float = 0.001
    """First weight of the mask's size."""
    cost_multiplier: float = 2.0
    """Factor by which the weight rises; it falls by this factor's power 1.5."""
    patience: int = 5
    """Rounds in a row after which the weight changes."""
    early_stopping: bool = True
    """End a class's search when its norm no longer falls."""
    early_stop_threshold: float = 0.99
    """A norm above this share of the best one is no progress."""
    early_stop_patience: int = 25
    """Rounds without progress after which a search ends."""
    precision: Literal["32", "bf16"] = "32"
    """Precision of the classifier's passes during the search. bf16: mixed precision."""

    def check(self) -> None:
        """Check every range.

        Raises:
            ConfigError: a value is out of its range.
        """
        check_number("neural_cleanse.threshold", self.threshold, 0, open_low=True)
        check_number("neural_cleanse.trials", self.trials, 1)
        check_number("neural_cleanse.rounds", self.rounds, 1)
        check_number("neural_cleanse.images_per_round", self.images_per_round, 1)
        check_number("neural_cleanse.batch_size", self.batch_size, 1)
        check_number("neural_cleanse.learning_rate", self.learning_rate, 0, open_low=True)
        check_number("neural_cleanse.success_threshold", self.success_threshold, 0, 1, open_low=True)
        check_number("neural_cleanse.initial_cost", self.initial_cost, 0, open_low=True)
        check_number("neural_cleanse.cost_multiplier", self.cost_multiplier, 1, open_low=True)
        check_number("neural_cleanse.patience", self.patience, 1)
        check_number("neural_cleanse.early_stop_threshold", self.early_stop_threshold, 0, 1, open_low=True)
        check_number("neural_cleanse.early_stop_patience", self.early_stop_patience, 1)
        if self.precision not in ("32", "bf16"):
            raise ConfigError(f"neural_cleanse.precision: expected 32 or bf16; found {self.precision!r}")


@dataclass(frozen=True, kw_only=True)
class DetectorSettings(Settings):
    """The settings that all defenses have that judge images."""

    place: ClassVar[str] = ""
    """What stands before a setting's name in an error."""

    images: int = 2000
    """Most images of each kind that are tested: clean ones for the threshold, held-out ones, test images with and
    without triggers."""
    false_rejection_rate: float = 0.01
    """Share of clean images that the threshold is to refuse."""

    def check(self) -> None:
        """Check every range.

        Raises:
            ConfigError: a value is out of its range.
        """
        check_number(f"{self.place}images", self.images, 2)
        check_number(f"{self.place}false_rejection_rate", self.false_rejection_rate, 0, 0.5, open_low=True)


@dataclass(frozen=True, kw_only=True)
class StripSettings(DetectorSettings):
    """STRIP."""

    place = "strip."

    overlays: int = 100
    """Clean images that each tested image is blended with; where there are too few for that, half of them."""

    def check(self) -> None:
        """Check every range.

        Raises:
            ConfigError: a value is out of its range.
        """
        check_number("strip.overlays", self.overlays, 1)
        super().check()


@dataclass(frozen=True, kw_only=True)
class BeatrixSettings(DetectorSettings):
    """Beatrix."""

    place = "beatrix."

    orders: int = 4
    """Highest order of the Gram matrices; all from the first on count alike."""
    bound: float = 10.0
    """Median absolute deviations from the median within which an entry is not counted."""
    references: int = 30
    """Most clean images of each class, as it is predicted, that the bounds are taken from, out of half of all."""
    map: Literal["earlier", "last"] = "earlier"
    """Which map of features is read: the one before the last, as in the authors' release, of the networks of this
    package, or the last one. Of others it is the feature layer in any case."""
    per_class: bool = True
    """Take deviations as multiples of their class's own threshold, which its references give when left out in turn."""
    features: Literal["auto", "raw"] = "auto"
    """auto: negative values of the map count as zero where the rest of the network ignores them, since ReLU comes next.
    raw: the map as its layer returns it."""

    def check(self) -> None:
        """Check every range.

        Raises:
            ConfigError: a value is out of its range.
        """
        check_number("beatrix.orders", self.orders, 1, 16)
        check_number("beatrix.bound", self.bound, 0, open_low=True)
        check_number("beatrix.references", self.references, 3)
        if self.map not in ("earlier", "last"):
            raise ConfigError(f"beatrix.map: expected earlier or last; found {self.map!r}")
        if self.features not in ("auto", "raw"):
            raise ConfigError(f"beatrix.features: expected auto or raw; found {self.features!r}")
        super().check()


@dataclass(frozen=True, kw_only=True)
class FinePruningSettings(Settings):
    """Fine-Pruning."""

    tolerance: float = 0.04
    """Clean accuracy that pruning may cost on held-out data."""
    held_out: float = 0.5
    """Share of the defender's images that choose how many channels are pruned; the others rank and fine-tune."""
    epochs: int = 10
    """Passes of the fine-tuning; 0 leaves it out."""
    batch_size: int = 32
    """Images in a step of the fine-tuning."""
    learning_rate: float = 0.01
    """Learning rate of the fine-tuning, SGD with momentum 0.9."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Course of the learning rate: constant, or along half a cosine to zero."""
    weight_decay: float = 0.0
    """L2 penalty on the weights in the fine-tuning."""
    crop_padding: int = 0
    """Zero padding in pixels before a random crop of each image of the fine-tuning; 0: none."""
    horizontal_flip: bool = False
    """Mirror each image of the fine-tuning with probability one half."""

    def check(self) -> None:
        """Check every range.

        Raises:
            ConfigError: a value is out of its range.
        """
        check_number("fine_pruning.tolerance", self.tolerance, 0, 1)
        check_number("fine_pruning.held_out", self.held_out, 0.05, 0.95)
        check_number("fine_pruning.epochs", self.epochs, 0)
        check_number("fine_pruning.batch_size", self.batch_size, 1)
        check_number("fine_pruning.learning_rate", self.learning_rate, 0, open_low=True)
        if self.schedule not in ("constant", "cosine"):
            raise ConfigError(f"fine_pruning.schedule: expected constant or cosine; found {self.schedule!r}")
        check_number("fine_pruning.weight_decay", self.weight_decay, 0)
        check_number("fine_pruning.crop_padding", self.crop_padding, 0, 32)


@dataclass(frozen=True, kw_only=True)
class ImageRegularizationSettings(Settings):
    """Image regularization."""

    kernels: tuple[int, ...] = (3, 5)
    """Sides of the smoothing windows in pixels: 3, 5 or 7."""
    bits: tuple[int, ...] = (3, 2, 1)
    """Colour depths in bits."""

    def check(self) -> None:
        """Check every range.

        Raises:
            ConfigError: a value is out of its range.
        """
        if not self.kernels or not self.bits:
            raise ConfigError("image_regularization: expected at least one of kernels and one of bits; found none")
        for kernel in self.kernels:
            if kernel not in (3, 5, 7):
                raise ConfigError(f"image_regularization.kernels: expected 3, 5 or 7; found {kernel!r}")
        for bits in self.bits:
            check_number("image_regularization.bits", bits, 1, 8)


@dataclass(frozen=True, kw_only=True)
class ScaleUpSettings(DetectorSettings):
    """SCALE-UP."""

    place = "scale_up."

    factors: tuple[int, ...] = (3, 5, 7, 9, 11)
    """Whole numbers that the pixels of each tested image are multiplied by, one after the other."""
    normalize: bool = True
    """Compare the consistency of an image with that of clean images of its predicted class."""
    references: int = 1000
    """Clean images of all classes that it is compared with; at most half of those that there are."""
    threshold: float = 0.5
    """Consistency above which an image is refused by the second threshold, which clean images do not set."""

    def check(self) -> None:
        """Check every range.

        Raises:
            ConfigError: a value is out of its range.
        """
        if not self.factors:
            raise ConfigError("scale_up.factors: expected at least one; found none")
        for factor in self.factors:
            # 1 leaves an image as it is; by 255 all pixels of 8 bits are white that are not black.
            check_number("scale_up.factors", factor, 2, 255)
        if len(set(self.factors)) < len(self.factors):
            raise ConfigError(f"scale_up.factors: expected each number once; found {self.factors!r}")
        check_number("scale_up.references", self.references, 1)
        check_number("scale_up.threshold", self.threshold, 0)
        super().check()


@dataclass(frozen=True, kw_only=True)
class AdversarialNeuronPruningSettings(Settings):
    """Adversarial Neuron Pruning."""

    threshold: float = 0.2
    """Neurons whose mask is no higher are pruned."""
    tolerance: float = 0.04
    """Clean accuracy that pruning may cost on held-out data, by a second threshold that is shown beside the first."""
    held_out: float = 0.5
    """Share of the defender's images that are held out, on which that accuracy is measured."""
    images: int = 500
    """Most images that the masks are learned on, of those that are not held out."""
    iterations: int = 2000
    """Iterations of the masks' optimisation."""
    batch_size: int = 128
    """Images in an iteration, drawn with replacement."""
    learning_rate: float = 0.2
    """Learning rate of the masks, SGD with momentum 0.9."""
    epsilon: float = 0.4
    """Bound of the perturbation of weights and biases, relative to them."""
    steps: int = 1
    """Gradient steps that look for the worst perturbation."""
    clip: bool = True
    """Keep the perturbation within its bound, as the paper has it; the authors' release does not, and reaches twice as
    far from its random start."""
    alpha: float = 0.2
    """Weight of the loss without a perturbation; that of the loss with one is the rest to 1."""
    crop_padding: int = 0
    """Zero padding in pixels before a random crop of each image; 0: none."""
    horizontal_flip: bool = False
    """Mirror each image with probability one half."""

    def check(self) -> None:
        """Check every range.

        Raises:
            ConfigError: a value is out of its range.
        """
        check_number("adversarial_neuron_pruning.threshold", self.threshold, 0, 1)
        check_number("adversarial_neuron_pruning.tolerance", self.tolerance, 0, 1)
        check_number("adversarial_neuron_pruning.held_out", self.held_out, 0.05, 0.95)
        check_number("adversarial_neuron_pruning.images", self.images, 1)
        check_number("adversarial_neuron_pruning.iterations", self.iterations, 1)
        check_number("adversarial_neuron_pruning.batch_size", self.batch_size, 1)
        check_number("adversarial_neuron_pruning.learning_rate", self.learning_rate, 0, open_low=True)
        check_number("adversarial_neuron_pruning.epsilon", self.epsilon, 0)
        check_number("adversarial_neuron_pruning.steps", self.steps, 1)
        check_number("adversarial_neuron_pruning.alpha", self.alpha, 0, 1)
        check_number("adversarial_neuron_pruning.crop_padding", self.crop_padding, 0, 32)


@dataclass(frozen=True, kw_only=True)
class DefenseSettings:
    """The settings of all defenses."""

    neural_cleanse: NeuralCleanseSettings = field(default_factory=NeuralCleanseSettings)
    """Neural Cleanse (Wang et al. 2019)."""
    strip: StripSettings = field(default_factory=StripSettings)
    """STRIP (Gao et al. 2019)."""
    fine_pruning: FinePruningSettings = field(default_factory=FinePruningSettings)
    """Fine-Pruning (Liu et al. 2018)."""
    image_regularization: ImageRegularizationSettings = field(default_factory=ImageRegularizationSettings)
    """Image regularization."""
    scale_up: ScaleUpSettings = field(default_factory=ScaleUpSettings)
    """SCALE-UP (Guo et al. 2023)."""
    beatrix: BeatrixSettings = field(default_factory=BeatrixSettings)
    """Beatrix (Ma et al. 2023)."""
    adversarial_neuron_pruning: AdversarialNeuronPruningSettings = field(
        default_factory=AdversarialNeuronPruningSettings
    )
    """Adversarial Neuron Pruning (Wu & Wang 2021)."""
