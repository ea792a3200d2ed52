"""The label that an attacker wants for each image."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from inputaware.config.fields import TargetName
from inputaware.errors import ConfigError

__all__ = ["target_labels"]


def target_labels(
    labels: Int64[Tensor, " batch"], rule: TargetName, classes: int, target_class: int
) -> Int64[Tensor, " batch"]:
    """Return the attacker's labels: ``c(y) = target_class`` (all-to-one) or ``(y + 1) mod K`` (all-to-all).

    Args:
        labels: true labels, in [0, classes).
        rule: all-to-one or all-to-all.
        classes: how many classes there are, the paper's ``K``.
        target_class: the class of all-to-one, in [0, classes); all-to-all does not use it.

    Raises:
        ConfigError: there is no such target class.
    """
    if not 0 <= target_class < classes:
        raise ConfigError(f"target_class: expected a class from 0 to {classes - 1}; found {target_class}")
    if rule == "all-to-one":
        return torch.full_like(labels, target_class)
    return (labels + 1) % classes
