"""Medians and ranges are NumPy's, intervals and tests SciPy's; a ratio is of times of the same round."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from inputaware.evaluation.statistics import (
    Estimate,
    area_over_models,
    compare,
    estimate,
    holm,
    ratios,
    significant_from,
    summary,
)

numbers = st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=1, max_size=30)


@given(values=numbers)
def test_summary_is_numpys(values: list[float]) -> None:
    found = summary(values)
    assert found["median"] == pytest.approx(float(np.median(values)), rel=1e-12)
    assert (found["lowest"], found["highest"], found["rounds"]) == (min(values), max(values), len(values))


def test_the_median_of_ratios_is_not_the_ratio_of_medians() -> None:
    plain, product = [2.0, 9.0, 20.0], [1.0, 3.0, 10.0]
    assert ratios(plain, product) == [2.0, 3.0, 2.0]
    assert summary(ratios(plain, product)) == {"median": 2.0, "lowest": 2.0, "highest": 3.0, "rounds": 3}
    assert np.median(plain) / np.median(product) == 3.0


def test_each_time_has_its_counterpart() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        ratios([1.0, 2.0], [1.0])


# Over seeds: SciPy is the reference for what is not SciPy's own.

VALUES = [0.981, 0.975, 0.990, 0.969, 0.984]


def test_the_t_interval_is_scipys() -> None:
    found = estimate(VALUES)
    sem = np.std(VALUES, ddof=1) / np.sqrt(5)
    assert found.t_interval == pytest.approx(stats.t.interval(0.95, 4, loc=np.mean(VALUES), scale=sem), rel=1e-12)
    assert (found.mean, found.deviation, found.count) == (
        pytest.approx(np.mean(VALUES)),
        pytest.approx(np.std(VALUES, ddof=1)),
        5,
    )


def test_the_bootstrap_is_scipys() -> None:
    # Of five values the means take few values, and quantiles jump from one to the next.
    values = np.random.default_rng(5).normal(0.9, 0.01, 30).tolist()
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=50_000, rng=1).confidence_interval
    assert estimate(values).bootstrap_interval == pytest.approx((theirs.low, theirs.high), abs=1e-4)
    assert estimate(values) == estimate(values)
    few = estimate(VALUES).bootstrap_interval
    assert few is not None
    assert min(VALUES) <= few[0] < few[1] <= max(VALUES)


def test_of_one_seed_only_the_mean_is_known() -> None:
    assert estimate([0.5]) == Estimate(0.5, None, None, None, 1, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"^values: expected finite numbers; found \[1.0, nan\]$"):
        estimate([1.0, math.nan])
    assert (estimate([3.0, 1.0, 2.0]).lowest, estimate([3.0, 1.0, 2.0]).highest) == (1.0, 3.0)
    with pytest.raises(ValueError, match="values: expected at least one; found none"):
        estimate([])


def test_intervals_hold_the_true_mean_as_often_as_they_say_and_the_bootstrap_less() -> None:
    draws = np.random.default_rng(0).normal(0.9, 0.01, size=(400, 5))
    found = [estimate(list(row)) for row in draws]
    shares = {
        kind: np.mean([interval[0] <= 0.9 <= interval[1] for interval in (getattr(one, kind) for one in found)])
        for kind in ("t_interval", "bootstrap_interval")
    }
    assert 0.92 <= shares["t_interval"] <= 0.98
    assert shares["bootstrap_interval"] < 0.9


def test_a_comparison_is_scipys_paired_t_test_on_the_seeds_in_common() -> None:
    first = dict(enumerate(VALUES)) | {9: 0.1}
    second = dict(enumerate(np.add(VALUES, (0.01, 0.02, 0, 0.01, 0.03)).tolist()))
    found = compare(first, second | {7: 0.9})
    theirs = stats.ttest_rel([second[seed] for seed in range(5)], VALUES)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert found.difference.mean == pytest.approx(0.014)
    assert found.difference.t_interval == pytest.approx(tuple(theirs.confidence_interval(0.95)), rel=1e-9)
    assert found.difference.count == 5


def test_comparisons_where_a_t_test_has_no_answer() -> None:
    assert compare({0: 0.5}, {0: 0.6}).p_value is None
    assert compare({0: 0.5, 1: 0.25}, {0: 0.5, 1: 0.25}).p_value is None
    assert compare({0: 0.5, 1: 0.25}, {0: 0.75, 1: 0.5}).p_value is None
    rounded = compare({0: 0.98, 1: 0.1}, {0: 0.98 + 1 / 450, 1: 0.1 + 1 / 450})
    assert (rounded.difference.deviation or 0) > 0
    assert rounded.p_value is None
    # Rates that differ by one image of ten million have a spread that is none of rounding.
    assert compare({0: 0.5, 1: 0.5}, {0: 0.6, 1: 0.6 + 1e-7}).p_value == pytest.approx(3.2e-7, rel=0.1)
    with pytest.raises(ValueError, match=r"seeds: expected one that is in both; found \[0\] and \[1\]"):
        compare({0: 0.5}, {1: 0.5})


def test_the_area_over_models_is_scipys_and_scikit_learns() -> None:
    random = np.random.default_rng(0)
    # Few different numbers, so that many are tied.
    draws = (random.integers(low, low + 6, size=count) for low, count in ((0, 9), (2, 7)))
    clean, backdoored = (drawn.astype(float).tolist() for drawn in draws)
    area = area_over_models(clean, backdoored)
    assert 0.5 < area < 1
    assert area == pytest.approx(stats.mannwhitneyu(backdoored, clean).statistic / 63, rel=1e-12)
    assert area == pytest.approx(roc_auc_score([0] * 9 + [1] * 7, [*clean, *backdoored]), rel=1e-12)
    assert area_over_models(backdoored, clean) == pytest.approx(1 - area, rel=1e-12)
    assert area_over_models([1.0, 2.0], [3.0]) == 1.0
    assert area_over_models([1.0], [1.0]) == 0.5
    with pytest.raises(ValueError, match=r"^scores: expected some of both kinds; found 0 clean, 1 backdoored$"):
        area_over_models([], [1.0])


@pytest.mark.parametrize(("seeds", "questions"), [(2, 1), (3, 9), (5, 27)])
def test_the_least_significant_difference_is_where_p_is_significant(seeds: int, questions: int) -> None:
    least = significant_from(seeds, questions)
    around = np.arange(seeds) - (seeds - 1) / 2
    around /= around.std(ddof=1)
    for share, significant in ((1.001, True), (0.999, False)):
        found = compare(dict.fromkeys(range(seeds), 0.0), dict(enumerate((around + share * least).tolist())))
        assert found.difference.deviation == pytest.approx(1)
        # The smallest of several p is multiplied by their number.
        adjusted = holm([found.p_value, *[0.9] * (questions - 1)])[0]
        assert adjusted is not None
        assert (adjusted < 0.05) == significant


def test_holm_by_hand() -> None:
    # In order: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1 lifted to the one before it.
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
