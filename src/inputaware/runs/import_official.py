"""Checkpoints of the authors' release, read without unpickling anything but tensors and options."""

from __future__ import annotations

import argparse
import hashlib
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inputaware.attacks.base import Attack
from inputaware.attacks.encoder_decoder import EncoderDecoder
from inputaware.attacks.registry import build_attack
from inputaware.config.checks import check_config
from inputaware.config.fields import Config, TargetName
from inputaware.config.presets import preset_config
from inputaware.config.record import override
from inputaware.data.spec import DatasetSpec, dataset_spec
from inputaware.errors import CheckpointError, ConfigError
from inputaware.models.mnist_cnn import MnistCnn

__all__ = ["OfficialCheckpoint", "read_official"]

_MOST_BYTES = 2**30
"""Largest file that is read, and largest content of it; the release's own are a tenth of that."""

_NETWORKS = {"netC": "classifier", "netM": "mask_generator", "netG": "pattern_generator"}
"""Our names of the release's networks."""

_DATASETS = ("mnist", "cifar10", "gtsrb")

_TARGETS: dict[str, TargetName] = {"all2one": "all-to-one", "all2all": "all-to-all", "all2all_mask": "all-to-all"}
"""Our names of the release's attack modes; its code knows all-to-all by the last name only, its help by the second."""

_MASK_EPOCHS = 25
"""Epochs of the release's mask stage, which it counts in ``n_iters``."""

_OPTIONS = {
    "target_label": ("target_class",),
    "batchsize": ("joint_stage", "batch_size"),
    "p_attack": ("joint_stage", "attack_probability"),
    "p_cross": ("joint_stage", "cross_probability"),
    "lr_C": ("joint_stage", "classifier", "learning_rate"),
    "schedulerC_milestones": ("joint_stage", "classifier", "milestones"),
    "lr_G": ("joint_stage", "generator", "learning_rate"),
    "schedulerG_milestones": ("joint_stage", "generator", "milestones"),
    "lr_M": ("mask_stage", "optimizer", "learning_rate"),
    "schedulerM_milestones": ("mask_stage", "optimizer", "milestones"),
    "mask_density": ("mask_stage", "density"),
    "lambda_norm": ("mask_stage", "lambda_norm"),
}
"""Where the release's options stand in our configuration."""


@dataclass(frozen=True, kw_only=True)
class OfficialCheckpoint:
    """What a checkpoint of the authors' release holds.

    Attributes:
        config: preset ``official`` with the options that are kept in the file.
        spec: the data set that these name.
        weights: the state dicts, by our names of networks and of entries; the mask generator's alone, or all three.
        epoch: how many epochs were done, by the release's count.
        sha256: of the file.
    """

    config: Config
    spec: DatasetSpec
    weights: dict[str, dict[str, Tensor]]
    epoch: int
    sha256: str

    @property
    def complete(self) -> bool:
        """Whether all three networks are there, and not the mask stage's alone."""
        return len(self.weights) == len(_NETWORKS)

    def load_into(self, attack: Attack) -> None:
        """Give an attack's networks the weights that are in the file."""
        for name, weights in self.weights.items():
            attack.modules[name].load_state_dict(weights)


def read_official(file: Path) -> OfficialCheckpoint:
    """Return what a checkpoint of the authors' release holds.

    The release writes two files with ``torch.save``, in either serialisation: after each joint epoch the classifier
    (``netC``), the pattern generator (``netG``) and the mask generator (``netM``); after each mask epoch ``netM``
    alone. Both hold the options (``opt``) as an ``argparse.Namespace``. Nothing but tensors, plain values and this
    one class, as data, is unpickled.

    Args:
        file: a ``*.pth.tar`` file of the release.

    Raises:
        CheckpointError: the file is missing, too large, corrupt, asks for other objects, or has another layout.
    """
    content, sha256 = _load(file)
    options = content.get("opt")
    epoch = content.get("epoch")
    names = [name for name in _NETWORKS if name in content]
    if (
        names not in (list(_NETWORKS), ["netM"])
        or not isinstance(options, argparse.Namespace)
        or type(epoch) is not int
        or epoch < 0
    ):
        raise CheckpointError(
            f"{file}: expected a checkpoint of the release, with netC, netG, netM, epoch and opt, or of its mask "
            f"stage, with netM, epoch and opt; found {_listed(content)}; take the *.pth.tar file that its train.py has "
            "written"
        )
    config, spec = _settings(file, vars(options))
    with torch.random.fork_rng(devices=[]):
        attack = build_attack(config, spec)
    weights = {
        _NETWORKS[name]: _translate(f"{file}, {name}", content[name], attack.modules[_NETWORKS[name]]) for name in names
    }
    return OfficialCheckpoint(config=config, spec=spec, weights=weights, epoch=epoch, sha256=sha256)


def _load(file: Path) -> tuple[dict[Any, Any], str]:
    """Return the object in a file that is a dictionary, and the file's digest."""
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, 2)
            if size > _MOST_BYTES:
                raise CheckpointError(_too_large(file, size))
            opened.seek(0)
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
            opened.seek(0)
            _check_archive(file, opened.read(4))
            opened.seek(0)
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(opened, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"{file}: expected a checkpoint of the authors' release; found: {error.strerror or error}; check the path"
        ) from None
    except Exception as error:  # a damaged pickle makes the reader raise a dozen kinds
        asked = re.search(r"GLOBAL (\S{1,80})", str(error))
        found = f"one that asks for {asked[1]}, which was not run" if asked else f"{type(error).__name__} on reading it"
        raise CheckpointError(
            f"{file}: expected a checkpoint of the authors' release, tensors and options alone; found {found}; "
            "take the file that its train.py has written"
        ) from None
    return content if isinstance(content, dict) else {}, sha256


