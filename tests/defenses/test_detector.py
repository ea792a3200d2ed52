"""What all detectors share, on one that measures the brightness of an image."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from inputaware.attacks.base import Backdoor
from inputaware.defenses.base import CleanData, Progress, Suspect, Trial
from inputaware.defenses.detector import InputDetector, Measure, area_under_curve, rate_with_interval
from inputaware.defenses.settings import DetectorSettings, Settings
from inputaware.errors import ConfigError, DefenseError
from inputaware.evaluation.words import short_number

SHAPE = (1, 4, 4)
CLASSES = 3


class Brightness(InputDetector):
    """Refuses bright images: brighter than the mean of its references by more than others."""

    name = "brightness"
    measure = Measure("brightness", "brightnesses", refuses="above")
    settings: DetectorSettings
    least = 10

    def references(self, images: int) -> int:
        return self.least

    def learn(self, suspect: Suspect, clean: CleanData, progress: Progress) -> dict[str, Tensor]:
        progress(1.0)
        return {"mean": clean.pixels.mean()[None], "labels": clean.labels}

    def measured(
        self, suspect: Suspect, learned: Mapping[str, Tensor], pixels: Tensor, progress: Progress
    ) -> dict[str, Tensor]:
        progress(1.0)
        means = pixels.flatten(1).mean(1)
        return {"brightnesses": means - learned["mean"], "means": means}


class Dark(Brightness):
    """Refuses dark images, and learns nothing."""

    measure = Measure("brightness", "means", refuses="below", unit="lumen")
    least = 0

    def learn(self, suspect: Suspect, clean: CleanData, progress: Progress) -> dict[str, Tensor]:
        return {"mean": torch.zeros(1)}


class White(Backdoor):
    """A white first row, for class 0."""

    universal = True

    def __init__(self) -> None:
        super().__init__(shape=SHAPE, classes=CLASSES, target="all-to-one", target_class=0)

    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.zeros(len(images), 1, 4, 4)
        mask[:, :, 0] = 1
        return mask, torch.ones_like(images)


def suspect() -> Suspect:
    return Suspect(nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES)), SHAPE, CLASSES)


def data(count: int = 60, *, seed: int = 0) -> CleanData:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 255, (count, *SHAPE), generator=generator).to(torch.uint8)
    return CleanData(images, torch.arange(count) % CLASSES)


def means(clean: CleanData) -> np.ndarray:
    return (clean.images.numpy() / 255).reshape(len(clean.images), -1).mean(1)


@pytest.mark.parametrize("rate", [0.01, 0.25, 0.5])
@pytest.mark.parametrize("kind", [Brightness, Dark])
def test_the_threshold_is_a_quantile_on_the_side_that_is_refused(kind: type[Brightness], rate: float) -> None:
    values = np.random.default_rng(2).exponential(1.0, 2000)
    defense = kind(DetectorSettings(false_rejection_rate=rate))
    found = defense.set_threshold(torch.from_numpy(values))
    above = defense.measure.refuses == "above"
    assert found == pytest.approx(np.quantile(values, 1 - rate if above else rate), rel=1e-12)
    refused = defense.refused(torch.from_numpy(values), found).numpy()
    assert refused.sum() == 2000 * rate
    np.testing.assert_array_equal(refused, values > found if above else values < found)


def test_the_area_under_the_curve_counts_pairs() -> None:
    draw = np.random.default_rng(3)
    clean, triggered = draw.integers(3, 12, 40).astype(float), draw.integers(0, 8, 30).astype(float)
    pairs = [1.0 if low < high else 0.5 if low == high else 0.0 for high in clean for low in triggered]
    found = area_under_curve(torch.from_numpy(clean), torch.from_numpy(triggered))
    assert found == pytest.approx(np.mean(pairs), rel=1e-12)


def test_a_rate_has_wilsons_interval() -> None:
    assert rate_with_interval(torch.tensor([True] * 3 + [False] * 17)) == pytest.approx(
        (0.15, *stats.binomtest(3, 20).proportion_ci(method="wilson"))
    )


def test_a_finding_says_what_was_learned_and_where_the_threshold_is() -> None:
    finding = Brightness(DetectorSettings(false_rejection_rate=0.2)).run(suspect(), data(), seed=3)
    parts = [finding.arrays[f"{name}_indices"] for name in ("reference", "threshold", "held_out")]
    assert [len(part) for part in parts] == [10, 25, 25]
    assert len(np.unique(np.concatenate(parts))) == 60
    np.testing.assert_array_equal(finding.arrays["labels"], data().labels.numpy()[parts[0]])
    bright = means(data()) - means(data())[parts[0]].mean()
    np.testing.assert_allclose(finding.arrays["threshold_brightnesses"], bright[parts[1]], atol=1e-6)
    np.testing.assert_allclose(finding.arrays["held_out_means"], means(data())[parts[2]], atol=1e-6)
    scores = finding.scores
    assert scores["threshold"] == pytest.approx(np.quantile(bright[parts[1]], 0.8), abs=1e-6)
    assert scores["held_out_false_rejection_rate"] == np.mean(bright[parts[2]] > scores["threshold"])
    assert scores["mean_brightness"] == pytest.approx(bright[parts[1]].mean(), abs=1e-6)
    assert (scores["reference_images"], scores["threshold_images"], scores["held_out_images"]) == (10, 25, 25)
    assert (scores["measure"], scores["unit"], scores["refuses"]) == ("brightness", "", "above")
    assert scores["refuses_nothing"] is False
    assert finding.verdict == "no-verdict"
    assert finding.sentence.startswith(
        f"Images with a brightness above {short_number(scores['threshold'])} are refused: "
    )


@pytest.mark.parametrize("kind", [Brightness, Dark])
def test_a_score_tells_triggered_from_clean_images(kind: type[Brightness]) -> None:
    defense, test = kind(DetectorSettings(false_rejection_rate=0.2)), data(45, seed=9)
    finding = defense.run(suspect(), data())
    score = defense.rate(finding, suspect(), Trial(test, White()))
    indices = score.arrays["indices"]
    assert sorted(indices) == [*range(45)] != indices.tolist()
    stamped = test.images.numpy() / 255
    stamped[:, :, 0] = 1
    low, high = means(test), stamped.reshape(45, -1).mean(1)
    np.testing.assert_allclose(score.arrays["clean_means"], low[indices], atol=1e-6)
    np.testing.assert_allclose(score.arrays["triggered_means"], high[indices], atol=1e-6)
    offset = 0.0 if kind is Dark else float(finding.arrays["mean"][0])
    threshold = finding.scores["threshold"] + offset
    above = kind is Brightness
    scores = score.scores
    assert scores["false_rejection_rate"] == np.mean(low > threshold if above else low < threshold)
    passes = high <= threshold if above else high >= threshold
    assert scores["false_acceptance_rate"] == np.mean(passes)
    assert scores["false_acceptance_rate_excluding_target"] == np.mean(passes[test.labels.numpy() != 0])
    sign = 1 if above else -1
    one, other = (sign * score.arrays[f"{kind}_{defense.measure.plural}"] for kind in ("triggered", "clean"))
    assert scores["auroc"] == pytest.approx(np.mean(one[:, None] > other[None]) + np.mean(one[:, None] == other) / 2)
    assert scores["mean_brightness_triggered"] == pytest.approx(high.mean() - offset, abs=1e-6)
    assert score.arrays["clean_histogram"].sum() == score.arrays["triggered_histogram"].sum() == 45
    assert ("lumen" in finding.sentence) is (kind is Dark)
    assert score.sentence.endswith(
        "(0.5: not at all)." if above else "(below 0.5: with triggers they look less suspicious)."
    )
    json.dumps(scores, allow_nan=False)


def test_a_clean_model_has_nothing_to_catch() -> None:
    defense = Brightness()
    score = defense.rate(defense.run(suspect(), data()), suspect(), Trial(data(45, seed=9), None))
    assert score.scores["auroc"] is score.scores["false_acceptance_rate"] is None
    assert score.scores["mean_brightness_triggered"] is None
    assert "triggered_histogram" not in score.arrays
    assert score.sentence.endswith("the model is clean, so there is nothing to catch.")


def test_progress_rises_to_one() -> None:
    heard: list[float] = []
    defense = Brightness()
    finding = defense.run(suspect(), data(), progress=heard.append)
    assert heard == sorted(heard)
    assert heard[0] == pytest.approx(10 / 60)
    assert heard[-1] == 1.0
    told: list[float] = []
    defense.rate(finding, suspect(), Trial(data(45), White()), progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_numbers_that_are_all_the_same_are_counted() -> None:
    class Same(Brightness):
        def measured(
            self, suspect: Suspect, learned: Mapping[str, Tensor], pixels: Tensor, progress: Progress
        ) -> dict[str, Tensor]:
            return {"brightnesses": torch.ones(len(pixels))}

    defense = Same()
    finding = defense.run(suspect(), data())
    score = defense.rate(finding, suspect(), Trial(data(45), White()))
    assert score.scores["false_rejection_rate"] == 0
    assert score.scores["false_acceptance_rate"] == 1
    assert score.scores["auroc"] == 0.5
    assert score.arrays["clean_histogram"].sum() == 45


@pytest.mark.parametrize("kind", [Brightness, Dark])
@pytest.mark.parametrize("beyond", [-1e-3, 0.0, 1e-3])
def test_a_threshold_that_none_can_be_beyond_is_said_to_refuse_nothing(kind: type[Brightness], beyond: float) -> None:
    sign = 1 if kind is Brightness else -1

    class Limited(kind):  # type: ignore[misc, valid-type]
        def limit(self, suspect: Suspect, learned: Mapping[str, Tensor]) -> float:
            return 0.25

        def set_threshold(self, numbers: Tensor) -> float:
            return 0.25 + sign * beyond

    finding = Limited().run(suspect(), data())
    assert finding.scores["refuses_nothing"] is (beyond >= 0)
    words = f" No brightness is {kind.measure.refuses} 0.25, so that this threshold refuses nothing, whatever trigger"
    assert finding.sentence.endswith(f"{words} there is.") is (beyond >= 0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            lambda pixels: pixels.sum((1, 2, 3)),
            "expected measured to return a dictionary with 'brightnesses', the measure's plural; found Tensor",
        ),
        (
            lambda pixels: {"brightness": pixels.sum((1, 2, 3))},
            "expected measured to return a dictionary with 'brightnesses', the measure's plural; found "
            "one with 'brightness'",
        ),
        (
            lambda pixels: {"brightnesses": torch.ones(3)},
            "expected measured to return tensors, an entry for each of 50 images, none of them indices "
            "or histogram; found "
            "shape (3,) as 'brightnesses'",
        ),
        (
            lambda pixels: {"brightnesses": torch.ones(len(pixels)), "indices": torch.ones(len(pixels))},
            "expected measured to return tensors, an entry for each of 50 images, none of them indices "
            "or histogram; found "
            "shape (50,) as 'indices'",
        ),
        (
            lambda pixels: {"brightnesses": np.ones(len(pixels))},
            "expected measured to return tensors, an entry for each of 50 images, none of them indices "
            "or histogram; found "
            "ndarray as 'brightnesses'",
        ),
        (
            lambda pixels: {"brightnesses": torch.ones(len(pixels), 2)},
            "expected brightnesses, a finite number for each image; found shape (50, 2)",
        ),
        (
            lambda pixels: {"brightnesses": torch.full((len(pixels),), torch.nan)},
            "expected brightnesses, a finite number for each image; found NaN or infinity",
        ),
    ],
)
def test_what_is_no_number_for_each_image_is_refused(returned: Callable[[Tensor], Any], message: str) -> None:
    class Wrong(Brightness):
        def measured(self, suspect: Suspect, learned: Any, pixels: Tensor, progress: Progress) -> Any:
            return returned(pixels)

    with pytest.raises(DefenseError) as error:
        Wrong().run(suspect(), data())
    assert str(error.value) == f"brightness: {message}"


@pytest.mark.parametrize("values", [torch.arange(50), torch.arange(50) > 7, torch.arange(50.0, requires_grad=True)])
def test_whole_numbers_and_truth_values_count_as_numbers(values: Tensor) -> None:
    class Whole(Brightness):
        def measured(self, suspect: Suspect, learned: Any, pixels: Tensor, progress: Progress) -> dict[str, Tensor]:
            return {"brightnesses": values[: len(pixels)]}

    assert Whole().run(suspect(), data()).arrays["held_out_brightnesses"].dtype == np.float32


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("learned", "message"),
    [
        (None, "expected learn to return a dictionary of tensors; found NoneType"),
        (
            {"mean": 0.5},
            "expected learn to return tensors, with names that do not begin with threshold_, held_out_, "
            "reference_indices; "
            "found float as 'mean'",
        ),
        (
            {"held_out_indices": torch.ones(1)},
            "expected learn to return tensors, with names that do not begin with threshold_, held_out_, "
            "reference_indices; "
            "found Tensor as 'held_out_indices'",
        ),
    ],
)
def test_what_was_learned_has_names_of_its_own(learned: Any, message: str) -> None:
    class Wrong(Brightness):
        def learn(self, suspect: Suspect, clean: CleanData, progress: Progress) -> Any:
            return learned

    with pytest.raises(DefenseError) as error:
        Wrong().run(suspect(), data())
    assert str(error.value) == f"brightness: {message}"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            lambda images: images - 3,
            "brightness: expected references to leave at least 4 of 60 images, by which the threshold is set and "
            "measured; found 3 left; ask for fewer",
        ),
        (
            lambda images: -1,
            "brightness: expected references to return how many images, a whole number from 0; found -1",
        ),
        (
            lambda images: images / 2,
            "brightness: expected references to return how many images, a whole number from 0; found 30.0",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_references_leave_enough(asked: Callable[[int], Any], message: str) -> None:
    class Greedy(Brightness):
        def references(self, images: int) -> Any:
            return asked(images)

    with pytest.raises(DefenseError) as error:
        Greedy().run(suspect(), data())
    assert str(error.value) == message


@pytest.mark.usefixtures("unchecked")
def test_a_detector_has_a_measure_and_settings() -> None:
    class Nothing(Brightness):
        measure: Any = None

    class Other(Brightness):
        settings: Settings  # type: ignore[assignment]

    for kind, message in (
        (Nothing, "expected measure of Measure, as all detectors have them; found none; give it to the class"),
        (
            Other,
            "expected settings of DetectorSettings, as all detectors have them; found Settings; give it to the class",
        ),
    ):
        with pytest.raises(DefenseError) as error:
            kind().run(suspect(), data())
        assert str(error.value) == f"brightness: {message}"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "plural", "refuses", "message"),
    [
        (
            "",
            "means",
            "above",
            "expected names in small letters, digits and underscores, a letter first, other than indices and "
            "histogram; found ''",
        ),
        (
            "mean",
            "indices",
            "above",
            "expected names in small letters, digits and underscores, a letter first, other than "
            "indices and histogram; found 'indices'",
        ),
        ("mean", "means", "higher", "expected refuses to be one of below, above; found 'higher'"),
    ],
)
def test_a_measure_is_named_and_has_a_side(name: str, plural: str, refuses: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Measure(name, plural, refuses)
    assert str(error.value) == f"measure: {message}"


def test_bounds_of_a_histogram_are_in_order_and_what_is_outside_is_counted() -> None:
    class Narrow(Brightness):
        ends = (0.0, 0.001)

        def bounds(self, suspect: Suspect, numbers: Tensor) -> tuple[float, float]:
            return self.ends

    class Reversed(Narrow):
        ends = (1.0, 0.0)

    finding = Narrow().run(suspect(), data())
    score = Narrow().rate(finding, suspect(), Trial(data(45, seed=9), White()))
    numbers = np.concatenate([score.arrays[f"{kind}_brightnesses"] for kind in ("clean", "triggered")])
    assert score.scores["outside_histogram"] == np.sum((numbers < 0) | (numbers > 0.001)) > 0
    with pytest.raises(DefenseError) as error:
        Reversed().rate(finding, suspect(), Trial(data(45, seed=9), White()))
    assert str(error.value) == ("brightness: expected bounds of the histograms, the lower one first; found 1.0 and 0.0")


def test_triggers_that_look_less_suspicious_are_said_to() -> None:
    class Inverted(Dark):
        measure = Measure("brightness", "means", refuses="below")

    score = Inverted().rate(Inverted().run(suspect(), data()), suspect(), Trial(data(45, seed=9), White()))
    assert score.scores["auroc"] < 0.5
    assert score.sentence.endswith(" (below 0.5: with triggers they look less suspicious).")


def test_too_few_images_are_refused() -> None:
    with pytest.raises(DefenseError) as error:
        Brightness().run(suspect(), data(13))
    assert str(error.value) == "clean data: expected at least 14 images for brightness; found 13; give more"
    assert Brightness().run(suspect(), data(14)).scores["held_out_images"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 1}, "images: expected a number of at least 2; found 1"),
        ({"false_rejection_rate": 0.6}, "false_rejection_rate: expected a number above 0 and at most 0.5; found 0.6"),
    ],
    ids=str,
)
def test_settings_are_checked(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Brightness(DetectorSettings(**change))
    assert str(error.value) == message
