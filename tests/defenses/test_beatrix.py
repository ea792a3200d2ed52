"""Beatrix against formulas in float64, and on models with and without a backdoor."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from defenses.white_pixel import WhitePixel
from torch import Tensor, nn

from inputaware.api import Run
from inputaware.defenses.base import CleanData, Finding, Score, Suspect, Trial
from inputaware.defenses.beatrix import (
    Beatrix,
    area_within_classes,
    class_thresholds,
    deviations,
    entry_bounds,
    gram_entries,
    left_out_deviations,
    relative_excess,
)
from inputaware.defenses.features import ignores_negative
from inputaware.defenses.registry import build_defense
from inputaware.defenses.settings import BeatrixSettings, DefenseSettings
from inputaware.errors import ConfigError, DefenseError
from inputaware.models.mnist_cnn import MnistCnn
from inputaware.models.preact_resnet import PreActResNet18
from inputaware.models.registry import last_convolution

SHAPE = (1, 6, 6)
CLASSES = 3
CHANNELS = 5


class Small(nn.Module):
    """A convolution, ReLU or none, and a linear layer on the mean of each map; how bright an image is says its class.

    The last channel fires in the corner of an image with a white first pixel alone.
    """

    def __init__(self, *, activated: bool = True) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, CHANNELS, 3, stride=2)
        self.activation = nn.ReLU(inplace=True) if activated else nn.Identity()
        self.output = nn.Linear(1, CLASSES)
        with torch.no_grad():
            self.features.weight.copy_(torch.randn(CHANNELS, 1, 3, 3, generator=torch.Generator().manual_seed(0)))
            self.features.weight[0] = 1 / 9
            self.features.bias.zero_()
            self.features.weight[-1] = 0
            self.features.weight[-1, 0, 0, 0] = 1
            self.features.bias[-1] = -0.9
            self.output.weight.copy_(torch.tensor([[0.0], [10.0], [20.0]]))
            self.output.bias.copy_(torch.tensor([0.0, -3.0, -9.0]))

    def forward(self, images: Tensor) -> Tensor:
        features = self.activation(self.features(images))
        logits: Tensor = self.output(features[:, :1].mean((2, 3)) + 1e-3 * features.sum((1, 2, 3))[:, None])
        return logits


def suspect(*, activated: bool = True) -> Suspect:
    classifier = Small(activated=activated).eval()
    return Suspect(classifier, SHAPE, CLASSES, classifier.features)


def data(count: int = 60, *, seed: int = 0) -> CleanData:
    """Return images of three degrees of brightness, the label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    images = torch.randint(0, 80, (count, *SHAPE), generator=generator) + 70 * labels[:, None, None, None]
    return CleanData(images.to(torch.uint8), labels)


def beatrix(**changes: Any) -> Beatrix:
    return Beatrix(BeatrixSettings(**changes))


def maps(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3, 1.0, shape)


def expected_entries(values: np.ndarray, order: int) -> np.ndarray:
    """Return the upper triangle of one map's Gram matrix, entry by entry."""
    found = []
    for first in range(len(values)):
        for second in range(first, len(values)):
            total = sum(a**order * b**order for a, b in zip(values[first], values[second], strict=True))
            found.append(np.sign(total) * np.abs(total) ** (1 / order))
    return np.array(found)


def expected_deviations(tested: np.ndarray, references: np.ndarray, *, orders: int, bound: float) -> np.ndarray:
    """Return the deviations of equations 10 to 14, with what the release adds to a bound."""
    parts = []
    for order in range(1, orders + 1):
        known = np.array([expected_entries(values, order) for values in references])
        middle = np.median(known, 0)
        spread = bound * np.median(np.abs(known - middle), 0)
        low, high = middle - spread, middle + spread
        for values in tested:
            own = expected_entries(values, order)
            below = np.where(own < low, (low - own) / (np.abs(low) + 1e-6), 0)
            above = np.where(own > high, (own - high) / (np.abs(high) + 1e-6), 0)
            parts.append(below + above)
    return np.array(parts).reshape(orders, len(tested), -1).mean((0, 2))


