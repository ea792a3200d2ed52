"""The tests are those of the paper, and rates are written alike everywhere."""

from __future__ import annotations

import pytest

from inputaware.evaluation.words import (
    RATES,
    TESTS,
    duration,
    in_percent,
    percent,
    reuse_in_words,
    short_number,
    success_in_words,
)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0.000"),
        (2.23456, "2.235"),
        (-0.5, "-0.500"),
        (0.0091234, "0.00912"),
        (-1e-7, "-1e-07"),
        (11635.93, "11636"),
    ],
)
def test_a_small_number_keeps_its_digits_and_a_large_one_needs_none(value: float, words: str) -> None:
    assert short_number(value) == words


def test_the_papers_tests_are_among_all() -> None:
    assert RATES == {"clean": "clean_accuracy", "attack": "attack_success_rate", "cross": "cross_accuracy"}
    assert RATES.items() <= {(test.name, test.rate) for test in TESTS}


@pytest.mark.parametrize(
    ("rate", "digits", "expected"), [(0.98765, 2, "98.77"), (1.0, 0, "100"), (0.5, 1, "50.0"), (None, 2, "-")]
)
def test_rates(rate: float | None, digits: int, expected: str) -> None:
    assert percent(rate, digits) == expected
    assert in_percent(rate, digits) == (expected if rate is None else f"{expected} %")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0:00:00"), (59.6, "0:01:00"), (3725.0, "1:02:05"), (360000.0, "100:00:00")]
)
def test_a_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("others", "expected"),
    [(0.0, "10.0 % (0.0 % without the target's own)"), (0.1, "10.0 %"), (None, "10.0 %")],
)
def test_success_without_images_that_are_of_the_target_class_anyway(others: float | None, expected: str) -> None:
    assert success_in_words({"attack_success_rate": 0.1, "attack_success_rate_excluding_target": others}) == expected


@pytest.mark.parametrize(
    ("gets_target", "end"),
    [
        (0.5, "keep their true label, and of those that are not of the attacker's class anyway 50.0 % get that class."),
        (None, "keep their true label."),
    ],
)
def test_the_nearest_images_trigger(gets_target: float | None, end: str) -> None:
    nearest = {"images": 2000, "keeps_label": 0.25, "gets_target": gets_target}
    assert reuse_in_words({"reuse": {"nearest": nearest}}) == [
        f"With the most similar other image's trigger (of 2000 images) 25.0 % {end}"
    ]


@pytest.mark.parametrize("evaluation", [{}, {"reuse": None}])
def test_nothing_is_said_where_nothing_was_measured(evaluation: dict[str, None]) -> None:
    assert reuse_in_words(evaluation) == []
