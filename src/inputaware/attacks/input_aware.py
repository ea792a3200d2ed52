"""The input-aware dynamic backdoor attack of Nguyen and Tran (NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from inputaware.attacks.base import Attack, Backdoor, Recipe, Stage, StepLoss
from inputaware.attacks.encoder_decoder import MaskGenerator, PatternGenerator, build_generators
from inputaware.attacks.losses import diversity_loss, mask_norm_loss
from inputaware.attacks.targets import target_labels
from inputaware.attacks.trigger import apply_trigger
from inputaware.config.checks import images_in_batch
from inputaware.config.fields import Config, JointStageConfig, MaskStageConfig
from inputaware.data.loader import Batch
from inputaware.data.spec import DatasetSpec
from inputaware.errors import ConfigError
from inputaware.models.normalize import Normalize
from inputaware.models.registry import build_classifier

__all__ = ["Attacked", "InputAware", "InputAwareBackdoor", "JointStage", "MaskStage", "probability_at"]


class InputAwareBackdoor(Backdoor):
    """A trigger made by two generators from the image itself: mask ``g_m(x)`` and pattern ``g_p(x)``.

    Args:
        mask_generator: the paper's ``g_m``.
        pattern_generator: the paper's ``g_p``.
        spec: the data set.
        config: the run's configuration.
    """

    def __init__(
        self, mask_generator: MaskGenerator, pattern_generator: PatternGenerator, spec: DatasetSpec, config: Config
    ) -> None:
        super().__init__(shape=spec.shape, classes=spec.classes, target=config.target, target_class=config.target_class)
        self.mask_generator = mask_generator
        self.pattern_generator = pattern_generator

    @property
    def precision(self) -> torch.dtype:
        """That of the generators."""
        return next(self.mask_generator.parameters()).dtype

    def make_trigger(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> tuple[Float[Tensor, "batch 1 height width"], Float[Tensor, "batch channel height width"]]:
        """Return ``g_m(x)`` and ``g_p(x)``."""
        return self.mask_generator.eval()(images), self.pattern_generator.eval()(images)


class MaskStage(Stage):
    """Stage 1: the mask generator alone learns masks that are small and differ from image to image.

    The loss is ``lambda_norm * mean(relu(m - density)) + lambda_div * L_div`` (supplement, section 1.3;
    the form of both terms is the release's).

    Where the loader draws no partners, the batch turned by one image gives them, and one pass of the
    generator serves both sides.

    Args:
        generator: the paper's ``g_m``.
        normalize: the data set's normalisation, in whose units images are compared.
        config: the stage's settings.
    """

    paired = True

    def __init__(self, generator: MaskGenerator, normalize: Normalize, config: MaskStageConfig) -> None:
        self.name = "mask"
        self.epochs = config.epochs
        self.batch_size = config.batch_size
        self.recipes = {"mask_generator": Recipe(generator, config.optimizer)}
        self.generator = generator
        self.normalize = normalize
        self.config = config

    def layout(self, batch: Batch, progress: float) -> tuple[int, ...]:
        """Return nothing but that steps are alike."""
        return ()

    def loss(self, batch: Batch, progress: float) -> StepLoss:
        """Return size and diversity of the masks of a batch."""
        images = batch.images
        masks = self.share.apply(self.generator, images)
        if batch.partners is None:
            partners, partner_masks = images.roll(1, 0), masks.roll(1, 0)
        else:
            partners, partner_masks = batch.partners, self.share.apply(self.generator, batch.partners)
        mine, size = self.share.mine, len(images)
        images, partners, masks, partner_masks = mine(images), mine(partners), mine(masks), mine(partner_masks)
        norm = self.share.weigh(mask_norm_loss(masks, density=self.config.density), len(images), size)
        diversity = diversity_loss(self.normalize.scale(images - partners), masks - partner_masks)
        diversity = self.share.weigh(diversity, len(images), size)
        weight = self.config.lambda_div ** (2 if self.config.lambda_div_twice else 1)
        return StepLoss(self.config.lambda_norm * norm + weight * diversity, {"norm": norm, "diversity": diversity})


def probability_at(progress: float, *, initial: float | None, final: float, ramp: float) -> float:
    """Return a probability that keeps its initial value and goes linearly to its final one over a ramp at the end."""
    if initial is None:
        return final
    return final + (initial - final) * min(1.0, (1.0 - progress) / ramp)


@dataclass(frozen=True)
class Attacked:
    """The images of a batch that carry their own triggers; with gradients, and of this process's share alone.

    Attributes:
        images: without the triggers, pixels in [0, 1].
        masks: in [0, 1], without gradients: the mask generator is frozen.
        patterns: pixels in [0, 1].
        triggered: the images with their triggers.
        wanted: the labels that the attacker wants.
        logits: of the triggered images, in the precision of training.
    """

    images: Float[Tensor, "batch channel height width"]
    masks: Float[Tensor, "batch 1 height width"]
    patterns: Float[Tensor, "batch channel height width"]
    triggered: Float[Tensor, "batch channel height width"]
    wanted: Int64[Tensor, " batch"]
    logits: Float[Tensor, "batch class"]


class JointStage(Stage):
    """Stage 2: classifier and pattern generator together, the mask generator frozen.

    A batch is split into an attack part with its own triggers ``B(x, x)`` and the attacker's labels, a
    cross part with other images' triggers ``B(x, x')`` and the true labels, and a clean part. The loss is
    the cross-entropy of all three plus ``lambda_div * L_div`` between patterns.

    Where the loader draws no partners, the attack part's images are the cross part's ``x'``, and each is
    compared with the next one of the attack part. Every pattern is then made once and used three times.

    Args:
        classifier: the paper's ``f``.
        mask_generator: the paper's ``g_m``, already trained.
        pattern_generator: the paper's ``g_p``.
        spec: the data set.
        config: the run's configuration.
    """

    paired = True

    def __init__(
        self,
        classifier: nn.Module,
        mask_generator: MaskGenerator,
        pattern_generator: PatternGenerator,
        spec: DatasetSpec,
        config: Config,
    ) -> None:
        joint = config.joint_stage
        self.name = "joint"
        self.epochs = joint.epochs
        self.batch_size = joint.batch_size
        self.averaging = joint.averaging
        self.recipes = {
            "classifier": Recipe(classifier, joint.classifier),
            "pattern_generator": Recipe(pattern_generator, joint.generator),
        }
        self.classifier = classifier
        self.mask_generator = mask_generator.eval().requires_grad_(False)
        self.pattern_generator = pattern_generator
        self.normalize = Normalize(spec.mean, spec.std)
        self.classes = spec.classes
        self.target = config.target
        self.target_class = config.target_class
        self.config: JointStageConfig = joint

    def layout(self, batch: Batch, progress: float) -> tuple[int, int]:
        """Return how many images of a batch carry their own and how many another image's trigger."""
        config = self.config
        attack = probability_at(
            progress, initial=config.initial_attack_probability, final=config.attack_probability, ramp=config.ramp
        )
        cross = probability_at(
            progress, initial=config.initial_cross_probability, final=config.cross_probability, ramp=config.ramp
        )
        size = len(batch.images)
        # A batch that lost a self-partner is smaller, and a ramp may end at nothing: as long as there is a part, every
        # process has an image of it.
        least = self.share.count
        attack_count = min(size, max(least, images_in_batch(attack, size)))
        cross_count = max(least, images_in_batch(cross, size)) if cross > 0 else 0
        return attack_count, min(size - attack_count, cross_count)

    def loss(self, batch: Batch, progress: float) -> StepLoss:
        """Return cross-entropy of the three parts of a batch and diversity of the patterns."""
        attack_count, cross_count = self.layout(batch, progress)
        images, labels = batch.images, batch.labels
        sources = images[:attack_count]
        patterns = self.share.apply(self.pattern_generator, sources)
        masks = self._masks(sources)
        if batch.partners is None:
            partners, partner_patterns, partner_masks = sources.roll(1, 0), patterns.roll(1, 0), masks.roll(1, 0)
        else:
            # Without a cross part the attack part's own partners are what the patterns are compared with.
            other = slice(attack_count, attack_count + cross_count) if cross_count else slice(0, attack_count)
            partners = batch.partners[other]
            partner_patterns = self.share.apply(self.pattern_generator, partners)
            partner_masks = self._masks(partners)
        mine, clean = self.share.mine, slice(attack_count + cross_count, None)
        crossing = slice(attack_count, attack_count + cross_count)
        sources, patterns = mine(sources), mine(patterns)
        attacked = apply_trigger(sources, mine(masks), patterns)
        turn = mine(torch.arange(cross_count, device=images.device)) % max(len(partners), 1)
        crossed = apply_trigger(mine(images[crossing]), partner_masks[turn], partner_patterns[turn])
        logits = self.classifier(torch.cat([attacked, crossed, mine(images[clean])]))
        wanted = target_labels(mine(labels[:attack_count]), self.target, self.classes, self.target_class)
        cross_entropy = F.cross_entropy(
            logits.to(images.dtype),
            torch.cat([wanted, mine(labels[crossing]), mine(labels[clean])]),
            label_smoothing=self.config.label_smoothing,
        )
        cross_entropy = self.share.weigh(cross_entropy, len(logits), len(images))
        pair = mine(torch.arange(attack_count, device=images.device)) % len(partners)
        diversity = diversity_loss(
            self.normalize.scale(sources - partners[pair]), self.normalize.scale(patterns - partner_patterns[pair])
        )
        diversity = self.share.weigh(diversity, len(sources), attack_count)
        more = self.further_terms(Attacked(sources, mine(masks), patterns, attacked, wanted, logits[: len(sources)]))
        terms = {name: self.share.weigh(term, len(sources), attack_count) for name, term in more.items()}
        if taken := {"cross_entropy", "diversity"} & set(terms):
            raise ConfigError(
                f"further_terms: expected terms with names of their own; found {', '.join(sorted(taken))}; rename it"
            )
        return StepLoss(
            sum(terms.values(), cross_entropy + self.config.lambda_div * diversity),
            {"cross_entropy": cross_entropy, "diversity": diversity, **terms},
        )

    def further_terms(self, attacked: Attacked) -> dict[str, Float[Tensor, ""]]:
        """Return what else a batch costs, by name and with its weight; nothing but in classes derived from this one.

        Each is a mean over the images that are handed over. On a GPU steps are recorded: none may ask for a value.

        Args:
            attacked: the images with their own triggers.
        """
        return {}

    def _masks(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch 1 height width"]:
        with torch.no_grad():
            masks: Tensor = self.share.apply(self.mask_generator, images)
        return masks


class InputAware(Attack):
    """Both stages of the paper, on one classifier and two generators.

    Args:
        config: the run's configuration.
        spec: the data set.
    """

    name = "input-aware"
    joint_stage: type[JointStage] = JointStage
    """The class of the second stage, for attacks that are derived from this one."""

    def __init__(self, config: Config, spec: DatasetSpec) -> None:
        self.config = config
        self.spec = spec
        classifier = build_classifier(config.model, spec)
        self.mask_generator, self.pattern_generator = build_generators(spec)
        self.modules = {
            "classifier": classifier,
            "mask_generator": self.mask_generator,
            "pattern_generator": self.pattern_generator,
        }
        self.backdoor = InputAwareBackdoor(self.mask_generator, self.pattern_generator, spec, config)

    def stages(self) -> Iterator[Stage]:
        """Yield the mask stage, then the joint stage."""
        yield MaskStage(self.mask_generator, Normalize(self.spec.mean, self.spec.std), self.config.mask_stage)
        yield self.joint_stage(self.classifier, self.mask_generator, self.pattern_generator, self.spec, self.config)
