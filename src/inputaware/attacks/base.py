"""What every attack states: its networks, its training stages, and the backdoor that comes out.

The training loop knows no attack. It runs the stages that an :class:`Attack` lists; each
:class:`Stage` says which networks are trained by which optimiser and what a batch costs. What the
attacker keeps afterwards, the way to apply the trigger, is a :class:`Backdoor`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from inputaware.attacks.share import WHOLE, Share
from inputaware.attacks.targets import check_target, target_labels
from inputaware.attacks.trigger import apply_trigger
from inputaware.config.fields import Config, OptimizerConfig, TargetName
from inputaware.data.loader import Batch, in_chunks
from inputaware.data.spec import DatasetSpec
from inputaware.errors import ConfigError, DataError
from inputaware.models.precision import full_float32

__all__ = ["Attack", "Backdoor", "Poisoned", "Recipe", "Stage", "StepLoss"]


@dataclass(frozen=True)
class Poisoned:
    """Images with their triggers applied, and what was applied.

    Attributes:
        images: poisoned images, pixels in [0, 1].
        masks: where the trigger lies, in [0, 1].
        patterns: what the trigger shows, pixels in [0, 1].
        targets: the labels that the attacker wants.
    """

    images: Float[Tensor, "batch channel height width"]
    masks: Float[Tensor, "batch 1 height width"]
    patterns: Float[Tensor, "batch channel height width"]
    targets: Int64[Tensor, " batch"]


class Backdoor(ABC):
    """The attacker's side of a trained model: how to make a trigger and which label it asks for.

    Args:
        shape: channels, height and width of the images.
        classes: how many classes there are.
        target: the rule from the true label to the attacker's.
        target_class: the class of all-to-one.

    Raises:
        ConfigError: the shape is none, there are fewer than two classes, or there is no such rule or target class.
    """

    shape: tuple[int, int, int]
    classes: int
    target: TargetName
    target_class: int
    universal: bool = False
    """Whether one trigger serves every image, so that a cross-trigger test has no meaning."""

    def __init__(self, *, shape: tuple[int, int, int], classes: int, target: TargetName, target_class: int) -> None:
        _check_sizes(shape, classes)
        check_target(target, classes, target_class)
        channels, height, width = shape
        self.shape = channels, height, width
        self.classes = classes
        self.target = target
        self.target_class = target_class

    @abstractmethod
    def make_trigger(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> tuple[Float[Tensor, "batch 1 height width"], Float[Tensor, "batch channel height width"]]:
        """Return mask and pattern of each image of a chunk; called in evaluation mode, float32, without gradients."""

    @property
    def precision(self) -> torch.dtype | None:
        """The precision that pixels need, which is the trigger's; none: any."""
        return None

    @final
    def trigger(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> tuple[Float[Tensor, "batch 1 height width"], Float[Tensor, "batch channel height width"]]:
        """Return mask and pattern of each image, in float32 as all that judges a trigger is, and without gradients.

        Args:
            images: clean images, pixels in [0, 1].

        Returns:
            The masks in [0, 1] and the patterns as pixels in [0, 1].

        Raises:
            ConfigError: the class has not called ``super().__init__``.
            DataError: the images have another shape than the ones that the attack was trained on, no floating-point
                numbers, or those of another precision than the trigger's, or pixels outside [0, 1]; or they are no
                tensor; or the triggers have another shape than the images, or values outside [0, 1].
        """
        self._check_made()
        _check_tensor("images", images, "torch.from_numpy(images).float()")
        if images.ndim != 4 or tuple(images.shape[1:]) != self.shape:
            raise DataError(
                f"images: expected a tensor of shape (batch, {', '.join(map(str, self.shape))}); "
                f"found {tuple(images.shape)}"
            )
        if not images.is_floating_point():  # black and white bytes would pass for pixels
            raise DataError(
                f"images: expected pixels in [0, 1] as floating-point numbers; found {images.dtype}; "
                "divide bytes by 255"
            )
        if self.precision not in (None, images.dtype):
            raise DataError(
                f"images: expected pixels in the trigger's precision, {self.precision}; found {images.dtype}; "
                f"convert them with images.to({self.precision})"
            )
        # Not a number is no pixel either.
        if len(images) and not (images.min() >= 0 and images.max() <= 1):
            remedy = "take out what is no number" if images.isnan().any() else "divide bytes by 255"
            raise DataError(
                f"images: expected pixels in [0, 1]; found {images.min().item():g} to {images.max().item():g}; {remedy}"
            )
        with torch.no_grad(), full_float32():
            parts = [self.make_trigger(chunk) for chunk in in_chunks(images)]
        masks, patterns = torch.cat([mask for mask, _ in parts]), torch.cat([pattern for _, pattern in parts])
        _check_trigger("masks", masks, (len(images), 1, *self.shape[1:]))
        _check_trigger("patterns", patterns, (len(images), *self.shape))
        return masks, patterns

    @final
    def targets(self, labels: Int64[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
        """Return the labels that the attacker wants for images of these true labels."""
        self._check_made()
        return target_labels(labels, self.target, self.classes, self.target_class)

    @final
    def poison(self, images: Float[Tensor, "batch channel height width"], labels: Int64[Tensor, " batch"]) -> Poisoned:
        """Return the images with their own triggers applied: ``B(x, x) = x + (p(x) - x) * m(x)``; without gradients.

        Args:
            images: clean images, pixels in [0, 1].
            labels: their true labels.

        Raises:
            DataError: the images have another shape than the ones that the attack was trained on, no floating-point
                numbers, or those of another precision than the trigger's, or pixels outside [0, 1]; or there are not
                as many labels as images, or they are no whole numbers of 64 bits, or one is of no class; or one of both
                is no tensor.
        """
        self._check_made()
        _check_tensor("images", images, "torch.from_numpy(images).float()")
        _check_tensor("labels", labels, "torch.from_numpy(labels)")
        if labels.dtype != torch.int64:
            raise DataError(
                f"labels: expected whole numbers of 64 bits, torch.int64; found {labels.dtype}; "
                "convert them with labels.long()"
            )
        if labels.shape != images.shape[:1]:
            raise DataError(
                f"labels: expected a tensor of shape ({len(images)},), a class for each image; "
                f"found {tuple(labels.shape)}"
            )
        if len(labels) and not (labels.min() >= 0 and labels.max() < self.classes):
            raise DataError(
                f"labels: expected classes from 0 to {self.classes - 1}; found {labels.min()} to {labels.max()}"
            )
        masks, patterns = self.trigger(images)
        # A gradient of the blend alone, with the trigger for a constant, would be that of no function of the image.
        with torch.no_grad():
            return Poisoned(apply_trigger(images, masks, patterns), masks, patterns, self.targets(labels))

    def _check_made(self) -> None:
        """Say what a class lacks that has not called ``super().__init__``."""
        missing = [name for name in ("shape", "classes", "target", "target_class") if not hasattr(self, name)]
        if missing:
            raise ConfigError(
                f"{type(self).__name__}: expected a backdoor with its {missing[0]}; found none; call "
                "super().__init__(shape=..., classes=..., target=..., target_class=...) in its __init__"
            )


def _check_sizes(shape: object, classes: object) -> None:
    sizes = list(shape) if isinstance(shape, Sequence) else []
    if len(sizes) != 3 or not all(isinstance(size, int | np.integer) and size >= 1 for size in sizes):
        raise ConfigError(
            "shape: expected three whole numbers of at least 1, the channels, height and width of an image; found "
            f"{shape!r}"
        )
    if not isinstance(classes, int | np.integer) or classes < 2:
        raise ConfigError(f"classes: expected a whole number of at least 2; found {classes!r}")


def _check_tensor(name: str, value: object, remedy: str) -> None:
    if not isinstance(value, Tensor):
        raise DataError(f"{name}: expected a tensor; found {type(value).__name__}; for arrays of NumPy take {remedy}")


def _check_trigger(name: str, values: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(values.shape) != shape or not values.is_floating_point():
        raise DataError(
            f"make_trigger: expected {name} of shape {shape}, floating-point numbers; "
            f"found {tuple(values.shape)}, {values.dtype}; return one for each image"
        )
    # Far above what rounding does. What is no number comes of a generator that is none, and is no matter of scale.
    if len(values) and (values.min() < -1e-3 or values.max() > 1 + 1e-3):
        raise DataError(
            f"make_trigger: expected {name} in [0, 1]; found {values.min().item():g} to {values.max().item():g}; "
            "divide bytes by 255"
        )


@dataclass(frozen=True)
class StepLoss:
    """What a batch costs.

    Attributes:
        total: the scalar to minimise.
        parts: its named terms before weighting, for the record.
    """

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]

    def __post_init__(self) -> None:
        """Refuse a part that would be taken for the total."""
        if {"total", ""} & set(self.parts):
            raise ConfigError("loss: expected parts with names of their own; found one called 'total' or nothing")


@dataclass(frozen=True)
class Recipe:
    """A network and the optimiser that trains it."""

    module: nn.Module
    optimizer: OptimizerConfig


class Stage(ABC):
    """A part of the training with its own networks, loss and schedule.

    Attributes:
        name: how it is called in the record.
        epochs: passes over the training split.
        batch_size: images in a step.
        recipes: what is trained, by the network's name.
        paired: whether the loss compares images with partners, so that the loader has to provide them.
        averaging: decay of the moving average of the weights that is kept as the result; 0: none.
        share: which part of each batch this process computes; the training loop sets it.
    """

    name: str
    epochs: int
    batch_size: int
    recipes: dict[str, Recipe]
    paired: bool = False
    averaging: float = 0.0
    share: Share = WHOLE

    def layout(self, batch: Batch, progress: float) -> tuple[int, ...] | None:
        """Return by what a step on a GPU is recorded: two steps of one layout and the same shapes share a recording.

        A recording repeats the operations and the numbers of the step that it was made of, on other images and labels.
        So the loss must follow from the batch, the networks and the layout alone: a number that it takes from
        ``progress``, and uses, belongs into the layout. And it must not ask the device for a value. A stage whose loss
        does either returns none, as a stage does that says nothing of it: its steps are never recorded.

        Args:
            batch: as in :meth:`loss`.
            progress: likewise.
        """
        return None

    @abstractmethod
    def loss(self, batch: Batch, progress: float) -> StepLoss:
        """Return what a batch costs; with several processes, what this one's share adds to that.

        Args:
            batch: augmented images, labels and, where they are drawn, partners; the same in all processes.
            progress: the share of the stage that lies behind, in [0, 1).
        """


class Attack(ABC):
    """An attack: the networks it makes and the stages that train them.

    Args:
        config: the run's configuration.
        spec: the data set.

    Attributes:
        name: what configurations call it.
        modules: every network that the run folder keeps, by its file's name; ``classifier`` is one of them.
        backdoor: how to apply the trigger; none for a clean model.
    """

    name: ClassVar[str]
    modules: dict[str, nn.Module]
    backdoor: Backdoor | None

    @abstractmethod
    def __init__(self, config: Config, spec: DatasetSpec) -> None: ...

    @abstractmethod
    def stages(self) -> Iterator[Stage]:
        """Yield the stages in their order; each is made when the one before it is done."""

    @property
    def classifier(self) -> nn.Module:
        """The classifier, all that a defender is handed."""
        return self.modules["classifier"]
