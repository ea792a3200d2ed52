"""What the three tests are called and mean, and how rates and times are written. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = [
    "RATES",
    "TESTS",
    "Test",
    "duration",
    "in_percent",
    "percent",
    "reuse_in_words",
    "short_number",
    "success_in_words",
]


class Test(NamedTuple):
    """One of the paper's tests.

    Attributes:
        name: what it is called in a table.
        rate: where an evaluation has it.
        meaning: what has to happen to an image that counts.
    """

    name: str
    rate: str
    meaning: str


TESTS = (
    Test("clean", "clean_accuracy", "clean images get their true label"),
    Test("attack", "attack_success_rate", "images with their own trigger get the attacker's label"),
    Test(
        "attack, other classes",
        "attack_success_rate_excluding_target",
        "the same without images already of that class",
    ),
    Test("cross", "cross_accuracy", "images with another image's trigger keep their true label"),
)
"""The paper's three, and attack success as the benchmark suites count it."""

RATES = {test.name: test.rate for test in TESTS if test.name in ("clean", "attack", "cross")}
"""The paper's three tests, and where an evaluation has each."""


def percent(rate: float | None, digits: int = 2) -> str:
    """Return a rate in percent, as a number for a table; a dash where the notion does not apply."""
    return "-" if rate is None else f"{100 * rate:.{digits}f}"


def in_percent(rate: float | None, digits: int = 2) -> str:
    """Return a rate in percent, with its unit for a sentence; a dash where the notion does not apply."""
    return "-" if rate is None else f"{percent(rate, digits)} %"


def short_number(value: float) -> str:
    """Return a number with three decimals, a small one with three digits, a large one without decimals."""
    size = abs(value)
    return f"{value:.3g}" if 0 < size < 0.1 else f"{value:.0f}" if size >= 1000 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def reuse_in_words(evaluation: Mapping[str, Any]) -> list[str]:
    """Return a sentence about triggers on the images that resemble their own most; none where none was measured.

    Args:
        evaluation: what ``evaluation.json`` holds; one from before it held this has no sentence.
    """
    if not (reuse := evaluation.get("reuse")):
        return []
    nearest = reuse["nearest"]
    words = f"{in_percent(nearest['keeps_label'], 1)} keep their true label"
    if nearest["gets_target"] is not None:
        rate = in_percent(nearest["gets_target"], 1)
        words += f", and of those that are not of the attacker's class anyway {rate} get that class"
    return [f"With the most similar other image's trigger (of {nearest['images']} images) {words}."]


def success_in_words(attack: Mapping[str, float | None]) -> str:
    """Return a rate of attack success, and beside it that of images which are not of the target class anyway.

    Images of the attacker's class count as successes without any attack: with ten classes 10 % is what no attack has.

    Args:
        attack: both rates, as :func:`inputaware.evaluation.metrics.attack_rates` names them.
    """
    every, others = attack["attack_success_rate"], attack["attack_success_rate_excluding_target"]
    words = in_percent(every, 1)
    return words if others in (None, every) else f"{words} ({in_percent(others, 1)} without the target's own)"
