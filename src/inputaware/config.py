"""The whole configuration of a run: frozen dataclasses that are flags, help text and record in one.

A :class:`Config` is made by :func:`preset_config`, changed with :func:`override`, checked with
:func:`check_config`, and stored with :func:`config_to_dict` and :func:`config_from_dict`. Nothing
here imports torch, so that the command line can answer ``--help`` at once.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from inputaware.errors import ConfigError

if TYPE_CHECKING:
    import cattrs
    from _typeshed import DataclassInstance

__all__ = [
    "DATASETS",
    "IMAGE_COUNTS",
    "IMAGE_SUFFIXES",
    "PRESETS",
    "ArchitectureName",
    "AttackName",
    "AugmentationConfig",
    "Config",
    "EvaluationSplit",
    "ImageCounts",
    "JointStageConfig",
    "MaskStageConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PartnerRule",
    "PatchName",
    "PrecisionName",
    "PresetName",
    "TargetName",
    "check_config",
    "check_number",
    "check_processes",
    "check_seed",
    "check_values",
    "config_differences",
    "config_from_dict",
    "config_identity",
    "config_to_dict",
    "fields_that_count",
    "flatten",
    "held_out",
    "images_in_batch",
    "override",
    "preset_config",
]

_Settings = TypeVar("_Settings")

AttackName = Literal["input-aware", "badnets", "none"]
TargetName = Literal["all-to-one", "all-to-all"]
PresetName = Literal["fast", "paper", "official"]
PrecisionName = Literal["auto", "32", "bf16"]
EvaluationSplit = Literal["test", "validation", "defender"]
ArchitectureName = Literal["auto", "mnist-cnn", "preact-resnet18"]
PartnerRule = Literal["derangement", "distinct-order", "second-order"]
PatchName = Literal["checkerboard", "white"]

_HELD_OUT = 5_000
"""Training images in the validation split, and as many in the defender's; of digits and of one's own fewer."""


class ImageCounts(NamedTuple):
    """How many images a data set has.

    Attributes:
        published: its publisher's, to train on.
        test: its publisher's, to test on.
        held_out: those of the published in the validation split, and as many in the defender's.
    """

    published: int
    test: int
    held_out: int = _HELD_OUT

    @property
    def train(self) -> int:
        """Those in the ``train`` split: what the others leave."""
        return self.published - 2 * self.held_out


IMAGE_COUNTS = {
    "digits": ImageCounts(1437, 360, held_out=144),
    "mnist": ImageCounts(60_000, 10_000),
    "cifar10": ImageCounts(50_000, 10_000),
    "gtsrb": ImageCounts(39_209, 12_630),
}
"""The images of each data set that is known by name."""

DATASETS = tuple(IMAGE_COUNTS)
"""The data sets that are known by name; anything else is a path."""

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""What counts as an image in a folder; other files are passed over."""

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
    """The classifier's and the generators' architecture."""

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
    """Poisoning rate: share of a batch that carries its own trigger and the target label (at the end of training)."""
    cross_probability: float = 0.1
    """Share of a batch that carries another image's trigger and keeps its label (at the end of training)."""
    initial_attack_probability: float | None = None
    """Attack probability before the ramp, over which it goes linearly to the final one; none: constant."""
    initial_cross_probability: float | None = None
    """Cross probability before the ramp, over which it goes linearly to the final one; none: constant."""
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
    attack: AttackName = "input-aware"
    """input-aware: the paper's. badnets: a fixed patch. none: a clean model. The last two are controls."""
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
    """Train on this many images only, the same share of every class; none: the whole training split."""
    validation_images: int | None = 1000
    """Images of the validation split that are scored after every epoch; none: all."""
    counted_images: int | None = None
    """Training images of your own that preset fast found, without what is held out: its schedule follows from them, and
    this is its record; none of data sets that have a name."""
    partners: PartnerRule = "derangement"
    """Where the other image x' comes from. derangement: the same batch, never the image itself.
    second-order: a second random order of the set. distinct-order: the same without self-partners."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Random changes of training images."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Architectures."""
    mask_stage: MaskStageConfig
    """Stage 1."""
    joint_stage: JointStageConfig
    """Stage 2."""


def _augmentation(dataset: str) -> AugmentationConfig:
    """Return the paper's augmentation of a data set; a user's own images are cropped only."""
    rotation = 10.0 if dataset in ("cifar10", "gtsrb") else 0.0
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