def _check_archive(file: Path, start: bytes) -> None:
    """Refuse a zip file that unpacks to more than it holds: ``torch.save`` compresses nothing."""
    if start != b"PK\x03\x04":
        return
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError(
            f"{file}: expected a checkpoint of the authors' release; found a damaged zip file ({error}); restore it"
        ) from None
    size = sum(entry.file_size for entry in entries)
    if size > _MOST_BYTES:
        raise CheckpointError(_too_large(file, size))
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(
            f"{file}: expected a file as torch.save writes it, not compressed; found compressed parts; "
            "take the file that the release's train.py has written"
        )


def _too_large(file: Path, size: int) -> str:
    return (
        f"{file}: expected a checkpoint of at most {_MOST_BYTES // 2**20} MiB; found {size // 2**20} MiB; "
        "take the file that the release's train.py has written"
    )


def _settings(file: Path, options: dict[str, Any]) -> tuple[Config, DatasetSpec]:
    """Return preset ``official`` with the release's options, and the data set."""
    dataset, mode = options.get("dataset"), options.get("attack_mode")
    if not isinstance(mode, str) or dataset not in _DATASETS or mode not in _TARGETS:
        raise CheckpointError(
            f"{file}: expected opt with a dataset ({', '.join(_DATASETS)}) and an attack_mode ({', '.join(_TARGETS)}); "
            f"found {dataset!r:.60} and {mode!r:.60}"
        )
    spec = dataset_spec(dataset)
    changes: dict[str, Any] = {}
    for option, path in _OPTIONS.items():
        if option in options:
            _put(changes, path, options[option])
    if "batchsize" in options:
        _put(changes, ("mask_stage", "batch_size"), options["batchsize"])
    if "lambda_div" in options:
        for stage in ("mask_stage", "joint_stage"):
            _put(changes, (stage, "lambda_div"), options["lambda_div"])
    try:
        if isinstance(options.get("n_iters"), int):
            _put(changes, ("joint_stage", "epochs"), max(1, options["n_iters"] - _MASK_EPOCHS))
        config = override(preset_config("official", dataset=dataset, target=_TARGETS[mode]), changes)
        check_config(config)
        spec.check_target_class(config.target_class)
    except ConfigError as error:
        raise CheckpointError(f"{file}: expected the options of a training; found: {error}") from None
    return config, spec


def _put(changes: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        changes = changes.setdefault(name, {})
    changes[path[-1]] = value


def _translate(place: str, weights: Any, module: nn.Module) -> dict[str, Tensor]:
    """Return a state dict of the release by our names, after a look at every entry."""
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()
    ):
        raise CheckpointError(f"{place}: expected a state dict, tensors by name; found {_listed(weights)}")
    state = module.state_dict()
    names = dict(zip(_official_names(module), state, strict=True))
    expected = {official: _describe(state[ours]) for official, ours in names.items()}
    found = {name: _describe(tensor) for name, tensor in weights.items()}
    if expected != found:
        name = min(name for name, _ in expected.items() ^ found.items())
        raise CheckpointError(
            f"{place}: expected the release's network, {name:.60} {expected.get(name, 'not there')}; "
            f"found {found.get(name, 'none')}; import a file of the release's own architectures"
        )
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{place}: expected finite numbers; found others in {name}; restore the file")
    return {ours: weights[official].contiguous() for official, ours in names.items()}


def _describe(tensor: Tensor) -> str:
    kind = "" if tensor.layout == torch.strided else f" {tensor.layout}"
    # A tensor without content stays on its device, "meta", whatever device was asked for.
    place = "" if tensor.device.type == "cpu" else f" on {tensor.device.type}"
    return f"of shape {tuple(tensor.shape)} in {str(tensor.dtype).removeprefix('torch.')}{kind}{place}"


def _official_names(module: nn.Module) -> list[str]:
    """Return the release's names of a network's entries, in the order of our state dict, which is the same."""

    def norm(name: str) -> list[str]:
        return [f"{name}.{entry}" for entry in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]

    if isinstance(module, MnistCnn):
        layers = ("conv1", "conv5", "linear6", "linear9")
        return [f"{layer}.{entry}" for layer in layers for entry in ("weight", "bias")]
    names: list[str] = []
    if isinstance(module, EncoderDecoder):
        sides = range(2 * len(module.encoder))
        for block in (*(f"down_{side}" for side in sides), "middle", *(f"up_{side}" for side in sides)):
            name = f"convblock_{block}"
            names += [f"{name}.conv2d.weight", f"{name}.conv2d.bias", *norm(f"{name}.batch_norm")]
        return names
    for group in range(1, 5):
        for number in range(2):
            name = f"layer{group}.{number}"
            names += [*norm(f"{name}.bn1"), f"{name}.conv1.weight", *norm(f"{name}.bn2"), f"{name}.conv2.weight"]
            if group > 1 and number == 0:
                names.append(f"{name}.shortcut.0.weight")
    return ["conv1.weight", *names, "linear.weight", "linear.bias"]


def _listed(content: Any) -> str:
    if not isinstance(content, dict):
        return type(content).__name__
    return ", ".join(f"{name!s:.40}" for name in list(content)[:12]) or "nothing of the kind"
