"""The label that an attacker wants for each image."""

from __future__ import annotations

from typing import get_args

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from inputaware.config.fields import TargetName
from inputaware.errors import ConfigError, did_you_mean

__all__ = ["check_target", "target_labels"]


def check_target(rule: object, classes: int, target_class: object) -> None:
    """Check that there is such a rule and such a target class.

    Args:
        rule: what should be all-to-one or all-to-all.
        classes: how many classes there are.
        target_class: what should be the class of all-to-one, in [0, classes).

    Raises:
        ConfigError: there is not.
    """
    rules = get_args(TargetName)
    if rule not in rules:  # any other would pass for all-to-all
        raise ConfigError(f"target: expected one of {', '.join(rules)}; found {rule!r}{did_you_mean(rule, rules)}")
    numbers = (int, np.integer)
    if isinstance(target_class, bool) or not isinstance(target_class, numbers) or not 0 <= target_class < classes:
        raise ConfigError(f"target_class: expected a class from 0 to {classes - 1}; found {target_class!r}")


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
        ConfigError: there is no such rule or no such target class.
    """
    check_target(rule, classes, target_class)
    if rule == "all-to-one":
        return torch.full_like(labels, target_class)
    return (labels + 1) % classes
