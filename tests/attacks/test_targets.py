"""The attacker's labels."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from inputaware.attacks.targets import check_target, target_labels
from inputaware.config.fields import TargetName
from inputaware.errors import ConfigError


@pytest.mark.parametrize(
    ("rule", "target_class", "expected"),
    [
        ("all-to-one", 0, [0, 0, 0, 0, 0]),
        ("all-to-one", 3, [3, 3, 3, 3, 3]),
        ("all-to-all", 0, [1, 0, 3, 2, 0]),
        ("all-to-all", 2, [1, 0, 3, 2, 0]),
    ],
)
def test_rule(rule: TargetName, target_class: int, expected: list[int]) -> None:
    labels = torch.tensor([0, 3, 2, 1, 3])
    found = target_labels(labels, rule, 4, target_class)
    assert found.tolist() == expected
    assert found.dtype == torch.int64
    assert labels.tolist() == [0, 3, 2, 1, 3]


@pytest.mark.parametrize("classes", [2, 10, 43])
def test_all_to_all_is_a_permutation_without_fixed_points(classes: int) -> None:
    labels = torch.arange(classes)
    found = target_labels(labels, "all-to-all", classes, 0)
    assert torch.equal(found.sort().values, labels)
    assert (found != labels).all()


def test_no_images_have_no_labels() -> None:
    assert target_labels(torch.empty(0, dtype=torch.int64), "all-to-one", 10, 1).shape == (0,)


@pytest.mark.parametrize("target_class", [10, -1])
@pytest.mark.parametrize("rule", ["all-to-one", "all-to-all"])
def test_refuses_a_class_that_is_not_there(rule: TargetName, target_class: int) -> None:
    message = f"target_class: expected a class from 0 to 9; found {target_class}"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        target_labels(torch.zeros(1, dtype=torch.int64), rule, 10, target_class)


def test_refuses_a_rule_that_is_not_there(unchecked: None) -> None:
    message = "target: expected one of all-to-one, all-to-all; found 'all_to_one'; did you mean all-to-one?"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        target_labels(torch.zeros(1, dtype=torch.int64), "all_to_one", 10, 3)  # type: ignore[arg-type]


def test_a_whole_number_of_numpy_is_a_class(unchecked: None) -> None:
    check_target("all-to-one", np.int64(10), np.int64(9))  # type: ignore[arg-type]
