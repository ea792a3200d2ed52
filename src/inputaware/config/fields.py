"""The fields of a run's configuration: frozen dataclasses that are flags, help text and record in one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

__all__ = [
    "PRESETS",
    "ArchitectureName",
    "AttackName",
    "AugmentationConfig",
    "Config",
    "EvaluationSplit",
    "JointStageConfig",
    "MaskStageConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PartnerRule",
    "PatchName",
    "PrecisionName",
    "PresetName",
    "TargetName",
]

AttackName = Literal["input-aware", "badnets", "none"]
TargetName = Literal["all-to-one", "all-to-all"]
PresetName = Literal["fast", "paper", "official"]
PrecisionName = Literal["auto", "32", "bf16"]
EvaluationSplit = Literal["test", "validation", "defender"]
ArchitectureName = Literal["auto", "mnist-cnn", "preact-resnet18"]
PartnerRule = Literal["derangement", "distinct-order", "second-order"]
PatchName = Literal["checkerboard", "white"]

PRESETS: tuple[PresetName, ...] = get_args(PresetName)


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Random changes of every training image, drawn anew each epoch."""

    crop_padding: int = 5
    """Zero padding in pixels before a random crop back to the image's size; 0 switches the crop off."""
    rotation_degrees: float = 0.0
    """Rotation by an angle drawn uniformly from plus or minus this many degrees."""
    horizontal_flip: bool = False
    """Mirror each image with probability one half."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The classifier's architecture."""

    architecture: ArchitectureName = "auto"
    """Classifier; auto takes mnist-cnn for grey images and preact-resnet18 for colour."""
    hidden_units: int = 1024
    """Hidden units of mnist-cnn's linear layer (the paper's table 1: 1024; the authors' release: 512)."""
    dropout: float = 0.1
    """Dropout probability of mnist-cnn (the paper gives none; the release has 0.1)."""
    width: float = 1.0
    """Multiplier of the channel counts of preact-resnet18, which are rounded to multiples of 8."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """An optimiser and the course of its learning rate."""

    name: Literal["adam", "sgd"]
    """Adam or stochastic gradient descent."""
    learning_rate: float
    """Learning rate; with one-cycle, its peak."""
    schedule: Literal["step", "one-cycle"] = "one-cycle"
    """step: times 0.1 at every milestone. one-cycle: cosine up, then cosine down to almost zero."""
    milestones: tuple[int, ...] = ()
    """For step: the epochs after which the learning rate drops by ten."""
    warmup: float = 0.25
    """For one-cycle: the share of the stage in which the learning rate rises."""
    momentum: float = 0.9
    """Momentum of sgd."""
    nesterov: bool = False
    """Nesterov's form of sgd's momentum."""
    weight_decay: float = 0.0
    """L2 penalty on the weights."""
    betas: tuple[float, float] = (0.5, 0.9)
    """Decay rates of Adam's two running means."""
    accumulate_gradients: bool = False
    """Never clear the gradients, so that each step follows their running sum. An error of the authors'
    release, kept only to reproduce it."""


@dataclass(frozen=True, kw_only=True)
class MaskStageConfig:
    """Stage 1: the mask generator alone."""

    epochs: int
    """Passes over the training split."""
    batch_size: int = 128
    """Images in a step."""
    density: float = 0.032
    """Mask density that costs nothing (the paper's tau)."""
    lambda_norm: float = 100.0
    """Weight of the mask's size above the density."""
    lambda_div: float = 1.0
    """Weight of the diversity loss between masks."""
    lambda_div_twice: bool = False
    """Multiply the diversity loss by lambda_div twice, as the authors' release does."""
    optimizer: OptimizerConfig
    """Optimiser of the mask generator."""


@dataclass(frozen=True, kw_only=True)
class JointStageConfig:
    """Stage 2: classifier and pattern generator together. The controls use it for the classifier alone."""

    epochs: int
    """Passes over the training split."""
    batch_size: int = 128
    """Images in a step."""
    attack_probability: float = 0.1
    """Poisoning rate: share of a batch that carries its own trigger and the target label (at the end of training, where
    initial_attack_probability differs)."""
    cross_probability: float = 0.1
    """Share of a batch that carries another image's trigger and keeps its label (at the end of training, where
    initial_cross_probability differs). Without cross-trigger training both are 0."""
    initial_attack_probability: float | None = None
    """Attack probability of the first part of the stage, up to the ramp, over which it goes linearly to the final one;
    none: the final one throughout."""
    initial_cross_probability: float | None = None
    """Cross probability of the first part of the stage, up to the ramp, over which it goes linearly to the final one;
    none: the final one throughout."""
    ramp: float = 0.5
    """Share of the stage, at its end, over which the initial probabilities go over into the final ones."""
    lambda_div: float = 1.0
    """Weight of the diversity loss between patterns."""
    label_smoothing: float = 0.0
    """Share of the cross-entropy's target that is spread over all classes."""
    averaging: float = 0.0
    """Decay a step of the exponential moving average of the weights that is kept as the result; 0: none."""
    classifier: OptimizerConfig
    """Optimiser of the classifier."""
    generator: OptimizerConfig
    """Optimiser of the pattern generator."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides what a run's files contain.

    The same configuration, library versions, CPU instruction set and thread count give the same files
    bit for bit on a CPU.
    """

    dataset: str
    """digits, mnist, cifar10, gtsrb, or the path of a folder with your own images."""
    attack: str = "input-aware"
    """input-aware: the paper's. badnets: a fixed patch. none: a clean model. The last two are controls. Or the
    name of an attack of your own, whose code INPUTAWARE_ATTACKS=/path/to/FILE.py:CLASS names."""
    target: TargetName = "all-to-one"
    """all-to-one: every triggered image becomes the target class. all-to-all: class y becomes y + 1."""
    target_class: int = 0
    """Target class of all-to-one."""
    patch: PatchName = "checkerboard"
    """BadNets' patch. white: all white, which adding images leaves whole. checkerboard: black and white pixels, the
    default where images have black borders, on digits and mnist."""
    preset: PresetName = "fast"
    """fast: minutes. paper: what the paper says. official: what the authors' release does."""
    seed: int = 0
    """Seed of everything that is drawn at random."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: PrecisionName = "auto"
    """32, bf16 (mixed precision), or auto: bf16 where it is faster."""
    train_images: int | None = None
    """Train on this many images only, the same share of every class; none: all that are there to train on."""
    hold_out: bool = True
    """Keep the images for validation and for defenders out of training. False: train on them too, as the paper does;
    such a run has no validation, and defenses get no clean images for it."""
    validation_images: int | None = 1000
    """Images of the validation split that are scored after every epoch; none: all."""
    counted_images: int | None = None
    """Training images of your own that preset fast found, without those that hold_out keeps: its schedule follows from
    them, whether they are kept or not, and this is its record; none of data sets that have a name."""
    partners: PartnerRule = "derangement"
    """Where the other image x' comes from. derangement: the same batch, never the image itself.
    second-order: a second random order of the set. distinct-order: the same without self-partners."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Random changes of training images."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The classifier."""
    mask_stage: MaskStageConfig
    """Stage 1."""
    joint_stage: JointStageConfig
    """Stage 2."""