def held_out(images: int, classes: int) -> int:
    """Return how many training images of one's own make the validation split, and as many the defender's."""
    return max(classes, min(_HELD_OUT, images // 10))


def _count_images(dataset: str) -> int | None:
    """Return how many images of a path would be trained on.

    None where nobody can tell. A Parquet file does not say how many classes it has.
    """
    try:
        if (file := Path(dataset) / "train.parquet").is_file():
            import pyarrow.parquet as pq

            classes, images = 1, int(pq.read_metadata(file).num_rows)
        else:
            visible = [
                path for path in Path(dataset).glob("train/[!.]*/[!.]*") if path.suffix.lower() in IMAGE_SUFFIXES
            ]
            classes, images = len({path.parent for path in visible}), len(visible)
    except (OSError, ValueError):  # what is wrong is said when the images are read
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
    if dataset in ("cifar10", "gtsrb"):
        # A residual network with batch-norm; mnist-cnn has none, and there SGD is far slower than Adam.
        classifier = OptimizerConfig(name="sgd", learning_rate=0.2, nesterov=True, weight_decay=5e-4)
        # A GPU takes 1.5 times as long for twice as many images.
        joint_batch_size = 256
    # All-to-all has to tell the class of a triggered image too, and takes longer to learn its triggers.
    attack, cross = (0.17, 0.33) if target == "all-to-one" else (0.25, 0.2)
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
            initial_attack_probability=attack,
            initial_cross_probability=cross,
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
        raise ConfigError(f"preset: expected one of {', '.join(PRESETS)}; found {preset!r}")
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


def override(settings: _Settings, changes: dict[str, Any]) -> _Settings:
    """Return a configuration, or other settings that are a dataclass, with changed fields.

    Args:
        settings: what to start from.
        changes: values by field name; a nested dictionary changes fields of a nested part.

    Raises:
        ConfigError: a field is unknown or a value has the wrong type.
    """
    return _from_dict(_merge(settings, changes, ""), type(settings))


def _merge(settings: Any, changes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return settings as plain data, with changes; the fields of a nested part are changed one by one."""
    merged = config_to_dict(settings)
    for key, value in changes.items():
        if key not in merged:
            raise ConfigError(f"{prefix}{key}: unknown option; expected one of {', '.join(merged)}")
        part = getattr(settings, key)
        if dataclasses.is_dataclass(part):
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                value = dataclasses.asdict(value)
            if not isinstance(value, dict):
                raise ConfigError(f"{prefix}{key}: expected options by name; found {value!r}")
            value = _merge(part, value, f"{prefix}{key}.")
        merged[key] = value
    return merged


def config_to_dict(config: DataclassInstance) -> dict[str, Any]:
    """Return a configuration, or other settings that are a dataclass, as plain data for JSON: what makes it anew."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        return value

    found: dict[str, Any] = plain(dataclasses.asdict(config))
    return {part.name: found[part.name] for part in dataclasses.fields(config) if part.init}


def config_identity(config: Config) -> dict[str, Any]:
    """Return what tells a configuration from others, in names of folders and in what a run's files carry.

    A field that earlier versions did not have is left out where it says what they did, so that their runs and sweeps
    are known again.
    """
    record = config_to_dict(config)
    if config.attack != "badnets" or config.patch == "checkerboard":
        del record["patch"]
    if config.counted_images is None:
        del record["counted_images"]
    return record


def config_from_dict(data: dict[str, Any]) -> Config:
    """Return the configuration that :func:`config_to_dict` wrote.

    Raises:
        ConfigError: a field is unknown or missing, or a value has the wrong type.
    """
    return _from_dict(data, Config)


def _from_dict(data: dict[str, Any], kind: type[_Settings]) -> _Settings:
    from cattrs.errors import ClassValidationError, StructureHandlerNotFoundError
    from cattrs.v import transform_error

    try:
        return _converter().structure(data, kind)
    except StructureHandlerNotFoundError as error:
        raise ConfigError(
            f"{kind.__name__}: expected fields of numbers, text and truth values, or tuples, lists and dictionaries of "
            f"them; found one of {error.type_}"
        ) from None
    except (ClassValidationError, ValueError) as error:
        reasons = (reason.rpartition(" @ $") for reason in transform_error(error, format_exception=_explain))
        raise ConfigError(
            "; ".join(f"{path.removeprefix('.') or 'configuration'}: {words}" for words, _, path in reasons)
        ) from None


@cache
def _converter() -> cattrs.Converter:
    """Return what makes a configuration of plain data and refuses what does not fit a field's type."""
    import cattrs  # here, since it takes a tenth of a second

    converter = cattrs.Converter(forbid_extra_keys=True)

    def strict(expected: tuple[type, ...], words: str, make: type) -> Any:
        def structure(value: Any, _: Any) -> Any:
            if isinstance(value, bool) != (make is bool) or not isinstance(value, expected):
                raise ValueError(f"expected {words}; found {value!r}")
            return make(value)

        return structure

    def structure_choice(value: Any, kind: Any) -> Any:
        if value not in get_args(kind):
            raise ValueError(f"expected one of {', '.join(get_args(kind))}; found {value!r}")
        return value

    def structure_tuple(value: Any, kind: Any) -> Any:
        kinds = get_args(kind)
        if not isinstance(value, list | tuple):
            raise ValueError(f"expected a list of numbers; found {value!r}")
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if len(value) != len(kinds):
            raise ValueError(f"expected a list of {len(kinds)} numbers; found {value!r}")
        return tuple(converter.structure(item, item_kind) for item, item_kind in zip(value, kinds, strict=True))

    def structure_list(value: Any, kind: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise ValueError(f"expected a list; found {value!r}")
        return [converter.structure(item, get_args(kind)[0]) for item in value]

    def structure_dictionary(value: Any, kind: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"expected values by name; found {value!r}")
        kinds = get_args(kind)
        return {converter.structure(key, kinds[0]): converter.structure(item, kinds[1]) for key, item in value.items()}

    def structure_union(value: Any, kind: Any) -> Any:
        reasons = []
        for one in get_args(kind):
            if one is NoneType:
                if value is None:
                    return None
                reasons.append("none")
                continue
            try:
                return converter.structure(value, one)
            except ValueError as error:
                reasons.append(str(error).partition(";")[0].removeprefix("expected "))
        raise ValueError(f"expected {' or '.join(reasons)}; found {value!r}")

    def part(kind: type) -> Any:
        structure_options: Any = converter.gen_structure_attrs_fromdict(kind)

        def structure(value: Any, _: Any) -> Any:
            if not isinstance(value, dict):
                raise ValueError(f"expected options by name; found {value!r}")
            return structure_options(value, kind)

        return structure

    def made_of(origin: object) -> Callable[[Any], bool]:
        return lambda kind: get_origin(kind) is origin

    converter.register_structure_hook_factory(dataclasses.is_dataclass, part)
    converter.register_structure_hook_func(made_of(Literal), structure_choice)
    converter.register_structure_hook_func(made_of(tuple), structure_tuple)
    converter.register_structure_hook_func(made_of(list), structure_list)
    converter.register_structure_hook_func(made_of(dict), structure_dictionary)
    converter.register_structure_hook_func(made_of(UnionType), structure_union)
    converter.register_structure_hook_func(made_of(Union), structure_union)
    converter.register_structure_hook(bool, strict((bool,), "true or false", bool))
    converter.register_structure_hook(int, strict((int,), "a whole number", int))
    converter.register_structure_hook(float, strict((int, float), "a number", float))
    converter.register_structure_hook(str, strict((str,), "text", str))
    return converter


def _explain(error: BaseException, _: object) -> str:
    """Return the words of a message for what cattrs ran into."""
    from cattrs.errors import ForbiddenExtraKeysError

    if isinstance(error, KeyError):
        return "expected a value; found none"
    if isinstance(error, ForbiddenExtraKeysError):
        known = ", ".join(field.name for field in dataclasses.fields(error.cl))
        return f"unknown option {', '.join(sorted(error.extra_fields))}; expected one of {known}"
    return str(error)


def check_processes(config: Config, processes: int) -> None:
    """Refuse more processes than a part of a batch has images whose triggers are made.

    Args:
        config: of the run that they are to train together.
        processes: how many there are.

    Raises:
        ConfigError: a part of a batch has fewer images.
    """
    joint = config.joint_stage
    images = {"joint_stage.batch_size": joint.batch_size}
    if config.attack == "input-aware":
        images["mask_stage.batch_size"] = config.mask_stage.batch_size
        for kind in ("attack", "cross"):
            for name in (f"{kind}_probability", f"initial_{kind}_probability"):
                if probability := getattr(joint, name):
                    images[f"joint_stage.{name}"] = images_in_batch(probability, joint.batch_size)
    for option, count in images.items():
        if count < processes:
            raise ConfigError(
                f"{option}: expected at least one image of a batch for each of the {processes} processes; "
                f"found {count} images; take larger batches or fewer processes"
            )


def images_in_batch(probability: float, batch_size: int) -> int:
    """Return how many images of a batch a probability gives: ``floor(probability * batch_size)``.

    The product is nudged by a billionth, so that 0.29 of 100 images are 29 although the product of the
    two floating-point numbers lies a hair below.
    """
    return math.floor(probability * batch_size + 1e-9)


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one, by dotted names that start with a prefix."""
    result: dict[str, Any] = {}
    for key, value in data.items():
        result |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result


def config_differences(first: Config, second: Config) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two configurations differ, by dotted name, with both values.

    What the attack of neither reads makes no difference.
    """
    left, right = flatten(config_to_dict(first)), flatten(config_to_dict(second))
    counting = fields_that_count(first).keys() | fields_that_count(second).keys()
    return {key: (left[key], right[key]) for key in left if key in counting and left[key] != right[key]}


_UNREAD_BY_CONTROLS = (
    "mask_stage",
    "partners",
    *(
        f"joint_stage.{name}"
        for name in (
            *("cross_probability", "initial_attack_probability", "initial_cross_probability"),
            *("ramp", "lambda_div", "generator"),
        )
    ),
)
_UNREAD: dict[AttackName, tuple[str, ...]] = {
    "input-aware": ("patch",),
    "badnets": _UNREAD_BY_CONTROLS,
    "none": (*_UNREAD_BY_CONTROLS, "joint_stage.attack_probability", "target", "target_class", "patch"),
}
"""Fields and groups of fields that an attack does not read, so that its results do not depend on them."""


def check_seed(seed: int) -> None:
    """Check that a seed is one that every generator takes.

    Raises:
        ConfigError: it is below 0, or too large.
    """
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed: expected a whole number from 0 to {2**63 - 1}; found {seed!r}")


def fields_that_count(config: Config) -> dict[str, Any]:
    """Return the fields on which a run's results depend, by dotted name.

    A control leaves out what only the input-aware attack has.
    """
    unread = _UNREAD[config.attack]
    return {
        key: value
        for key, value in flatten(config_to_dict(config)).items()
        if not any(key == name or key.startswith(f"{name}.") for name in unread)
    }


def check_config(config: Config) -> None:
    """Check all that can be known before the data are read: every value, and that there is such a data set.

    Raises:
        ConfigError: a value is out of its range; the message gives the option, the range and the value.
    """
    check_values(config)
    if config.dataset not in DATASETS and not os.path.exists(config.dataset):  # Path.exists raises on a long name
        raise ConfigError(
            f"dataset: expected one of {', '.join(DATASETS)}, or the path of a folder; "
            f"found {config.dataset!r}, which is neither"
        )


def check_number(
    option: str, value: int | float, low: int | float, high: int | float = math.inf, *, open_low: bool = False
) -> None:
    """Check that a number lies in its range, which both ends belong to.

    Args:
        option: what it is called.
        value: the number.
        low: the smallest that is allowed.
        high: the largest.
        open_low: whether the smallest is not allowed itself.

    Raises:
        ConfigError: it does not.
    """
    expected = f"a number above {low:g}" if open_low else f"a number of at least {low:g}"
    if high != math.inf:
        expected += f" and at most {high:g}"
    # No whole number is infinite, and one above 1e308 cannot be asked as a floating-point number.
    finite = isinstance(value, int) or math.isfinite(value)
    _check(finite and (value > low if open_low else value >= low) and value <= high, option, expected, value)


def _check(condition: bool, option: str, expected: str, value: object) -> None:
    if not condition:
        raise ConfigError(f"{option}: expected {expected}; found {value!r}")


def _check_choice(option: str, value: object, allowed: tuple[str, ...]) -> None:
    _check(value in allowed, option, f"one of {', '.join(allowed)}", value)


def check_values(config: Config) -> None:
    """Check the range of every value; whether the data set is there is not asked.

    Raises:
        ConfigError: a value is out of its range; the message gives the option, the range and the value.
    """
    _check_choice("attack", config.attack, get_args(AttackName))
    _check_choice("target", config.target, get_args(TargetName))
    _check_choice("preset", config.preset, PRESETS)
    _check_choice("precision", config.precision, get_args(PrecisionName))
    _check_choice("partners", config.partners, get_args(PartnerRule))
    _check_choice("patch", config.patch, get_args(PatchName))
    _check_choice("model.architecture", config.model.architecture, get_args(ArchitectureName))
    check_number("target_class", config.target_class, 0)
    check_seed(config.seed)
    for option in ("train_images", "validation_images", "counted_images"):
        if (images := getattr(config, option)) is not None:
            check_number(option, images, 1)
    check_number("augmentation.crop_padding", config.augmentation.crop_padding, 0, 32)
    check_number("augmentation.rotation_degrees", config.augmentation.rotation_degrees, 0, 180)
    check_number("model.hidden_units", config.model.hidden_units, 1, 65536)
    check_number("model.dropout", config.model.dropout, 0, 0.99)
    check_number("model.width", config.model.width, 0, 16, open_low=True)
    for stage_name, stage in (("mask_stage", config.mask_stage), ("joint_stage", config.joint_stage)):
        check_number(f"{stage_name}.epochs", stage.epochs, 1)
        check_number(f"{stage_name}.batch_size", stage.batch_size, 1)
        check_number(f"{stage_name}.lambda_div", stage.lambda_div, 0)
    check_number("mask_stage.density", config.mask_stage.density, 0, 1)
    check_number("mask_stage.lambda_norm", config.mask_stage.lambda_norm, 0)
    joint = config.joint_stage
    check_number("joint_stage.label_smoothing", joint.label_smoothing, 0, 0.99)
    check_number("joint_stage.averaging", joint.averaging, 0, 0.99999)
    check_number("joint_stage.ramp", joint.ramp, 0, 1, open_low=True)
    _check_probabilities(config)
    for option, optimizer in (
        ("mask_stage.optimizer", config.mask_stage.optimizer),
        ("joint_stage.classifier", joint.classifier),
        ("joint_stage.generator", joint.generator),
    ):
        _check_choice(f"{option}.name", optimizer.name, ("adam", "sgd"))
        _check_choice(f"{option}.schedule", optimizer.schedule, ("step", "one-cycle"))
        check_number(f"{option}.learning_rate", optimizer.learning_rate, 0, open_low=True)
        check_number(f"{option}.warmup", optimizer.warmup, 0, 0.99)
        check_number(f"{option}.momentum", optimizer.momentum, 0, 0.999)
        check_number(f"{option}.weight_decay", optimizer.weight_decay, 0)
        _check(
            optimizer.name != "sgd" or not optimizer.nesterov or optimizer.momentum > 0,
            f"{option}.nesterov",
            "false with a momentum of 0",
            optimizer.nesterov,
        )
        for beta in optimizer.betas:
            check_number(f"{option}.betas", beta, 0, 0.9999)
        for milestone in optimizer.milestones:
            check_number(f"{option}.milestones", milestone, 1)


def _check_probabilities(config: Config) -> None:
    """Check the probabilities and that each gives at least one image in a batch."""
    joint = config.joint_stage
    final = (joint.attack_probability, joint.cross_probability)
    start = (
        final[0] if joint.initial_attack_probability is None else joint.initial_attack_probability,
        final[1] if joint.initial_cross_probability is None else joint.initial_cross_probability,
    )
    for prefix, (attack, cross) in (("", final), ("initial_", start)):
        for kind, probability in (("attack", attack), ("cross", cross)):
            option = f"joint_stage.{prefix}{kind}_probability"
            check_number(option, probability, 0, 1)
            images = images_in_batch(probability, joint.batch_size)
            used = config.attack == "input-aware" or (config.attack == "badnets" and kind == "attack")
            _check(
                not used or probability == 0 or images >= 1,
                option,
                f"0, or at least one image in a batch of {joint.batch_size} "
                f"(a probability of {math.ceil(1e6 / joint.batch_size) / 1e6:g} or more)",
                probability,
            )
        _check(
            attack + cross <= 1 + 1e-12,
            f"joint_stage.{prefix}attack_probability and {prefix}cross_probability",
            "a sum of at most 1",
            attack + cross,
        )
    if config.attack != "none":
        check_number("joint_stage.attack_probability", joint.attack_probability, 0, 1, open_low=True)
    if config.attack == "input-aware":
        check_number("joint_stage.initial_attack_probability", start[0], 0, 1, open_low=True)
        _check(
            config.mask_stage.batch_size >= 2,
            "mask_stage.batch_size",
            "at least 2 images, an image and its partner",
            config.mask_stage.batch_size,
        )
        if config.partners == "derangement":
            _check(
                joint.batch_size >= 2,
                "joint_stage.batch_size",
                "at least 2 images, an image and its partner",
                joint.batch_size,
            )
            for prefix, probability in (("", final[0]), ("initial_", start[0])):
                _check(
                    images_in_batch(probability, joint.batch_size) >= 2,
                    f"joint_stage.{prefix}attack_probability",
                    f"at least 2 images in a batch of {joint.batch_size} with partners=derangement, an image and its "
                    f"partner (a probability of {math.ceil(2e6 / joint.batch_size) / 1e6:g} or more)",
                    probability,
                )
