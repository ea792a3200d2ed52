"""The learning rate at the points where its course turns."""

from __future__ import annotations

import math

import pytest

from inputaware.config.fields import OptimizerConfig
from inputaware.training.schedules import learning_rate


@pytest.mark.parametrize(
    ("epoch", "drops"), [(0, 0), (9, 0), (10, 1), (11, 1), (19, 1), (20, 2), (24, 2), (29, 2), (30, 3), (1000, 3)]
)
def test_step_drops_by_ten_after_each_milestone(epoch: int, drops: int) -> None:
    config = OptimizerConfig(name="adam", learning_rate=0.01, schedule="step", milestones=(10, 20, 30))
    for progress in (0.0, 0.5, 0.999):
        assert learning_rate(config, epoch=epoch, progress=progress) == pytest.approx(0.01 / 10**drops, rel=1e-12)


def test_step_without_milestones_is_constant() -> None:
    config = OptimizerConfig(name="sgd", learning_rate=0.3, schedule="step")
    assert learning_rate(config, epoch=10**6, progress=0.5) == 0.3


@pytest.mark.parametrize("peak", [0.05, 3.0])
@pytest.mark.parametrize("warmup", [0.1, 0.25, 0.9])
def test_one_cycle_rises_and_falls_along_half_a_cosine(peak: float, warmup: float) -> None:
    config = OptimizerConfig(name="sgd", learning_rate=peak, schedule="one-cycle", warmup=warmup)

    def rate(progress: float) -> float:
        return learning_rate(config, epoch=0, progress=progress)

    assert rate(0.0) == pytest.approx(peak / 25)
    assert rate(warmup / 2) == pytest.approx((peak / 25 + peak) / 2)
    assert rate(warmup) == pytest.approx(peak)
    assert rate((1 + warmup) / 2) == pytest.approx((peak + peak / 10_000) / 2)
    assert rate(1 - 1e-12) == pytest.approx(peak / 10_000)
    # A third of the way of a half cosine is a quarter of the height.
    assert rate(warmup / 3) == pytest.approx(peak / 25 + (peak - peak / 25) * (1 - math.cos(math.pi / 3)) / 2)
    course = [rate(index / 1000) for index in range(1001)]
    top = course.index(max(course))
    assert top == round(1000 * warmup)
    assert course[: top + 1] == sorted(course[: top + 1])
    assert course[top:] == sorted(course[top:], reverse=True)


def test_one_cycle_without_warmup_starts_at_the_peak() -> None:
    config = OptimizerConfig(name="sgd", learning_rate=0.1, schedule="one-cycle", warmup=0.0)
    assert learning_rate(config, epoch=0, progress=0.0) == pytest.approx(0.1)


def test_one_cycle_knows_no_epochs_and_no_milestones() -> None:
    config = OptimizerConfig(name="sgd", learning_rate=0.1, schedule="one-cycle", milestones=(1,))
    assert learning_rate(config, epoch=0, progress=0.4) == learning_rate(config, epoch=9, progress=0.4)
