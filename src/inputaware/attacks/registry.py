"""Attacks by name: those of this package, and those that somebody else wrote."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar, get_args

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from inputaware.attacks.badnets import BadNets, Clean
from inputaware.attacks.base import Attack, Backdoor
from inputaware.attacks.input_aware import InputAware
from inputaware.config.checks import OWN_ATTACKS
from inputaware.config.fields import AttackName, Config
from inputaware.data.loader import to_pixels
from inputaware.data.spec import DatasetSpec
from inputaware.errors import ConfigError
from inputaware.own_code import import_own

__all__ = ["attack_code", "build_attack", "check_attack", "check_kept", "import_attacks", "register_attack"]

_Kind = TypeVar("_Kind", bound=type[Attack])

_ATTACKS: dict[str, type[Attack]] = {kind.name: kind for kind in (InputAware, BadNets, Clean)}

_CODE: dict[str, str] = {}
"""Digests of the code of attacks that were imported, by name."""

_VARIABLE = "INPUTAWARE_ATTACKS"


def register_attack(kind: _Kind) -> _Kind:
    """Make an attack that somebody else wrote known by its name; a decorator of its class.

    Args:
        kind: a class derived from :class:`Attack` that is made of a configuration and a data set. Its ``name``, in
            small letters, digits and dashes, is what a configuration's ``attack`` is to be. A class of the same name
            that was registered before makes room, as where a cell of a notebook is run again.

    Raises:
        ConfigError: it is no such class.
    """
    if not isinstance(kind, type) or not issubclass(kind, Attack):
        raise ConfigError(f"attack: expected a class derived from Attack; found {kind!r}")
    if inspect.isabstract(kind):
        raise ConfigError(
            f"attack: expected a class with __init__ and stages; found {kind.__name__} without "
            f"{', '.join(sorted(kind.__abstractmethods__))}; write it"
        )
    name = vars(kind).get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) or name in get_args(AttackName):
        raise ConfigError(
            f"attack: expected a name of its own in {kind.__name__}, in small letters, digits and dashes, that none of "
            f'{", ".join(get_args(AttackName))} has; found {name!r}; write name = "my-attack" into the class'
        )
    _ATTACKS[name] = kind
    _CODE.pop(name, None)
    OWN_ATTACKS[name] = next((ours.name for ours in (InputAware, BadNets) if issubclass(kind, ours)), "")
    return kind


def import_attacks() -> None:
    """Register the attacks whose code the environment names; that code is run.

    ``INPUTAWARE_ATTACKS`` has the places of one or more, as words of a shell: ``/path/to/FILE.py:CLASS`` or
    ``package.module:CLASS``. A path is absolute, since the variable holds wherever a command is run: a file that lies
    in a folder that somebody sent must not be taken for it. What the code prints goes to stderr.

    Raises:
        ConfigError: a path is not absolute, there is no such file, module or class, its code fails, it is no attack, or
            two have one name.
    """
    places: dict[str, str] = {}
    try:
        references = shlex.split(given := os.environ.get(_VARIABLE, ""))
    except ValueError as error:
        raise ConfigError(f"{_VARIABLE}: expected words of a shell; found {given!r}: {error}; mend it") from None
    for reference in references:
        place = reference.rpartition(":")[0]
        if place.endswith(".py") and not os.path.isabs(place):
            raise ConfigError(
                f"{_VARIABLE}: expected an absolute path; found {place!r}, which is another file in each folder; say "
                f"{Path(place).absolute()}"
            )
        if not place:
            raise ConfigError(
                f"{_VARIABLE}: expected /path/to/FILE.py:CLASS, or module:CLASS; found {reference!r}; a path with "
                "spaces stands in quotation marks of its own"
            )
        with contextlib.redirect_stdout(sys.stderr):
            found, digest = import_own(reference, Attack)  # type: ignore[type-abstract]
        if not isinstance(found, type):
            raise ConfigError(f"attack: expected a class in {reference}; found an object; name its class")
        register_attack(found)
        if (other := places.setdefault(found.name, reference)) != reference:
            raise ConfigError(
                f"{_VARIABLE}: expected attacks with names of their own; found {found.name!r} in {other} and in "
                f"{reference}; rename one"
            )
        if digest is not None:
            _CODE[found.name] = digest


def attack_code(name: str) -> str | None:
    """Return the digest of an attack's code; none of ours, and of what was not imported by its place.

    Args:
        name: what a configuration calls it.
    """
    return _CODE.get(name)


def build_attack(config: Config, spec: DatasetSpec) -> Attack:
    """Return the attack that a configuration names, its networks freshly initialised.

    Raises:
        ConfigError: the attack is not known, the target class is not one of the data set's, or the architecture does
            not fit.
    """
    spec.check_target_class(config.target_class)
    if config.attack not in _ATTACKS:
        import_attacks()
    if config.attack not in _ATTACKS:
        raise ConfigError(
            f"attack: expected the code of {config.attack}, an attack of somebody's own; found none; name it with "
            f"{_VARIABLE}=/path/to/FILE.py:CLASS, or in Python with register_attack"
        )
    return _ATTACKS[config.attack](config, spec)


def check_attack(attack: Attack, config: Config, spec: DatasetSpec) -> None:
    """Refuse an attack of somebody's own that a run folder could not keep, before it is trained.

    It is built once more without memory, as where it is read from files, and given the numbers that files would hold:
    then its triggers and logits must be the same.

    Args:
        attack: freshly made.
        config: of which it was made.
        spec: likewise.

    Raises:
        ConfigError: its networks or its backdoor are not as they have to be.
    """
    if config.attack in get_args(AttackName):
        return
    kind, modules = type(attack).__name__, getattr(attack, "modules", None)
    if not isinstance(modules, dict) or not isinstance(modules.get("classifier"), nn.Module):
        raise ConfigError(
            f"{kind}: expected modules, a dictionary of networks by name, with a classifier; found "
            f"{list(modules) if isinstance(modules, dict) else modules!r}; keep the classifier there"
        )
    for name, module in modules.items():
        if not re.fullmatch(r"[a-z0-9_]{1,60}", str(name)) or not isinstance(module, nn.Module):
            raise ConfigError(
                f"{kind}: expected networks, with names of small letters, digits and underscores, each a file's; "
                f"found {type(module).__name__} as {name!r}; rename it, or take it out"
            )
        for key, value in module.state_dict().items():
            if not isinstance(value, Tensor) or (value.is_floating_point() and not value.isfinite().all()):
                raise ConfigError(
                    f"{kind}: expected networks of finite numbers; found others in {name}.{key}; make them where they "
                    "are used"
                )
    backdoor = getattr(attack, "backdoor", None)
    if not isinstance(backdoor, Backdoor):
        raise ConfigError(
            f"{kind}: expected a backdoor, of a class derived from Backdoor; found {backdoor!r}; a clean model is "
            "trained with the attack none"
        )
    remedy = (
        "a run folder keeps the parameters and buffers of modules, and nothing else: put there all that triggers and "
        "logits are made of"
    )
    images = torch.rand((2, *spec.shape), generator=torch.Generator().manual_seed(0))
    drawn = torch.get_rng_state()
    with _evaluating(list(modules.values())):
        try:
            expected = _answers(attack, images)
            if expected[2].shape != (2, spec.classes):
                raise ConfigError(
                    f"{kind}: expected {spec.classes} logits for each image; found an answer of shape "
                    f"{tuple(expected[2].shape)} for two; mend the classifier"
                )
            # What was drawn for no file is to come out otherwise. The processor's numbers alone: a GPU keeps its own.
            torch.default_generator.manual_seed(config.seed + 1)
            try:
                with torch.device("meta"):
                    again = type(attack)(config, spec)
            except Exception as error:
                raise ConfigError(
                    f"{kind}: expected an __init__ that can be called without memory, on torch's device meta; found "
                    f"{type(error).__name__}: {str(error).partition(chr(10))[0]}; look at no numbers there, and make "
                    'those that you need with device="cpu"'
                ) from error
            try:
                for name, module in modules.items():
                    state = {key: value.clone() for key, value in module.state_dict().items()}
                    again.modules[name].load_state_dict(state, assign=True)
                    again.modules[name].eval()
                found = _answers(again, images)
            except Exception as error:
                raise ConfigError(
                    f"{kind}: expected an attack that can be read from files; found {type(error).__name__}: "
                    f"{str(error).partition(chr(10))[0]}; {remedy}"
                ) from error
        finally:
            torch.set_rng_state(drawn)
    if not all(torch.allclose(one, other, atol=1e-4) for one, other in zip(expected, found, strict=True)):
        raise ConfigError(
            f"{kind}: expected the same triggers and logits after it is read from files; found others; {remedy}"
        )


def check_kept(trained: Attack, read: Backdoor | None, images: UInt8[Tensor, "batch channel height width"]) -> None:
    """Refuse an attack of somebody's own whose training has changed what no file holds.

    Args:
        trained: as it was trained.
        read: its backdoor as it was read from the files.
        images: some, as bytes.

    Raises:
        ConfigError: their triggers differ.
    """
    if trained.backdoor is None or read is None or type(trained).name in get_args(AttackName):
        return
    pixels = to_pixels(images.to(next(trained.classifier.parameters()).device))
    with _evaluating(list(trained.modules.values())):
        pairs = zip(trained.backdoor.trigger(pixels), read.trigger(pixels), strict=True)
        if not all(torch.allclose(one, other, atol=1e-3) for one, other in pairs):
            raise ConfigError(
                f"{type(trained).__name__}: expected the same triggers after training as of the files; found others: "
                "training has changed something that is in no parameter or buffer of modules; keep it there, and train "
                "again"
            )


def _answers(attack: Attack, images: Float[Tensor, "batch channel height width"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return masks, patterns and logits of images, whatever is drawn for them the same each time."""
    assert attack.backdoor is not None
    torch.default_generator.manual_seed(0)
    masks, patterns = attack.backdoor.trigger(images)
    with torch.no_grad():
        return masks, patterns, attack.classifier(images)


@contextlib.contextmanager
def _evaluating(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Put networks into evaluation mode, in which nothing of them changes, and back."""
    before = [(part, part.training) for network in networks for part in network.modules()]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training
