"""What defenses share that repair a classifier."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from inputaware.defenses.repair import changed_output, curve_arrays, divide, most_pruned, rates, rates_in_words

LABELS = torch.tensor([0, 0, 1, 2])
CLEAN = torch.tensor([0, 1, 1, 2])
POISONED = torch.tensor([0, 0, 0, 2])
TARGETS = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("accuracy", "tolerance", "expected"),
    [
        ([0.9, 0.9, 0.86, 0.8], 0.04, 2),
        ([0.9, 0.8, 0.87, 0.1], 0.04, 2),
        ([0.9, 0.8, 0.7, 0.1], 0.04, 0),
        ([0.5, 0.6, 0.7], 0.0, 2),
        ([0.9, 0.85, 0.1], 1.0, 2),
    ],
)
def test_as_many_channels_as_the_tolerance_allows(accuracy: list[float], tolerance: float, expected: int) -> None:
    assert most_pruned(torch.tensor(accuracy, dtype=torch.float64), tolerance=tolerance) == expected


@pytest.mark.parametrize("held_out", [0.05, 0.4, 0.5, 0.95])
def test_the_parts_are_disjoint_and_hold_the_same_share_of_every_class(held_out: float) -> None:
    labels = torch.arange(120) % 3
    used, held = divide(labels, held_out=held_out, seed=4)
    assert sorted([*used.tolist(), *held.tolist()]) == [*range(120)]
    assert len(held) == round(held_out * 120)
    for part in (used, held):
        np.testing.assert_array_equal(torch.bincount(labels[part]), len(part) / 3)
    assert torch.equal(held, divide(labels, held_out=held_out, seed=4)[1])
    assert not torch.equal(held, divide(labels, held_out=held_out, seed=5)[1])


@pytest.mark.parametrize("held_out", [0.05, 0.95])
def test_of_two_images_one_is_in_either_part(held_out: float) -> None:
    used, held = divide(torch.tensor([0, 1]), held_out=held_out, seed=0)
    assert len(used) == len(held) == 1


def test_an_output_is_changed_within_and_not_after_an_error() -> None:
    layer, images = nn.Identity(), torch.ones(2, 3)
    with changed_output(layer, lambda output: 2 * output):
        assert torch.equal(layer(images), 2 * images)
    assert torch.equal(layer(images), images)
    with pytest.raises(ZeroDivisionError), changed_output(layer, lambda output: 2 * output):
        raise ZeroDivisionError
    assert torch.equal(layer(images), images)


def test_rates_are_of_clean_and_of_triggered_images() -> None:
    found = rates(CLEAN, LABELS, POISONED, TARGETS)
    assert found["clean_accuracy"] == 0.75
    assert found["attack"] == {
        "attack_success_rate": 0.75,
        "attack_success_rate_excluding_target": 0.5,
        "robust_accuracy": 0.75,
        "robust_accuracy_excluding_target": 0.5,
    }
    assert rates(CLEAN, LABELS, None, None) == {"clean_accuracy": 0.75, "attack": None}


def test_a_curve_has_an_array_of_each_rate() -> None:
    alone = torch.zeros(2, dtype=torch.int64)  # images of the target class alone
    points = [rates(alone, alone, alone + miss, alone) for miss in (0, 1)]
    arrays = curve_arrays(points)
    assert arrays["attack_success_rate"].tolist() == [1, 0]
    assert np.isnan(arrays["attack_success_rate_excluding_target"]).all()
    assert list(curve_arrays([rates(CLEAN, LABELS, None, None)])) == ["clean_accuracy"]


def test_stages_in_words() -> None:
    stages = {"before": rates(LABELS, LABELS, TARGETS, TARGETS), "after": rates(CLEAN, LABELS, POISONED, TARGETS)}
    assert rates_in_words(stages) == (
        "Clean accuracy is 100.0 % before, 75.0 % after; the attack succeeds on 100.0 % and 75.0 % (50.0 % without the "
        "target's own) of the images."
    )
    clean = {name: rates(CLEAN, LABELS, None, None) for name in stages}
    assert rates_in_words(clean) == (
        "Clean accuracy is 75.0 % before, 75.0 % after; a clean model has no attack to lose."
    )
