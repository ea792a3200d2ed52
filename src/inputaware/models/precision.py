"""The arithmetic in which networks are judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch

__all__ = ["full_float32"]


class _Switch(NamedTuple):
    """Something that may round factors, or add in any order: how it is read and set, and its value for neither."""

    read: Callable[[], Any]
    write: Callable[[Any], object]
    exact: Any


@contextmanager
def full_float32() -> Iterator[None]:
    """Let networks compute in float32 whatever was asked for outside, and add in a fixed order on a GPU.

    Left alone convolutions round their factors to TF32's 10 bits on a GPU, and their gradients may come to other bits
    each time. Autocast, ``torch.set_float32_matmul_precision`` and ``torch.backends.fp32_precision`` are put off here.
    What a backward pass computes in is asked when it runs, so that it has to stand in here too.
    """
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        for switch in _switches():
            if (before := switch.read()) != switch.exact:
                stack.callback(switch.write, before)
                switch.write(switch.exact)
        yield


def _switches() -> list[_Switch]:
    """Return what is to be set: by the older names, which a network may read too, as long as nobody used the newer."""
    cudnn: Any = torch.backends.cudnn
    order = _attribute(cudnn, "deterministic", True)
    if not _newer_in_use():
        product = _Switch(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest")
        return [order, _attribute(cudnn, "allow_tf32", False), product]
    onednn: Any = torch.backends.mkldnn
    parts = (
        *((part, cudnn) for part in (cudnn.conv, cudnn.rnn)),
        (torch.backends.cuda.matmul, torch.backends),
        *((part, onednn) for part in (onednn.conv, onednn.matmul)),
    )
    return [
        order,
        *(
            _Switch(partial(_own_precision, part, parent), partial(setattr, part, "fp32_precision"), "ieee")
            for part, parent in parts
        ),
    ]


def _newer_in_use() -> bool:
    """Return whether somebody has set ``fp32_precision``, of which torch before 2.9 knows nothing."""
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        return False
    # Nothing but the newer names sets these.
    new = (backends, backends.cudnn, backends.mkldnn, backends.mkldnn.conv)
    if any(place.fp32_precision != "none" for place in new):
        return True
    try:  # torch refuses to read an older name that contradicts a newer one
        _ = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
    except RuntimeError:
        return True
    return False


def _own_precision(part: Any, parent: Any) -> str:
    """Return what a part was set to; none where it has its parent's, which it is to follow afterwards too."""
    precision: str = part.fp32_precision
    return "none" if precision == parent.fp32_precision else precision


def _attribute(place: Any, name: str, exact: object) -> _Switch:
    return _Switch(partial(getattr, place, name), partial(setattr, place, name), exact)
