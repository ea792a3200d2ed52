"""What the plots show: the numbers that they were given, with none made up where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from inputaware.figures.plots import (
    accuracy_points,
    anomaly_by_class,
    anomaly_by_run,
    filter_bars,
    latency_points,
    pruning_curve,
    score_histogram,
    training_curves,
)
from inputaware.figures.style import svg_figure


def rows() -> list[dict[str, object]]:
    mask = [{"stage": "mask", "epoch": 1, "losses": {"total": 3.0, "norm": 2.0}, "validation": {}}]
    joint = [
        {
            "stage": "joint",
            "epoch": epoch,
            "losses": {"total": 1.0 / epoch},
            "validation": {"clean_accuracy": 0.5 + 0.1 * epoch, "attack_success_rate": None, "cross_accuracy": None},
        }
        for epoch in (1, 2)
    ]
    return [*mask, *joint]


def test_training_curves_hold_every_epoch() -> None:
    losses, accuracies = training_curves(rows()).axes
    total, norm = (line.get_ydata() for line in losses.lines[:2])
    np.testing.assert_allclose(total, [3.0, 1.0, 0.5])
    np.testing.assert_array_equal(np.isnan(norm), [False, True, True])
    assert [text.get_text() for text in accuracies.get_legend().get_texts()] == ["clean"]
    np.testing.assert_allclose(accuracies.lines[0].get_ydata(), [np.nan, 60, 70])
    # A line between the stages, in both.
    assert [list(line.get_xdata()) for line in (losses.lines[-1], accuracies.lines[-1])] == [[1.5, 1.5]] * 2


def test_training_curves_without_a_validation_are_losses_alone() -> None:
    (losses,) = training_curves([{**row, "validation": {}} for row in rows()]).axes
    np.testing.assert_allclose(losses.lines[0].get_ydata(), [3.0, 1.0, 0.5])
    assert losses.get_xlabel() == "epoch"


def test_a_curve_without_an_attack_has_none() -> None:
    clean = np.array([1.0, 0.5, 0.1])
    (axis,) = pruning_curve(clean, None, 1).axes
    assert [line.get_label() for line in axis.lines] == ["clean", "chosen: 1"]
    (axis,) = pruning_curve(clean, clean / 2, 1).axes
    np.testing.assert_allclose(axis.lines[1].get_ydata(), [50, 25, 5])
    assert list(axis.lines[1].get_xdata()) == [0, 1, 2]
    assert axis.get_xlabel() == "channels pruned"


def test_a_curve_over_thresholds_has_them_along_its_axis() -> None:
    places = np.array([0.0, 0.2, 0.95])
    (axis,) = pruning_curve(places, None, 0.2, places=places, axis_name="threshold").axes
    assert list(axis.lines[0].get_xdata()) == [0.0, 0.2, 0.95]
    assert axis.lines[1].get_label() == "chosen: 0.2"
    assert axis.get_xlabel() == "threshold"


def test_histograms_are_shares() -> None:
    edges, clean, triggered = np.linspace(0, 3, 4), np.array([1, 2, 1]), np.array([8, 0, 0])
    (axis,) = score_histogram(edges, clean, triggered, 0.5).axes
    shares = [patch.get_data().values for patch in axis.patches]
    np.testing.assert_allclose(shares[0], [25, 50, 25])
    np.testing.assert_allclose(shares[2], [100, 0, 0])
    assert len(score_histogram(edges, clean, None, 0.5).axes[0].patches) == 2


def test_a_class_without_a_trigger_has_no_bar() -> None:
    (axis,) = anomaly_by_class([1.0, None, -3.0], 2.0, [2]).axes
    assert [(round(bar.get_x() + bar.get_width() / 2), bar.get_height()) for bar in axis.patches] == [(0, 1), (2, -3)]
    assert "the attacker's class" in [text.get_text() for text in axis.figure.legends[0].get_texts()]
    (axis,) = anomaly_by_class([1.0, 0.5], 2.0, [0, 1]).axes
    assert "the attacker's class" not in [text.get_text() for text in axis.figure.legends[0].get_texts()]


def test_a_run_without_a_verdict_says_so() -> None:
    (axis,) = anomaly_by_run({"a": 2.5, "$\\frac{$": None}, {"a": 2.0, "$\\frac{$": 2.0}).axes
    assert [text.get_text() for text in axis.texts] == ["no verdict", "2.50"]
    svg_figure(axis.figure)  # a name that looks like a formula is drawn as it is


def test_each_run_is_judged_by_its_own_threshold() -> None:
    for thresholds, label in (({"a": 2.0, "b": 5.0}, "the dotted lines"), ({"a": 2.0, "b": 2.0}, "2")):
        (axis,) = anomaly_by_run({"a": 4.5, "b": 4.5}, thresholds).axes
        assert [line.get_xdata()[0] for line in axis.lines] == [thresholds["b"], thresholds["a"]]
        assert [bool(bar.get_hatch()) for bar in axis.patches] == [thresholds["b"] < 4.5, True]
        assert axis.figure.get_supxlabel().endswith(f"flagged above {label}")


def test_filters_without_a_trigger_show_clean_accuracy_only() -> None:
    (axis,) = filter_bars({"none": {"clean": 0.9}, "k=3": {"clean": 0.7, "trigger_then_filter": None}}).axes
    assert [bar.get_height() for bar in axis.patches] == [90, 70]
    assert [text.get_text() for text in axis.figure.legends[0].get_texts()] == ["clean"]


def test_filters_are_shown_in_both_orders() -> None:
    rates = {"trigger_then_filter": 0.2, "filter_then_trigger": 0.8, "clean": 0.7}
    (axis,) = filter_bars({"k=3": rates}).axes
    assert [bar.get_height() for bar in axis.patches] == pytest.approx([70, 80, 20])
    words = [text.get_text() for text in axis.figure.legends[0].get_texts()]
    assert words == ["clean", "filter, then trigger", "trigger, then filter"]


@pytest.mark.parametrize(("draw", "factor"), [(accuracy_points, 100), (latency_points, 1)])
def test_points_beside_the_papers(draw, factor: int) -> None:
    (axis,) = draw({"a": (0.5, 0.25), "b": (0.75, None)}).axes
    ours, paper = (line.get_xdata() for line in axis.lines)
    np.testing.assert_allclose(ours, [0.5 * factor, 0.75 * factor])
    np.testing.assert_allclose(paper, [0.25 * factor, np.nan])
    assert [text.get_text() for text in axis.texts] == [
        f"{0.5 * factor:.2f} | {0.25 * factor:.2f}",
        f"{0.75 * factor:.2f} | -",
    ]
    (axis,) = draw({"a": (0.5, None)}).axes
    assert [text.get_text() for text in axis.texts] == [f"{0.5 * factor:.2f}"]
