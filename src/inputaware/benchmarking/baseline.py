"""The same training written plainly: what a reader of the paper would write down first.

Architecture, batch, losses and optimisers are the product's. Plain are the memory layout (contiguous), ``nn.Dropout``,
torch's own convolution for the first layer, and the generators, which run once for the images and once more for their
partners.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from inputaware.attacks.base import Recipe, Stage, StepLoss
from inputaware.attacks.input_aware import JointStage, MaskStage
from inputaware.attacks.losses import diversity_loss, mask_norm_loss
from inputaware.attacks.targets import target_labels
from inputaware.attacks.trigger import apply_trigger
from inputaware.data.loader import Batch
from inputaware.models.mnist_cnn import MnistCnn

__all__ = ["PlainJointStage", "PlainMaskStage", "PlainMnistCnn", "plain_copy", "plain_stage"]

_Network = TypeVar("_Network", bound=nn.Module)


class PlainMnistCnn(nn.Module):
    """The classifier for grey images from torch's own layers, with the weights of the product's.

    Args:
        network: the product's network, which is left as it is.
    """

    def __init__(self, network: MnistCnn) -> None:
        super().__init__()
        channels, _, height, width = network.first_convolution.weight.shape
        self.normalize = copy.deepcopy(network.normalize)
        self.first_convolution = nn.Conv2d(1, channels, (height, width))
        self.first_dropout = nn.Dropout(network.dropout)
        self.second_convolution = copy.deepcopy(network.second_convolution)
        self.second_dropout = nn.Dropout(network.dropout)
        self.hidden = copy.deepcopy(network.hidden)
        self.hidden_dropout = nn.Dropout(network.dropout)
        self.output = copy.deepcopy(network.output)
        self.to(network.output.weight)
        self.load_state_dict(network.state_dict())

    def forward(self, images: Float[Tensor, "batch 1 28 28"]) -> Float[Tensor, "batch classes"]:
        """Return the logits.

        Args:
            images: pixels in [0, 1].
        """
        values = F.relu(self.first_convolution(self.normalize(images)))
        values = F.max_pool2d(self.first_dropout(values), 2)
        values = F.relu(self.second_convolution(values))
        values = F.max_pool2d(self.second_dropout(values), 2)
        values = self.hidden_dropout(F.relu(self.hidden(values.flatten(1))))
        logits: Tensor = self.output(values)
        return logits


def plain_copy(network: _Network) -> _Network | PlainMnistCnn:
    """Return a network of its own, plainly written and laid out contiguously: the same architecture, weights and mode.

    preact-resnet18 and the generators are plain already but for their layout: they are copied.
    """
    copied = PlainMnistCnn(network) if isinstance(network, MnistCnn) else copy.deepcopy(network)
    return copied.train(network.training).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]


class PlainMaskStage(Stage):
    """Stage 1 with a pass of the generator for the images and one for their partners.

    Args:
        stage: the product's stage, whose networks are copied.
    """

    def __init__(self, stage: MaskStage) -> None:
        self.averaging = stage.averaging
        self.generator = plain_copy(stage.generator)
        self.recipes = {"mask_generator": Recipe(self.generator, stage.config.optimizer)}
        self.normalize = stage.normalize
        self.config = stage.config

    def loss(self, batch: Batch, progress: float) -> StepLoss:
        """Return size and diversity of the masks of a batch."""
        partners = batch.images.roll(1, 0)
        masks = self.generator(batch.images)
        partner_masks = self.generator(partners)
        norm = mask_norm_loss(masks, density=self.config.density)
        diversity = diversity_loss(self.normalize.scale(batch.images - partners), masks - partner_masks)
        total = self.config.lambda_norm * norm + self.config.lambda_div * diversity
        return StepLoss(total, {"norm": norm, "diversity": diversity})


class PlainJointStage(Stage):
    """Stage 2 with a pass of each generator for the images and one for their partners.

    Args:
        stage: the product's stage, whose networks are copied.
    """

    def __init__(self, stage: JointStage) -> None:
        self.averaging = stage.averaging
        self.classifier = plain_copy(stage.classifier)
        self.mask_generator = plain_copy(stage.mask_generator)
        self.pattern_generator = plain_copy(stage.pattern_generator)
        self.recipes = {
            "classifier": Recipe(self.classifier, stage.config.classifier),
            "pattern_generator": Recipe(self.pattern_generator, stage.config.generator),
        }
        self.product = stage

    def loss(self, batch: Batch, progress: float) -> StepLoss:
        """Return cross-entropy of the three parts of a batch and diversity of the patterns."""
        product, config = self.product, self.product.config
        attack_count, cross_count = product.layout(batch, progress)
        images, labels = batch.images, batch.labels
        sources = images[:attack_count]
        partners = sources.roll(1, 0)
        patterns, partner_patterns = self.pattern_generator(sources), self.pattern_generator(partners)
        with torch.no_grad():
            masks, partner_masks = self.mask_generator(sources), self.mask_generator(partners)
        # A batch may have more images in its cross part than there are partners: these then serve again.
        turn = torch.arange(cross_count, device=images.device) % attack_count
        attacked = apply_trigger(sources, masks, patterns)
        crossed = apply_trigger(
            images[attack_count : attack_count + cross_count], partner_masks[turn], partner_patterns[turn]
        )
        logits = self.classifier(torch.cat([attacked, crossed, images[attack_count + cross_count :]]))
        wanted = target_labels(labels[:attack_count], product.target, product.classes, product.target_class)
        cross_entropy = F.cross_entropy(
            logits, torch.cat([wanted, labels[attack_count:]]), label_smoothing=config.label_smoothing
        )
        diversity = diversity_loss(
            product.normalize.scale(sources - partners), product.normalize.scale(patterns - partner_patterns)
        )
        return StepLoss(
            cross_entropy + config.lambda_div * diversity, {"cross_entropy": cross_entropy, "diversity": diversity}
        )


def plain_stage(stage: MaskStage | JointStage) -> PlainMaskStage | PlainJointStage:
    """Return a stage's plain counterpart, with networks of its own that start from the same weights."""
    return PlainMaskStage(stage) if isinstance(stage, MaskStage) else PlainJointStage(stage)
