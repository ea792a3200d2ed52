"""Medians, ranges and percentiles are NumPy's; a ratio is of two times of the same round."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inputaware.evaluation.statistics import percentile, ratios, summary

numbers = st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=1, max_size=30)


@given(values=numbers, percent=st.floats(min_value=0, max_value=100))
def test_percentile_is_numpys(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)), rel=1e-9)


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="values: expected at least one; found none"):
        percentile([], 95.0)


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
