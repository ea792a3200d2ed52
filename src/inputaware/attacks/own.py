"""Attacks that somebody else wrote: whether a run folder can keep them, before training and after it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import get_args

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from inputaware.attacks.base import Attack, Backdoor
from inputaware.config.fields import AttackName, Config
from inputaware.data.loader import to_pixels
from inputaware.data.spec import DatasetSpec
from inputaware.errors import ConfigError

__all__ = ["check_attack", "check_kept"]


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
