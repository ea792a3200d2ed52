"""The presets: what ``fast``, ``paper`` and ``official`` stand for on each data set."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from inputaware.config.checks import derived_from
from inputaware.config.datasets import COLOURED, DATASETS, IMAGE_SUFFIXES, held_out
from inputaware.config.fields import (
    PRESETS,
    AugmentationConfig,
    Config,
    JointStageConfig,
    MaskStageConfig,
    ModelConfig,
    OptimizerConfig,
    PatchName,
    PresetName,
    TargetName,
)
from inputaware.config.record import config_to_dict, fields_that_count, flatten, override
from inputaware.errors import ConfigError, did_you_mean

__all__ = ["departures", "late_probabilities", "preset_config", "without_effect"]


def _augmentation(dataset: str) -> AugmentationConfig:
    """Return the paper's augmentation of a data set; a user's own images are cropped only."""
    rotation = 10.0 if dataset in COLOURED else 0.0
    return AugmentationConfig(rotation_degrees=rotation, horizontal_flip=dataset == "cifar10")


def _patch(dataset: str) -> PatchName:
    """Return the patch that STRIP's adding of images leaves whole: black pixels stay only on black borders."""
    return "checkerboard" if dataset in ("digits", "mnist") else "white"


def _published_schedule(hidden_units: int, joint_epochs: int, classifier_milestones: tuple[int, ...]) -> dict[str, Any]:
    """Return what the presets ``paper`` and ``official`` have in common."""
    return {
        "validation_images": None,
        "model": ModelConfig(hidden_units=hidden_units),
        "mask_stage": MaskStageConfig(
            epochs=25,
            optimizer=OptimizerConfig(name="adam", learning_rate=0.01, schedule="step", milestones=(10, 20)),
        ),
        "joint_stage": JointStageConfig(
            epochs=joint_epochs,
            classifier=OptimizerConfig(
                name="sgd",
                learning_rate=0.01,
                schedule="step",
                milestones=classifier_milestones,
                weight_decay=5e-4,
            ),
            generator=OptimizerConfig(
                name="adam", learning_rate=0.01, schedule="step", milestones=(200, 300, 400, 500)
            ),
        ),
    }


def _paper() -> dict[str, Any]:
    """Return the supplement's settings, the release's where the supplement is silent."""
    return {"partners": "distinct-order", **_published_schedule(1024, 600, (100, 200, 300, 400, 500))}


def _official() -> dict[str, Any]:
    """Return what the authors' release really does: its 25 mask epochs are counted in its 600."""
    settings = {"partners": "second-order", **_published_schedule(512, 575, (100, 200, 300, 400))}
    joint: JointStageConfig = settings["joint_stage"]
    settings["joint_stage"] = replace(joint, generator=replace(joint.generator, accumulate_gradients=True))
    settings["mask_stage"] = replace(settings["mask_stage"], lambda_div_twice=True)
    return settings


_FAST_EPOCHS: dict[str, tuple[int, int]] = {
    "digits": (25, 100),
    "mnist": (3, 12),
    "cifar10": (3, 80),
    "gtsrb": (3, 60),
}
"""Mask and joint epochs of preset ``fast``."""

_FAST_EPOCHS_OF_OTHERS = (5, 40)
"""The same for images of one's own; of few images there are more."""

_FAST_PADDING = {"digits": 1, "mnist": 2}
"""Padding of preset ``fast`` before a random crop: these digits are centred, and large shifts take epochs to learn."""

_FEW_IMAGES, _SMALL_BATCH, _NARROW = 4_000, 64, 0.25
"""Below so many training images of one's own batches are small, and PreActResNet-18 is narrow: minutes on a laptop."""

_LEAST_STEPS = (450, 1_800)
"""Steps of both stages that preset ``fast`` takes at least of one's own images, about as many as of digits."""


_COUNTED_CLASSES = 50_000
"""Images in a Parquet file up to which its classes are counted: of more, at least 5,000 are held out anyway."""


def _count_images(dataset: str) -> int | None:
    """Return how many images of a path would be trained on.

    None where nobody can tell.
    """
    try:
        if (file := Path(dataset) / "train.parquet").is_file():
            import pyarrow as pa
            import pyarrow.parquet as pq

            images = int(pq.read_metadata(file).num_rows)
            classes = 1
            # Of more images as many are held out whatever their classes, and what is no number is refused later on.
            if images <= _COUNTED_CLASSES and pa.types.is_integer(pq.read_schema(file).field("label").type):
                classes = len(pq.read_table(file, columns=["label"])["label"].unique())
        else:
            visible = [
                path for path in Path(dataset).glob("train/[!.]*/[!.]*") if path.suffix.lower() in IMAGE_SUFFIXES
            ]
            classes, images = len({path.parent for path in visible}), len(visible)
    except (OSError, ValueError, LookupError):  # what is wrong is said when the images are read
        return None
    return max(1, images - 2 * held_out(images, classes)) if images else None


