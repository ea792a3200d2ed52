"""What is said of repeated times: medians, ranges, percentiles, ratios of times that were taken side by side."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

__all__ = ["percentile", "ratios", "summary"]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which this many percent lie, linear between neighbours in order.

    Args:
        values: one or more numbers.
        percent: 0 to 100.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("values: expected at least one; found none")
    ordered = sorted(values)
    place = percent / 100 * (len(ordered) - 1)
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    return below + (above - below) * (place - math.floor(place))


def ratios(slower: Sequence[float], faster: Sequence[float]) -> list[float]:
    """Return ``slower / faster`` of each round: both were timed one after the other, under the same load.

    Args:
        slower: seconds of what is compared with.
        faster: seconds of what is measured, as many.
    """
    return [first / second for first, second in zip(slower, faster, strict=True)]


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Return median, lowest and highest value, and how many there are."""
    return {
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
        "rounds": len(values),
    }
