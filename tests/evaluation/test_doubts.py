"""Rates that look like a result and are none."""

from __future__ import annotations

from typing import Any

import pytest

from inputaware.evaluation.doubts import doubts, doubts_over_seeds

NOTHING_LEARNED = (
    "The classifier is right on 33.3 % of clean images, where always saying one class is right on 33.3 %: it has "
    "learned next to nothing, and its other rates mean nothing."
)
NOT_TAKEN = (
    "The attack works on 1.5 % of the images that are not of the attacker's class anyway: it did not take, so that a "
    "defense that sees nothing here is right."
)

WEAK = (
    "The attack works on 49.0 % of the images that are not of the attacker's class anyway: it is weak, and a defense "
    "that misses it here may catch it where it works."
)
ONE_STAGE = " Longer training may help (--joint-stage.epochs)."
LONGER = " Longer training of both stages may help (--mask-stage.epochs, --joint-stage.epochs)."
OF_NO_IMAGE = (
    "With another image's trigger only 40.0 % keep their true label, where 99.0 % have it without: triggers work on "
    "other images too, so that a defense that catches this model may miss an input-aware one."
)


def rates(
    clean: float, attack: float | None, images: list[int], cross: float | None = None, excluded: float = 0.9
) -> dict[str, Any]:
    return {
        "clean_accuracy": clean,
        "attack_success_rate": None if attack is None else attack * excluded,
        "attack_success_rate_excluding_target": attack,
        "cross_accuracy": cross,
        "per_class": {"images": images},
    }


def test_all_to_all_no_more_is_asked_than_the_classifier_can_tell() -> None:
    assert doubts(rates(0.81, 0.73, [10, 10, 10], excluded=1.0)) == []
    assert "it is weak" in doubts(rates(0.81, 0.64, [10, 10, 10], excluded=1.0))[0]
    assert "it did not take" in doubts(rates(0.81, 0.16, [10, 10, 10], excluded=1.0))[0]


def test_just_below_its_limits_it_speaks() -> None:
    assert "works on 79.0 %" in doubts(rates(0.99, 0.79, [10, 10, 10]))[0]
    assert "right on 39.0 %" in doubts(rates(0.39, 0.9, [10, 10, 10]))[0]


@pytest.mark.parametrize(
    ("clean", "attack", "images", "expected"),
    [
        (0.99, 0.99, [10, 10, 10], []),
        (0.99, None, [10, 10, 10], []),
        (1.0, 1.0, [10, 0], []),
        # It says class 0 to everything, which the attack's rate takes for success.
        (1 / 3, 1.0, [10, 10, 10], [NOTHING_LEARNED]),
        (0.99, 0.015, [10, 10, 10], [NOT_TAKEN]),
        (1 / 3, 0.015, [10, 10, 10], [NOTHING_LEARNED, NOT_TAKEN]),
        (0.99, 0.49, [10, 10, 10], [WEAK]),
        (0.99, 0.8, [10, 10, 10], []),
        (0.41, 0.9, [10, 10, 10], []),
        # Much is right where one class is frequent, and little where there are many: neither says anything by itself.
        (0.83, 0.9, [80, 20], []),
        (0.12, 0.9, [10] * 100, []),
    ],
)
def test_what_speaks_against_a_model(
    clean: float, attack: float | None, images: list[int], expected: list[str]
) -> None:
    # A control has one stage to train, the input-aware attack two.
    for cross, advice in ((None, ONE_STAGE), (0.5, LONGER)):
        advised = [words + advice if words in (NOT_TAKEN, WEAK) else words for words in expected]
        assert doubts(rates(clean, attack, images, cross=cross)) == advised


def test_triggers_that_work_on_all_images_are_none_of_the_input_aware_attack() -> None:
    assert doubts(rates(0.99, 0.99, [10, 10, 10], cross=0.4)) == [OF_NO_IMAGE + LONGER]
    assert doubts(rates(0.99, 0.99, [10, 10, 10], cross=0.5)) == []
    assert doubts(rates(0.8, 0.99, [10, 10, 10], cross=0.4)) == []
    failed = rates(0.99, 0.49, [10, 10, 10], cross=0.4)
    assert doubts(failed, "Look.") == [f"{WEAK} Look.", f"{OF_NO_IMAGE} Look."]


def test_over_seeds_it_is_said_of_how_many_and_which() -> None:
    good = rates(0.99, 0.99, [10, 10, 10], cross=0.9)
    failed = rates(0.99, 0.02, [10, 10, 10], cross=0.98)
    not_taken = (
        "The attack did not take with {}: a high cross accuracy is no merit there, and a defense that sees nothing is "
        "right."
    )
    assert doubts_over_seeds({0: good, 1: good}) == []
    assert doubts_over_seeds({2: failed, 0: good, 1: good}) == [not_taken.format("1 of 3 seeds (2)")]
    assert doubts_over_seeds({7: failed}) == [not_taken.format("1 of 1 seed (7)")]
    weak = rates(0.99, 0.5, [10, 10, 10], cross=0.3)
    assert doubts_over_seeds({5: weak, 3: weak, 4: failed}) == [
        not_taken.format("1 of 3 seeds (4)"),
        "The attack is weak with 2 of 3 seeds (3, 5): a defense that misses it there may catch it where it works.",
        "Triggers work on other images too with 2 of 3 seeds (3, 5): a defense that catches these models may miss an "
        "input-aware one.",
    ]
    # Of all of them nobody has to be told which, and a control has no cross test.
    badnets = rates(1 / 3, 0.02, [10, 10, 10])
    assert doubts_over_seeds({0: badnets, 1: badnets}) == [
        "The classifier has learned next to nothing with 2 of 2 seeds: its other rates mean nothing.",
        "The attack did not take with 2 of 2 seeds: a defense that sees nothing there is right.",
    ]