def _fast(dataset: str, target: TargetName, images: int | None) -> dict[str, Any]:
    """Return our own schedule: the same losses and networks, one-cycle learning rates, minutes.

    Args:
        dataset: what is trained on.
        target: which starting shares of a batch.
        images: training images of one's own, where it is no data set with a name.
    """
    mask_epochs, joint_epochs = _FAST_EPOCHS.get(dataset, _FAST_EPOCHS_OF_OTHERS)
    # An epoch of digits has only a thousand images: smaller batches give more steps for the same work.
    batch_size = 64 if dataset == "digits" else 128
    few = images is not None and images < _FEW_IMAGES
    if images is not None:
        batch_size = min(_SMALL_BATCH, images) if few else 128
        mask_epochs, joint_epochs = (
            max(usual, math.ceil(least / (images // batch_size)))
            for usual, least in zip((mask_epochs, joint_epochs), _LEAST_STEPS, strict=True)
        )
    joint_batch_size = batch_size
    classifier = OptimizerConfig(name="adam", learning_rate=0.002, betas=(0.9, 0.99))
    if dataset in COLOURED:
        # A residual network with batch-norm; mnist-cnn has none, and there SGD is far slower than Adam.
        classifier = OptimizerConfig(name="sgd", learning_rate=0.2, nesterov=True, weight_decay=5e-4)
        # A GPU takes 1.5 times as long for twice as many images.
        joint_batch_size = 256
    # All-to-all has to tell the class of a triggered image too, and takes longer to learn its triggers.
    attack, cross = (0.17, 0.33) if target == "all-to-one" else (0.25, 0.2)
    # An image and its partner: more than a tenth of fewer than twenty images; of two there is no room for more.
    least = 2 / joint_batch_size if joint_batch_size > 2 else 0
    augmentation = _augmentation(dataset)
    return {
        "counted_images": images,
        "model": ModelConfig(width=_NARROW) if few else ModelConfig(),
        "augmentation": replace(augmentation, crop_padding=_FAST_PADDING.get(dataset, augmentation.crop_padding)),
        "mask_stage": MaskStageConfig(
            epochs=mask_epochs, batch_size=batch_size, optimizer=OptimizerConfig(name="adam", learning_rate=0.01)
        ),
        "joint_stage": JointStageConfig(
            epochs=joint_epochs,
            batch_size=joint_batch_size,
            attack_probability=max(0.1, least),
            cross_probability=max(0.1, least / 2),
            initial_attack_probability=max(attack, least),
            initial_cross_probability=max(cross, least / 2),
            ramp=0.4,
            label_smoothing=0.1,
            averaging=0.995,
            classifier=classifier,
            generator=OptimizerConfig(name="adam", learning_rate=0.01),
        ),
    }


def preset_config(
    preset: PresetName = "fast", *, dataset: str, target: TargetName = "all-to-one", **options: Any
) -> Config:
    """Return the configuration of a preset on a data set.

    Args:
        preset: one of :data:`PRESETS`.
        dataset: one of :data:`DATASETS`, or a path.
        target: the rule from the true label to the attacker's.
        options: fields of :class:`Config` that replace the preset's. With ``counted_images`` the schedule of ``fast``
            is that of so many images of one's own, and the folder is not looked at.

    Raises:
        ConfigError: the preset or an option is unknown.
    """
    if preset not in PRESETS:
        raise ConfigError(
            f"preset: expected one of {', '.join(PRESETS)}; found {preset!r}{did_you_mean(preset, PRESETS)}"
        )
    if preset == "fast":
        counted = None
        if dataset not in DATASETS:
            given = options.get("counted_images")
            # What is no count is refused where options are.
            counted = given if isinstance(given, int) and given >= 1 else _count_images(dataset)
        settings = _fast(dataset, target, counted)
    else:
        settings = {"paper": _paper, "official": _official}[preset]()
    settings = {"augmentation": _augmentation(dataset), "patch": _patch(dataset), **settings}
    config = Config(dataset=dataset, preset=preset, target=target, **settings)
    return override(config, options)


def departures(config: Config) -> dict[str, Any]:
    """Return the fields in which a configuration departs from its preset, by dotted name."""
    usual = preset_config(
        config.preset, dataset=config.dataset, target=config.target, counted_images=config.counted_images
    )
    given, default = (flatten(config_to_dict(one)) for one in (config, usual))
    default["target"] = Config.target
    return {name: value for name, value in given.items() if value != default[name]}


def without_effect(config: Config) -> list[str]:
    """Return the fields in which a configuration departs from its preset, but which nothing reads, by dotted name.

    A control has no mask stage, and each classifier has sizes of its own.

    Args:
        config: of a run; which kind of classifier ``auto`` takes is known for data sets with a name only.
    """
    counting = fields_that_count(config)
    return [name for name in departures(config) if name not in counting]


def late_probabilities(config: Config) -> list[str]:
    """Return a sentence for each probability that departs from the preset at the end of training alone.

    Before the ramp the preset's initial probability holds, so that a final one of 0 is not training without it.

    Args:
        config: of a run.
    """
    if derived_from(config.attack) != "input-aware":  # no other has initial probabilities
        return []
    changed, counting, joint = departures(config), fields_that_count(config), config.joint_stage
    notes = []
    for kind in ("attack", "cross"):
        last, first = f"joint_stage.{kind}_probability", f"joint_stage.initial_{kind}_probability"
        final, initial = getattr(joint, f"{kind}_probability"), getattr(joint, f"initial_{kind}_probability")
        if last in changed and first not in changed and first in counting and initial not in (None, final):
            notes.append(
                f"{last} {final:g} holds at the end of the joint stage only: the stage begins with {initial:g}, which "
                f"goes to {final:g} over its last {joint.ramp:.0%}; for {final:g} throughout set {first} to "
                f"{final:g} too"
            )
    return notes
