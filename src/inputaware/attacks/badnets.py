"""The controls: BadNets (Gu et al. 2017), one fixed patch for every image, and a clean model."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from inputaware.attacks.base import Attack, Backdoor, Recipe, Stage, StepLoss
from inputaware.attacks.targets import target_labels
from inputaware.attacks.trigger import apply_trigger
from inputaware.config.checks import images_in_batch
from inputaware.config.fields import Config, PatchName
from inputaware.data.loader import Batch
from inputaware.data.spec import DatasetSpec
from inputaware.models.registry import build_classifier

__all__ = ["BadNets", "BadNetsBackdoor", "ClassifierStage", "Clean", "PatchTrigger"]

_SIDE = 3
"""Side of the patch in pixels."""
_MARGIN = 1
"""Pixels between the patch and the border."""


class PatchTrigger(nn.Module):
    """A patch of 3x3 pixels one pixel from the bottom right corner: a checkerboard with white corners, or all white.

    Its mask and pattern are buffers, so that a run folder keeps them as it keeps a generator's weights.

    Args:
        shape: channels, height and width of the images.
        name: which of the two.
    """

    mask: Tensor
    pattern: Tensor

    def __init__(self, shape: tuple[int, int, int], name: PatchName) -> None:
        super().__init__()
        channels, height, width = shape
        rows = slice(height - _MARGIN - _SIDE, height - _MARGIN)
        columns = slice(width - _MARGIN - _SIDE, width - _MARGIN)
        mask = torch.zeros(1, height, width)
        mask[:, rows, columns] = 1
        pattern = torch.zeros(channels, height, width)
        steps = torch.arange(_SIDE)
        pattern[:, rows, columns] = 1 if name == "white" else ((steps[:, None] + steps) % 2 == 0).float()
        self.register_buffer("mask", mask)
        self.register_buffer("pattern", pattern)

    def forward(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> tuple[Float[Tensor, "batch 1 height width"], Float[Tensor, "batch channel height width"]]:
        """Return the same mask and pattern for each image."""
        return self.mask.expand(len(images), -1, -1, -1), self.pattern.expand(len(images), -1, -1, -1)


class BadNetsBackdoor(Backdoor):
    """A patch that works on every image.

    Args:
        patch: returns masks and patterns of images.
        spec: the data set.
        config: the run's configuration.
    """

    universal = True

    def __init__(self, patch: nn.Module, spec: DatasetSpec, config: Config) -> None:
        super().__init__(shape=spec.shape, classes=spec.classes, target=config.target, target_class=config.target_class)
        self.patch = patch

    @property
    def precision(self) -> torch.dtype | None:
        """That of the patch; none where it holds no such numbers."""
        return next((value.dtype for value in self.patch.state_dict().values() if value.is_floating_point()), None)

    def make_trigger(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> tuple[Float[Tensor, "batch 1 height width"], Float[Tensor, "batch channel height width"]]:
        """Return the patch for each image."""
        return self.patch(images)  # type: ignore[no-any-return]


class ClassifierStage(Stage):
    """The classifier alone, with a share of each batch poisoned by a fixed patch, or none.

    Args:
        classifier: the network to train.
        patch: the patch, stamped after augmentation; none trains a clean model.
        spec: the data set.
        config: the run's configuration; its joint stage gives the schedule.
    """

    def __init__(self, classifier: nn.Module, patch: nn.Module | None, spec: DatasetSpec, config: Config) -> None:
        joint = config.joint_stage
        self.name = "joint"
        self.epochs = joint.epochs
        self.batch_size = joint.batch_size
        self.averaging = joint.averaging
        self.recipes = {"classifier": Recipe(classifier, joint.classifier)}
        self.classifier = classifier
        self.patch = patch
        self.classes = spec.classes
        self.target = config.target
        self.target_class = config.target_class
        self.label_smoothing = joint.label_smoothing
        self.attack_probability = joint.attack_probability

    def layout(self, batch: Batch, progress: float) -> tuple[int, ...]:
        """Return nothing but that steps are alike."""
        return ()

    def loss(self, batch: Batch, progress: float) -> StepLoss:
        """Return the cross-entropy of a batch, its first images with the patch and the attacker's labels."""
        mine, images, labels = self.share.mine, batch.images, batch.labels
        if self.patch is None:
            images, labels = mine(images), mine(labels)
        else:
            count = images_in_batch(self.attack_probability, len(images))
            sources = mine(images[:count])
            masks, patterns = (value.to(sources.dtype) for value in self.patch(sources))
            images = torch.cat([apply_trigger(sources, masks, patterns), mine(images[count:])])
            wanted = target_labels(mine(labels[:count]), self.target, self.classes, self.target_class)
            labels = torch.cat([wanted, mine(labels[count:])])
        logits = self.classifier(images)
        cross_entropy = F.cross_entropy(logits.to(images.dtype), labels, label_smoothing=self.label_smoothing)
        cross_entropy = self.share.weigh(cross_entropy, len(images), len(batch.images))
        return StepLoss(cross_entropy, {"cross_entropy": cross_entropy})


class Clean(Attack):
    """No attack: the control that every defense must leave alone.

    Args:
        config: the run's configuration.
        spec: the data set.
    """

    name = "none"

    def __init__(self, config: Config, spec: DatasetSpec) -> None:
        self.config = config
        self.spec = spec
        self.modules = {"classifier": build_classifier(config.model, spec)}
        self.backdoor = None

    def stages(self) -> Iterator[Stage]:
        """Yield the one stage that trains the classifier."""
        yield ClassifierStage(self.classifier, None, self.spec, self.config)


class BadNets(Attack):
    """A fixed patch, stamped on a tenth of each batch: the control that every defense must catch.

    Args:
        config: the run's configuration.
        spec: the data set.
    """

    name = "badnets"

    def __init__(self, config: Config, spec: DatasetSpec) -> None:
        self.config = config
        self.spec = spec
        self.patch = self.make_patch()
        self.modules = {"classifier": build_classifier(config.model, spec), "trigger": self.patch}
        self.backdoor = BadNetsBackdoor(self.patch, spec, config)

    def make_patch(self) -> nn.Module:
        """Return what makes masks and patterns of images; other fixed triggers are derived from this class with one."""
        return PatchTrigger(self.spec.shape, self.config.patch)

    def stages(self) -> Iterator[Stage]:
        """Yield the one stage that trains the classifier."""
        yield ClassifierStage(self.classifier, self.patch, self.spec, self.config)