def numpy_maps(found: Suspect, pixels: Tensor, *, rectified: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return the maps of the small network and its predictions, another way than the package has."""
    with torch.no_grad():
        features = found.classifier.features(pixels).flatten(2).double().numpy()
        logits = found.classifier(pixels).numpy()
    return np.maximum(features, 0) if rectified else features, logits.argmax(1)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 7])
def test_entries_are_those_of_the_upper_triangle(order: int) -> None:
    values = maps(3, 4, 6)
    found = gram_entries(torch.from_numpy(values), order).numpy()
    np.testing.assert_allclose(found, [expected_entries(one, order) for one in values], rtol=1e-10, atol=1e-12)
    assert (found < 0).any() == (order % 2 == 1)


def test_rows_of_the_triangle_one_after_another_are_the_whole() -> None:
    values = torch.from_numpy(maps(3, 5, 4))
    parts = [gram_entries(values, 3, slice(first, last)) for first, last in ((0, 2), (2, 3), (3, 5))]
    torch.testing.assert_close(torch.cat(parts, 1), gram_entries(values, 3), rtol=1e-12, atol=0)


def test_large_values_do_not_overflow_and_zeros_stay_zero() -> None:
    values = torch.from_numpy(maps(2, 4, 6))
    torch.testing.assert_close(gram_entries(1e30 * values, 16), 1e60 * gram_entries(values, 16), rtol=1e-10, atol=0)
    assert gram_entries(0 * values, 4).tolist() == [[0.0] * 10] * 2


@pytest.mark.parametrize("count", [1, 2, 7, 30])
def test_bounds_are_medians_and_their_deviations(count: int) -> None:
    entries = maps(count, 9)
    low, high = (bound.numpy() for bound in entry_bounds(torch.from_numpy(entries), bound=2.5))
    middle = np.median(entries, 0)
    spread = 2.5 * np.median(np.abs(entries - middle), 0)
    np.testing.assert_allclose(low, middle - spread, rtol=1e-12)
    np.testing.assert_allclose(high, middle + spread, rtol=1e-12)
    if count == 1:
        np.testing.assert_array_equal(low, high)


def test_an_excess_is_relative_to_its_bound() -> None:
    entries = torch.tensor([[2.0, 2.0, 2.0, 0.5], [1.0, 4.0, -3.0, 0.0]], dtype=torch.float64)
    low = torch.tensor([2.0, 1.0, -2.0, 0.0], dtype=torch.float64)
    high = torch.tensor([3.0, 3.0, 2.0, 0.0], dtype=torch.float64)
    found = relative_excess(entries, low, high)
    assert found.tolist() == pytest.approx([0.5 / 1e-6, 1 / 2 + 1 / 3 + 1 / 2], rel=1e-5)


@pytest.mark.parametrize("at_a_time", [1, 40, 2**22])
@pytest.mark.parametrize("count", [2, 9])
def test_deviations_are_means_over_entries_and_orders_in_parts_of_any_size(count: int, at_a_time: int) -> None:
    tested, references = maps(7, 5, 4, seed=1), maps(count, 5, 4, seed=2)
    found = deviations(torch.from_numpy(tested), torch.from_numpy(references), orders=3, bound=1.5, at_a_time=at_a_time)
    expected = expected_deviations(tested, references, orders=3, bound=1.5)
    assert expected.min() > 0
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_what_is_as_the_references_deviates_by_nothing() -> None:
    same = torch.from_numpy(maps(1, 4, 3)).expand(6, -1, -1)
    assert deviations(same, same[:3], orders=4, bound=10.0).tolist() == [0.0] * 6


def test_a_channel_that_is_silent_in_all_references_gives_finite_numbers() -> None:
    references, tested = maps(6, 4, 3), maps(2, 4, 3, seed=1)
    references[:, 1] = 0
    tested[0, 1] = 0
    found = deviations(torch.from_numpy(tested), torch.from_numpy(references), orders=4, bound=10.0)
    assert torch.isfinite(found).all()
    assert found[1] > 1e4 * found[0]


@pytest.mark.parametrize(
    ("activated", "features", "rectified"), [(True, "auto", True), (True, "raw", False), (False, "auto", False)]
)
def test_images_are_compared_with_clean_ones_of_their_predicted_class(
    activated: bool, features: str, rectified: bool
) -> None:
    defense = beatrix(orders=3, bound=2.0, references=6, features=features, per_class=False)
    found = suspect(activated=activated)
    finding = defense.run(found, data(), seed=1)
    arrays, pixels = finding.arrays, data().pixels
    seen, predicted = numpy_maps(found, pixels[arrays["reference_indices"]], rectified=rectified)
    kept = np.concatenate([np.flatnonzero(predicted == label)[:6] for label in range(CLASSES)])
    assert np.bincount(predicted).max() > 6
    np.testing.assert_array_equal(arrays["references"], data().images[arrays["reference_indices"]][kept])
    np.testing.assert_array_equal(arrays["reference_predictions"], predicted[kept])
    assert finding.scores["references_by_class"] == np.bincount(predicted[kept], minlength=CLASSES).tolist()
    assert finding.scores["rectified"] is rectified
    for part in ("threshold", "held_out"):
        tested, classes = numpy_maps(found, pixels[arrays[f"{part}_indices"]], rectified=rectified)
        np.testing.assert_array_equal(arrays[f"{part}_predictions"], classes)
        expected = [
            expected_deviations(tested[[place]], seen[kept][predicted[kept] == label], orders=3, bound=2.0)[0]
            for place, label in enumerate(classes)
        ]
        np.testing.assert_allclose(arrays[f"{part}_deviations"], expected, rtol=1e-3, atol=1e-6)
    assert finding.scores["threshold"] == pytest.approx(np.quantile(arrays["threshold_deviations"], 0.99), rel=1e-6)
    assert finding.verdict == "no-verdict"


def test_the_order_of_images_does_not_matter() -> None:
    defense, found, pixels = beatrix(), suspect(), data(150, seed=3).pixels
    learned = defense.learn(found, data(), lambda share: None)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    whole = defense.measured(found, learned, pixels, lambda share: None)["deviations"]
    mixed = defense.measured(found, learned, pixels[order], lambda share: None)["deviations"]
    torch.testing.assert_close(mixed, whole[order], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("few", [0, 2, 3])
def test_all_references_stand_in_for_those_of_a_class_that_has_too_few(few: int) -> None:
    defense, found, clean = beatrix(bound=2.0, per_class=False), suspect(), data()
    images = torch.cat([clean.images[clean.labels != 2], clean.images[clean.labels == 2][:few]])
    learned = defense.learn(found, CleanData(images, torch.zeros(len(images), dtype=torch.int64)), lambda share: None)
    assert int((learned["reference_predictions"] == 2).sum()) == few
    bright = data(45, seed=9).pixels[2::3]
    values = defense.measured(found, learned, bright, lambda share: None)
    assert values["predictions"].tolist() == [2] * 15
    references, _ = numpy_maps(found, learned["references"] / 255)
    own = references if few < 3 else references[learned["reference_predictions"].numpy() == 2]
    expected = expected_deviations(numpy_maps(found, bright)[0], own, orders=4, bound=2.0)
    np.testing.assert_allclose(values["deviations"].numpy(), expected, rtol=1e-3, atol=1e-6)


def test_references_are_left_out_a_fifth_at_a_time() -> None:
    known = maps(7, 3, 4)
    found = left_out_deviations(torch.from_numpy(known), orders=2, bound=1.0).numpy()
    for place in range(7):
        rest = [other for other in range(7) if other % 5 != place % 5]
        expected = expected_deviations(known[[place]], known[rest], orders=2, bound=1.0)[0]
        assert found[place] == pytest.approx(expected, rel=1e-9)


def test_a_class_has_the_quantile_of_its_own_references_for_a_threshold() -> None:
    known = maps(14, 3, 4) * np.repeat([1.0, 3.0, 1.0, 0.0], [6, 5, 2, 1])[:, None, None]
    predicted = torch.tensor([0] * 6 + [1] * 5 + [2] * 2 + [3])
    how = {"orders": 2, "bound": 1.0}
    found = class_thresholds(torch.from_numpy(known), predicted, 4, rate=0.1, **how)
    everything = torch.from_numpy(known)
    for label, own in enumerate((everything[:6], everything[6:11], everything, everything)):
        assert float(found[label]) == pytest.approx(float(left_out_deviations(own, **how).quantile(0.9)), rel=1e-9)
    # Where nothing deviates a deviation stays what it is, and a class in which little does has a share of the others'.
    same = torch.ones(6, 3, 4, dtype=torch.float64)
    assert class_thresholds(same, torch.zeros(6, dtype=torch.int64), 1, rate=0.1, **how).tolist() == [1.0]
    mixed = torch.cat([same, everything[:6]])
    quiet, loud = class_thresholds(mixed, torch.tensor([0] * 6 + [1] * 6), 2, rate=0.1, **how).tolist()
    assert quiet == pytest.approx(0.01 * loud)


def test_deviations_are_multiples_of_the_threshold_of_the_predicted_class() -> None:
    found, rate = suspect(), 0.2
    plain, own = (beatrix(bound=2.0, per_class=kind, false_rejection_rate=rate) for kind in (False, True))
    one, other = plain.run(found, data()), own.run(found, data())
    thresholds = other.arrays["class_thresholds"]
    np.testing.assert_allclose(
        other.arrays["held_out_deviations"],
        one.arrays["held_out_deviations"] / thresholds[one.arrays["held_out_predictions"]],
        rtol=1e-5,
    )
    references, _ = numpy_maps(found, torch.from_numpy(other.arrays["references"]) / 255)
    expected = class_thresholds(
        torch.from_numpy(references),
        torch.from_numpy(other.arrays["reference_predictions"]),
        CLASSES,
        orders=4,
        bound=2.0,
        rate=rate,
    )
    np.testing.assert_allclose(thresholds, expected.numpy(), rtol=1e-3)
    assert other.scores["by_class_held_out_false_rejection_rate"] == np.mean(other.arrays["held_out_deviations"] > 1)
    assert "times the threshold of their class are refused" in other.sentence
    assert "by_class_held_out_false_rejection_rate" not in one.scores
    score = own.rate(other, found, Trial(data(45, seed=9), WhitePixel(SHAPE)))
    clean, triggered = (score.arrays[f"{kind}_deviations"] for kind in ("clean", "triggered"))
    assert score.scores["by_class_false_rejection_rate"] == np.mean(clean > 1)
    assert score.scores["by_class_false_acceptance_rate"] == np.mean(triggered <= 1)
    within = score.scores["auroc_within_class"]
    assert score.sentence.endswith(f" Among images of one predicted class it is {within:.3f}.")


def test_the_area_within_classes_counts_pairs_of_one_class() -> None:
    clean, clean_classes = np.array([1.0, 2.0, 3.0, 9.0], dtype=np.float32), np.array([0, 0, 1, 2])
    triggered, classes = np.array([1.5, 5.0, 2.5, 4.0, 0.0], dtype=np.float32), np.array([0, 0, 1, 1, 3])
    # Class 0: 3 of 4 pairs; class 1: 1 of 2; two triggered images each. The others have no pair.
    assert area_within_classes(clean, clean_classes, triggered, classes) == pytest.approx((0.75 + 0.5) / 2)
    assert area_within_classes(clean[:1], clean_classes[:1], triggered[2:], classes[2:]) is None


def test_the_map_before_the_last_is_read_where_it_is_known() -> None:
    torch.manual_seed(0)
    clean = CleanData(torch.randint(0, 256, (40, 1, 28, 28), dtype=torch.uint8), torch.arange(40) % 4)
    for classifier, earlier in (
        (MnistCnn(4, hidden_units=16), "first_pool"),
        (PreActResNet18(4, channels=1, width=0.1), "groups.2"),
    ):
        found = Suspect(classifier.eval(), (1, 28, 28), 4, last_convolution(classifier))
        by_hand = Suspect(classifier, (1, 28, 28), 4, classifier.get_submodule(earlier))
        one, other = (beatrix(map=kind).run(found, clean).scores["threshold"] for kind in ("earlier", "last"))
        assert one == beatrix(map="last").run(by_hand, clean).scores["threshold"] != other


def test_a_finding_says_which_classes_have_no_references() -> None:
    clean = data()
    images = clean.images.clone()
    images[clean.labels == 2] = clean.images[clean.labels == 1]
    scores = (finding := beatrix().run(suspect(), CleanData(images, clean.labels))).scores
    assert scores["classes_without_references"] == [2]
    assert finding.sentence.endswith(
        " For lack of references of their own, those of all classes stand in for 1 of 3 classes."
    )
    assert "stand in" not in beatrix().run(suspect(), data()).sentence


def test_a_channel_that_only_triggers_wake_gives_them_away() -> None:
    defense = beatrix(false_rejection_rate=0.2)
    finding = defense.run(suspect(), data())
    score = defense.rate(finding, suspect(), Trial(data(45, seed=9), WhitePixel(SHAPE)))
    assert score.scores["auroc"] == 1.0
    assert score.scores["false_acceptance_rate"] == 0.0
    assert score.arrays["clean_histogram"].sum() == score.arrays["triggered_histogram"].sum() == 45
    everything = np.concatenate([score.arrays["clean_deviations"], score.arrays["triggered_deviations"]])
    assert score.arrays["bin_edges"][0] == 0
    assert score.arrays["bin_edges"][-1] == pytest.approx(np.quantile(everything, 0.98), rel=1e-6)
    json.dumps(score.scores, allow_nan=False)
    score = defense.rate(finding, suspect(), Trial(data(45, seed=9), None))
    assert score.scores["auroc"] is None


def test_a_network_whose_features_are_all_the_same_gets_a_record() -> None:
    found = suspect()
    nn.init.zeros_(found.classifier.features.weight)
    defense = beatrix()
    finding = defense.run(found, data())
    score = defense.rate(finding, found, Trial(data(45, seed=9), WhitePixel(SHAPE)))
    assert finding.scores["threshold"] == 0.0
    assert score.scores["false_rejection_rate"] == 0.0
    assert score.scores["auroc"] == 0.5
    assert score.arrays["bin_edges"][-1] == 1.0


def test_the_same_seed_gives_the_same_record_and_progress_rises_to_one() -> None:
    heard: list[float] = []
    one = beatrix().run(suspect(), data(), seed=3, progress=heard.append)
    same = beatrix().run(suspect(), data(), seed=3)
    assert json.dumps(one.record(), allow_nan=False) == json.dumps(same.record(), allow_nan=False)
    assert one.record() != beatrix().run(suspect(), data(), seed=4).record()
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    told: list[float] = []
    beatrix().rate(one, suspect(), Trial(data(45, seed=9), WhitePixel(SHAPE)), progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_negative_values_are_ignored_where_relu_follows() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 1, 28, 28)
    for classifier, ignored in (
        (MnistCnn(10, hidden_units=16), True),
        (PreActResNet18(10, channels=1, width=0.1), False),
    ):
        found = Suspect(classifier.eval(), (1, 28, 28), 10, last_convolution(classifier))
        assert ignores_negative(found, images) is ignored
        assert not last_convolution(classifier)._forward_hooks


def test_too_few_images_are_refused() -> None:
    with pytest.raises(DefenseError, match=r"^clean data: expected at least 7 images for beatrix; found 6; give more$"):
        beatrix().run(suspect(), data(6))
    assert beatrix().run(suspect(), data(7)).scores["reference_images"] == 3


def test_a_suspect_without_a_feature_layer_is_refused() -> None:
    with pytest.raises(DefenseError) as error:
        beatrix().run(Suspect(Small(), SHAPE, CLASSES), data())
    assert str(error.value) == (
        "suspect: expected a feature layer, the module whose output is the last map of features; found none; "
        "give it as feature_layer, or leave beatrix out"
    )


def test_a_layer_without_a_map_is_refused() -> None:
    classifier = Small()
    with pytest.raises(DefenseError) as error:
        beatrix().run(Suspect(classifier, SHAPE, CLASSES, classifier.output), data())
    assert str(error.value) == (
        "suspect: expected a feature layer that is run once and returns a map (batch, channel, height, width); "
        "found shape (30, 3); give the last convolution or the block around it"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"orders": 0}, "orders: expected a number of at least 1 and at most 16; found 0"),
        ({"orders": 17}, "orders: expected a number of at least 1 and at most 16; found 17"),
        ({"bound": 0.0}, "bound: expected a number above 0; found 0.0"),
        ({"references": 2}, "references: expected a number of at least 3; found 2"),
        ({"images": 1}, "images: expected a number of at least 2; found 1"),
        ({"false_rejection_rate": 0.6}, "false_rejection_rate: expected a number above 0 and at most 0.5; found 0.6"),
    ],
    ids=str,
)
def test_settings_are_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        beatrix(**change)
    assert str(error.value) == f"beatrix.{message}"


@pytest.mark.usefixtures("unchecked")
def test_another_map_is_refused() -> None:
    other: Any = "map"
    with pytest.raises(ConfigError) as error:
        beatrix(features=other)
    assert str(error.value) == "beatrix.features: expected auto or raw; found 'map'"
    with pytest.raises(ConfigError) as error:
        beatrix(map=other)
    assert str(error.value) == "beatrix.map: expected earlier or last; found 'map'"


def examined(run: Run) -> tuple[Finding, Score]:
    """Return what Beatrix finds with its defaults."""
    images, labels = run.images("defender")
    control = Suspect(run.classifier, run.spec.shape, run.spec.classes, last_convolution(run.classifier))
    defense = Beatrix()
    finding = defense.run(control, CleanData(images, labels))
    return finding, defense.rate(finding, control, Trial(CleanData(*run.images()), run.backdoor))


def test_badnets_is_told_from_clean_images(badnets: Run) -> None:
    finding, score = examined(badnets)
    assert finding.scores["threshold_images"] == finding.scores["held_out_images"] == 36
    assert finding.scores["rectified"]
    # With the settings as they are it sees that these images are unusual, and lets most of them pass all the same.
    assert score.scores["auroc"] >= 0.65


def test_a_clean_model_is_recorded(clean_model: Run, record_property: pytest.RecordProperty) -> None:
    finding, score = examined(clean_model)
    record_property("false_rejection_rate", score.scores["false_rejection_rate"])
    assert finding.verdict == "no-verdict"
    assert score.scores["auroc"] is None


def test_it_is_built_by_name() -> None:
    defense = build_defense("beatrix", DefenseSettings(beatrix=BeatrixSettings(orders=8)))
    assert isinstance(defense, Beatrix)
    assert defense.settings.orders == 8
