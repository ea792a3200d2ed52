"""What defenses share that repair a classifier."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inputaware.attacks.base import Backdoor
from inputaware.defenses.base import CleanData, Progress, Trial
from inputaware.defenses.features import changed_output
from inputaware.defenses.repair import (
    curve_arrays,
    divide,
    most_pruned,
    rates_along,
    rates_in_words,
)

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


class Given(Backdoor):
    """White images, for class 0."""

    universal = True

    def __init__(self) -> None:
        super().__init__(shape=(1, 2, 2), classes=3, target="all-to-one", target_class=0)

    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones(len(images), 1, 2, 2), torch.ones_like(images)


def trial(labels: Tensor = LABELS, *, backdoor: bool = True) -> Trial:
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    return Trial(CleanData(images, labels), Given() if backdoor else None)


def said(clean: list[Tensor], poisoned: list[Tensor]) -> Callable[[Tensor, Progress], Tensor]:
    """Return what is said of black images, and of white ones."""

    def predictions(images: Tensor, progress: Progress) -> Tensor:
        progress(1.0)
        return torch.stack(poisoned if images.any() else clean)

    return predictions


def test_rates_are_of_clean_and_of_triggered_images() -> None:
    predictions, heard = said([LABELS, CLEAN], [TARGETS, POISONED]), []
    before, after = rates_along(predictions, trial(), heard.append)
    assert (before["clean_accuracy"], before["attack"]["attack_success_rate"]) == (1.0, 1.0)
    assert after["clean_accuracy"] == 0.75
    assert after["attack"] == {
        "attack_success_rate": 0.75,
        "attack_success_rate_excluding_target": 0.5,
        "robust_accuracy": 0.75,
        "robust_accuracy_excluding_target": 0.5,
    }
    assert heard == [0.5, 1.0]
    assert rates_along(predictions, trial(backdoor=False), heard.append)[1] == {"clean_accuracy": 0.75, "attack": None}
    assert heard[2:] == [1.0]


def test_a_curve_has_an_array_of_each_rate() -> None:
    alone = torch.zeros(2, dtype=torch.int64)  # images of the target class alone
    arrays = curve_arrays(rates_along(said([alone, alone], [alone, alone + 1]), trial(alone)))
    assert arrays["attack_success_rate"].tolist() == [1, 0]
    assert np.isnan(arrays["attack_success_rate_excluding_target"]).all()
    assert list(curve_arrays(rates_along(said([CLEAN], []), trial(backdoor=False)))) == ["clean_accuracy"]


@pytest.mark.parametrize("backdoor", [True, False])
def test_stages_in_words(backdoor: bool) -> None:
    found = rates_along(said([LABELS, CLEAN], [TARGETS, POISONED]), trial(backdoor=backdoor))
    assert rates_in_words(dict(zip(("before", "after"), found, strict=True))) == (
        "Clean accuracy is 100.0 % before, 75.0 % after; the attack succeeds on 100.0 % and 75.0 % (50.0 % without the "
        "target's own) of the images."
        if backdoor
        else "Clean accuracy is 100.0 % before, 75.0 % after; a clean model has no attack to lose."
    )
