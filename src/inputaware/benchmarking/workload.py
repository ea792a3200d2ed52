"""What is timed: a stage of the product on images of a data set's shape, and its plain counterpart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from inputaware.attacks.base import Stage
from inputaware.attacks.input_aware import JointStage, MaskStage
from inputaware.attacks.registry import build_attack
from inputaware.benchmarking.baseline import plain_stage
from inputaware.config.fields import Config
from inputaware.config.presets import preset_config
from inputaware.data.loader import Batch, Loader
from inputaware.data.spec import DatasetSpec, dataset_spec
from inputaware.models.precision import full_float32
from inputaware.training.step import TrainingStep, place_modules

__all__ = ["MIDDLE", "STAGES", "StageName", "Workload", "random_images"]

StageName = Literal["mask", "joint"]

STAGES: tuple[StageName, ...] = ("mask", "joint")

MIDDLE = 0.5
"""The share of a stage that lies behind: its middle, which says how many images of a batch carry triggers."""


def random_images(
    spec: DatasetSpec, count: int, device: torch.device
) -> tuple[UInt8[Tensor, "images channel height width"], Int64[Tensor, " images"]]:
    """Return images and labels drawn at random: a step takes as long on them as on others, and nothing must be there.

    Args:
        spec: the data set, for the shape and the number of classes.
        count: how many.
        device: where they are wanted.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, *spec.shape), generator=generator, dtype=torch.uint8)
    labels = torch.randint(spec.classes, (count,), generator=generator)
    return images.to(device), labels.to(device)


@dataclass(frozen=True)
class Workload:
    """A stage as ``inputaware train`` runs it with preset ``fast``, and the data that it is fed.

    Attributes:
        spec: the data set.
        config: its configuration.
        stage: the product's stage.
        step: the product's step of it.
        images: 8-bit images on the device.
        labels: their classes.
        device: where everything is.
        precision: what the product computes in.
    """

    spec: DatasetSpec
    config: Config
    stage: MaskStage | JointStage
    step: TrainingStep
    images: UInt8[Tensor, "images channel height width"]
    labels: Int64[Tensor, " images"]
    device: torch.device
    precision: Literal["32", "bf16"]

    @classmethod
    def build(
        cls,
        dataset: str,
        stage: StageName,
        *,
        images: int,
        device: torch.device,
        precision: Literal["32", "bf16"],
        batch_size: int | None = None,
    ) -> Workload:
        """Return a workload with fresh weights.

        Args:
            dataset: digits, mnist, cifar10 or gtsrb.
            stage: mask or joint.
            images: how many images there are to train on.
            device: where to compute.
            precision: 32, or bf16 for mixed precision.
            batch_size: images in a step; none takes the preset's.

        Raises:
            DataError: the data set is unknown.
        """
        spec = dataset_spec(dataset)
        options: dict[str, Any] = {} if batch_size is None else {f"{stage}_stage": {"batch_size": batch_size}}
        config = preset_config("fast", dataset=dataset, **options)
        attack = build_attack(config, spec)
        place_modules(attack, device)
        chosen = next(item for item in attack.stages() if item.name == stage)
        assert isinstance(chosen, MaskStage | JointStage)
        step = TrainingStep(chosen, device=device, precision=precision)
        step.train_mode()
        pixels, labels = random_images(spec, images, device)
        return cls(spec, config, chosen, step, pixels, labels, device, precision)

    def plain_step(self) -> TrainingStep:
        """Return the step of the plain counterpart, in float32, from the same weights."""
        stage: Stage = plain_stage(self.stage)
        step = TrainingStep(stage, device=self.device, precision="32", captured=False)
        step.train_mode()
        return step

    def loader(self) -> Loader:
        """Return the product's loader."""
        return Loader(
            self.images,
            self.labels,
            batch_size=self.stage.batch_size,
            augmentation=self.config.augmentation,
            partners=self.config.partners,
            generator=torch.Generator().manual_seed(0),
        )

    def batches(self) -> Iterator[Batch]:
        """Serve batches of the product's loader without end."""
        loader = self.loader()
        while True:
            yield from loader

    def arithmetic(self) -> AbstractContextManager[None]:
        """Return the context in which the product trains: see ``training.loop``."""
        return full_float32() if self.precision == "32" else nullcontext()
