"""What is said of repeated numbers: medians and ranges of times, means and intervals over seeds, differences by seed.

Nothing here imports torch.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "CONFIDENCE",
    "Comparison",
    "Estimate",
    "area_over_models",
    "compare",
    "estimate",
    "holm",
    "ratios",
    "significant_from",
    "summary",
]

CONFIDENCE = 0.95
"""Share of intervals that hold the true mean; a difference is significant where p lies below the rest."""

_RESAMPLES = 10_000

_ROUNDING = 1e-9
"""Standard deviation of rates below which they differ by rounding only: no test set has a billion images."""


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


@dataclass(frozen=True)
class Estimate:
    """The mean of a number over runs that differ in their seeds only, and how far luck may have moved it.

    Attributes:
        mean: the mean.
        deviation: the standard deviation of one run, ``n - 1`` in the denominator; none of one run.
        t_interval: Student's interval of the mean at :data:`CONFIDENCE`; none of one run.
        bootstrap_interval: the percentile bootstrap's; none of one run.
        count: how many runs.
        lowest: the smallest of them.
        highest: the largest of them.
    """

    mean: float
    deviation: float | None
    t_interval: tuple[float, float] | None
    bootstrap_interval: tuple[float, float] | None
    count: int
    lowest: float
    highest: float

    @property
    def alike(self) -> bool:
        """Whether several runs gave the same number, but for rounding."""
        return self.deviation is not None and self.deviation < _ROUNDING * max(1.0, abs(self.mean))


def estimate(values: Sequence[float]) -> Estimate:
    """Return mean, standard deviation, both intervals and the range of a number over seeds.

    ``mean +- t sd / sqrt(n)`` with Student's t of ``n - 1`` degrees of freedom (Student 1908), and the percentile
    bootstrap (Efron 1979): quantiles of the means of 10,000 samples drawn from the values with replacement. The t
    interval takes the values as normal, and of rates near 0 or 1 it can reach beyond. The bootstrap assumes no shape,
    but never leaves the range of the values, so that with a handful of them it is too narrow.

    Args:
        values: one or more numbers, one for each seed.

    Raises:
        ValueError: there are no values, or one is not finite.
    """
    if not values:
        raise ValueError("values: expected at least one; found none")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"values: expected finite numbers; found {list(values)}")
    mean, count = statistics.fmean(values), len(values)
    if count == 1:
        return Estimate(mean, None, None, None, 1, mean, mean)
    import numpy as np
    from scipy import stats

    deviation = statistics.stdev(values)
    tail = (1 - CONFIDENCE) / 2
    reach = float(stats.t.isf(tail, count - 1)) * deviation / math.sqrt(count)
    # Seeded by nothing: the same values have the same interval, today and tomorrow.
    draws = np.random.default_rng(0).integers(count, size=(_RESAMPLES, count))
    low, high = np.quantile(np.asarray(values, dtype=np.float64)[draws].mean(axis=1), (tail, 1 - tail))
    interval, bootstrap = (mean - reach, mean + reach), (float(low), float(high))
    return Estimate(mean, deviation, interval, bootstrap, count, min(values), max(values))


@dataclass(frozen=True)
class Comparison:
    """How two settings differ, paired by seed.

    Attributes:
        difference: of the second minus the first, over the seeds that both have.
        p_value: two-sided p of the paired t-test; none of one seed, and none where all seeds differ by the same.
    """

    difference: Estimate
    p_value: float | None


def compare(first: Mapping[int, float], second: Mapping[int, float]) -> Comparison:
    """Return the difference ``second - first`` of the seeds that both have, and whether luck explains it.

    The paired t-test (Student 1908) asks how often differences that are zero in the mean would give one as large.
    Pairing takes out what a seed does to both, such as the order of the images. Differences that are all the same have
    no spread to compare their mean with, and the test has no answer: rates are counts of some hundred images, so that
    two or three seeds differ by the same count now and then, and that says nothing of luck.

    Args:
        first: numbers by seed.
        second: numbers by seed, at least one of them of a seed of the first.

    Raises:
        ValueError: no seed is in both.
    """
    common = sorted(first.keys() & second.keys())
    if not common:
        raise ValueError(f"seeds: expected one that is in both; found {sorted(first)} and {sorted(second)}")
    difference = estimate([second[seed] - first[seed] for seed in common])
    if difference.deviation is None or difference.alike:
        return Comparison(difference, None)
    from scipy import stats

    t = difference.mean / (difference.deviation / math.sqrt(difference.count))
    return Comparison(difference, float(2 * stats.t.sf(abs(t), difference.count - 1)))


def area_over_models(clean: Sequence[float], backdoored: Sequence[float]) -> float:
    """Return the area under the ROC curve of a score of models: how often a backdoored one has the higher score.

    ``(#{b > c} + #{b = c} / 2) / (n_b n_c)`` over all pairs of a backdoored and a clean model, the statistic U of Mann
    & Whitney 1947 as a share: 1 always, 0.5 by luck.

    Args:
        clean: scores of clean models.
        backdoored: scores of backdoored ones.

    Raises:
        ValueError: one of both is empty.
    """
    if not clean or not backdoored:
        raise ValueError(f"scores: expected some of both kinds; found {len(clean)} clean, {len(backdoored)} backdoored")
    higher = sum((own > other) + (own == other) / 2 for own in backdoored for other in clean)
    return higher / (len(clean) * len(backdoored))


def significant_from(seeds: int, questions: int) -> float:
    """Return how large the clearest of several differences has to be to be called significant, in its deviations.

    ``t / sqrt(n)`` with the quantile of Student's t of ``n - 1`` degrees of freedom that leaves ``0.05 / m`` to both
    sides, as :func:`compare` and :func:`holm` have it of the smallest p. No number of questions puts it out of reach,
    since seeds that differ by nearly the same have any small p; what is larger than that is rare.

    Args:
        seeds: n, two or more.
        questions: m, for which p-values are adjusted.
    """
    from scipy import stats

    return float(stats.t.isf((1 - CONFIDENCE) / 2 / questions, seeds - 1)) / math.sqrt(seeds)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values that hold for all questions together: of many, some look significant by luck (Holm 1979).

    In ascending order the i-th of m is multiplied by ``m - i + 1``; none falls below the one before it, or rises
    above 1.

    Args:
        p_values: one for each question; none stays none and is no question.
    """
    asked = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(asked):
        highest = max(highest, min(1.0, p * (len(asked) - rank)))
        adjusted[index] = highest
    return adjusted
