"""SCALE-UP against formulas in float64, and on models with and without a backdoor."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from defenses.white_pixel import WhitePixel
from scipy import stats
from torch import Tensor, nn

from inputaware.api import Run
from inputaware.defenses.base import CleanData, Finding, Score, Suspect, Trial
from inputaware.defenses.registry import build_defense
from inputaware.defenses.scale_up import (
    ScaleUp,
    amplify,
    class_statistics,
    normalized_consistency,
    scaled_prediction_consistency,
)
from inputaware.defenses.settings import DefenseSettings, ScaleUpSettings
from inputaware.errors import ConfigError, DefenseError

SHAPE = (1, 4, 4)
CLASSES = 3
FACTORS = (3, 5, 7, 9, 11)


class Scores(nn.Module):
    """A linear classifier that takes an image for class 0 where its first pixel is white."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, CLASSES)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(CLASSES, 16, generator=generator))
            self.layer.weight[:, 0] = torch.tensor([30.0, 0.0, 0.0])
            self.layer.bias.copy_(torch.tensor([0.0, 0.5, -0.5]))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images.flatten(1))
        return logits


class Same(nn.Module):
    """Takes every image for class 1."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([[0.0, 2.0, -1.0]]).expand(len(images), -1)


def suspect(classifier: nn.Module | None = None) -> Suspect:
    return Suspect((classifier or Scores()).eval(), SHAPE, CLASSES)


def data(count: int = 60, *, seed: int = 0) -> CleanData:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 120, (count, *SHAPE), generator=generator).to(torch.uint8)
    images[:, :, 0, 0] = 0
    return CleanData(images, torch.arange(count) % CLASSES)


def scale_up(**changes: object) -> ScaleUp:
    return ScaleUp(ScaleUpSettings(**{"references": 20, **changes}))


def expected_predictions(images: np.ndarray) -> np.ndarray:
    layer = Scores().layer
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    found: np.ndarray = (images.reshape(len(images), -1).astype(float) @ weight.T + bias).argmax(1)
    return found


def expected_spc(images: np.ndarray) -> np.ndarray:
    """Return the consistencies in float64."""
    kept = [expected_predictions(np.clip(n * images, 0, 1)) == expected_predictions(images) for n in FACTORS]
    found: np.ndarray = np.mean(kept, axis=0)
    return found


def expected(images: np.ndarray, references: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the normalised consistencies in float64, where each class of the references has a spread."""
    known = expected_spc(references)
    spread = [known[labels == label].std() for label in range(CLASSES)]
    assert min(spread) > 0
    mean = np.array([known[labels == label].mean() for label in range(CLASSES)])
    classes = expected_predictions(images)
    found: np.ndarray = (expected_spc(images) - mean[classes]) / np.array(spread)[classes]
    return found


def test_pixels_are_multiplied_and_cut_off_at_white() -> None:
    images = np.random.default_rng(0).random((3, 2, 4, 5))
    np.testing.assert_array_equal(amplify(torch.from_numpy(images), 3).numpy(), np.clip(3 * images, 0, 1))


def test_consistency_is_the_share_of_copies_that_keep_the_class() -> None:
    images, heard = data(50).pixels, []
    shares, predicted = scaled_prediction_consistency(suspect(), images, FACTORS, progress=heard.append)
    np.testing.assert_allclose(shares.numpy(), expected_spc(images.numpy()), atol=1e-6)
    np.testing.assert_array_equal(predicted.numpy(), expected_predictions(images.numpy()))
    assert len(set(shares.tolist())) > 2
    assert heard == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_neither_order_nor_neighbours_matter() -> None:
    images = data(50).pixels
    order = torch.randperm(50, generator=torch.Generator().manual_seed(2))
    whole, _ = scaled_prediction_consistency(suspect(), images, FACTORS)
    turned, _ = scaled_prediction_consistency(suspect(), images[order], FACTORS[::-1])
    parts = [scaled_prediction_consistency(suspect(), part, FACTORS)[0] for part in torch.split(images, 7)]
    torch.testing.assert_close(turned, whole[order], rtol=0, atol=0)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)


def test_a_class_is_compared_with_its_own_images() -> None:
    shares = torch.tensor([0.2, 1.0, 0.4, 0.6, 0.8, 0.8])
    labels = torch.tensor([0, 0, 1, 1, 0, 1])
    means, deviations = class_statistics(shares, labels, 2)
    values = shares.double().numpy()
    for label in range(2):
        own = values[labels.numpy() == label]
        assert means[label] == pytest.approx(own.mean(), abs=1e-6)
        assert deviations[label] == pytest.approx(own.std(), abs=1e-6)
    found = normalized_consistency(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1, 0, 1]), means, deviations)
    np.testing.assert_allclose(
        found, [(1 - 0.6) / deviations[1], 1 / 3 / deviations[0], -0.6 / deviations[1]], rtol=1e-5
    )


def test_a_class_without_a_spread_is_compared_with_all_images() -> None:
    shares = torch.tensor([0.6, 0.6, 0.6, 0.2, 0.4, 1.0])
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    means, deviations = class_statistics(shares, labels, 4)
    values = shares.double().numpy()
    np.testing.assert_allclose(means, [values.mean(), 0.3, values.mean(), values.mean()], atol=1e-6)
    np.testing.assert_allclose(deviations, [values.std(), 0.1, values.std(), values.std()], atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 1.0])
def test_without_any_spread_the_plain_difference_is_left(share: float) -> None:
    means, deviations = class_statistics(torch.full((7,), share), torch.arange(7) % 3, 3)
    np.testing.assert_allclose(means, [share] * 3, atol=1e-7)
    assert deviations.tolist() == [1.0] * 3


def test_without_references_there_is_nothing_to_compare_with() -> None:
    means, deviations = class_statistics(torch.zeros(0), torch.zeros(0, dtype=torch.int64), 3)
    assert means.tolist() == [0.0] * 3
    assert deviations.tolist() == [1.0] * 3


def test_a_finding_holds_both_thresholds_and_their_rates() -> None:
    finding = scale_up(false_rejection_rate=0.3, references=30).run(suspect(), data(90))
    pixels, labels = data(90).pixels.numpy(), data(90).labels.numpy()
    parts = [finding.arrays[f"{name}_indices"] for name in ("reference", "threshold", "held_out")]
    assert [len(part) for part in parts] == [30, 30, 30]
    assert len(np.unique(np.concatenate(parts))) == 90
    setting, held_out = (expected(pixels[part], pixels[parts[0]], labels[parts[0]]) for part in parts[1:])
    np.testing.assert_allclose(finding.arrays["threshold_consistencies"], setting, atol=1e-5)
    np.testing.assert_allclose(finding.arrays["threshold_spc"], expected_spc(pixels[parts[1]]), atol=1e-6)
    np.testing.assert_array_equal(finding.arrays["held_out_predictions"], expected_predictions(pixels[parts[2]]))
    np.testing.assert_array_equal(finding.arrays["class_references"], np.bincount(labels[parts[0]], minlength=CLASSES))
    scores = finding.scores
    assert finding.verdict == "no-verdict"
    assert scores["threshold"] == pytest.approx(np.quantile(setting, 0.7), abs=1e-5)
    assert scores["fixed_threshold"] == 0.5
    refused = held_out > 0.5
    assert scores["fixed_held_out_false_rejection_rate"] == np.mean(refused)
    interval = stats.binomtest(int(refused.sum()), 30).proportion_ci(method="wilson")
    assert scores["fixed_held_out_false_rejection_interval"] == pytest.approx(list(interval), abs=1e-12)
    assert scores["fully_consistent"] == np.mean(expected_spc(pixels[parts[1]]) == 1)
    highest = (1 - finding.arrays["class_means"]) / finding.arrays["class_deviations"]
    assert scores["refusable_classes"] == np.sum(highest > scores["threshold"])
    json.dumps(finding.record(), allow_nan=False)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_score_tells_triggered_from_clean_images(normalize: bool) -> None:
    defense, test = scale_up(normalize=normalize, threshold=0.4, false_rejection_rate=0.3), data(45, seed=9)
    finding = defense.run(suspect(), data())
    score = defense.rate(finding, suspect(), Trial(test, WhitePixel(SHAPE)))
    stamped = test.pixels.numpy().copy()
    stamped[:, 0, 0, 0] = 1
    chosen = score.arrays["indices"]
    plain = [expected_spc(images[chosen]) for images in (test.pixels.numpy(), stamped)]
    judged = plain
    if normalize:
        means, deviations = finding.arrays["class_means"], finding.arrays["class_deviations"]
        classes = [expected_predictions(images[chosen]) for images in (test.pixels.numpy(), stamped)]
        judged = [(one - means[own]) / deviations[own] for one, own in zip(plain, classes, strict=True)]
    for place, kind in enumerate(("clean", "triggered")):
        np.testing.assert_allclose(score.arrays[f"{kind}_consistencies"], judged[place], atol=1e-5)
        np.testing.assert_allclose(score.arrays[f"{kind}_spc"], plain[place], atol=1e-6)
        assert score.scores[f"fully_consistent_{kind}"] == np.mean(plain[place] == 1)
    assert score.scores["fully_consistent_triggered"] == 1
    assert score.scores["fixed_threshold"] == 0.4
    # Shares of five copies lie off 0.4 by rounding alone.
    assert score.scores["fixed_false_rejection_rate"] == np.mean(judged[0] > 0.4 + 1e-6)
    assert score.scores["fixed_false_acceptance_rate"] == np.mean(judged[1] <= 0.4 + 1e-6)
    low, high = plain
    pairs = np.mean(high[:, None] > low[None]) + np.mean(high[:, None] == low[None]) / 2
    assert score.scores["data_free_auroc"] == pytest.approx(pairs)
    assert (score.scores["auroc"] == score.scores["data_free_auroc"]) is not normalize
    words = f" Without normalisation it is {score.scores['data_free_auroc']:.3f}."
    assert score.sentence.endswith(words) is normalize
    highest = np.ones(CLASSES)
    if normalize:
        highest = (1 - finding.arrays["class_means"]) / finding.arrays["class_deviations"]
    within = (highest > finding.scores["threshold"])[score.arrays["triggered_predictions"]]
    assert score.scores["refusable_triggered"] == np.mean(within)
    assert (score.arrays["bin_edges"][[0, -1]].tolist() == [0.0, 1.0]) is not normalize
    json.dumps(score.scores, allow_nan=False)


def test_a_clean_model_has_nothing_to_catch() -> None:
    defense = scale_up()
    score = defense.rate(defense.run(suspect(), data()), suspect(), Trial(data(45, seed=9), None))
    for name in ("auroc", "data_free_auroc", "fixed_false_acceptance_rate", "fully_consistent_triggered"):
        assert score.scores[name] is None
    assert score.scores["fixed_false_rejection_rate"] is not None
    json.dumps(score.scores, allow_nan=False)


def test_the_same_seed_gives_the_same_record_and_progress_rises_to_one() -> None:
    heard: list[float] = []
    one = scale_up().run(suspect(), data(), seed=3, progress=heard.append)
    assert json.dumps(one.record()) == json.dumps(scale_up().run(suspect(), data(), seed=3).record())
    assert one.record() != scale_up().run(suspect(), data(), seed=4).record()
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    told: list[float] = []
    scale_up().score(one, suspect(), Trial(data(45, seed=9), WhitePixel(SHAPE)), progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_at_most_half_of_the_images_are_references() -> None:
    for asked, normalize, parts in ((30, True, (30, 15, 15)), (31, True, (30, 15, 15)), (31, False, (0, 30, 30))):
        scores = scale_up(references=asked, normalize=normalize).run(suspect(), data()).scores
        names = ("reference_images", "threshold_images", "held_out_images")
        assert tuple(scores[name] for name in names) == parts


def test_too_few_images_are_refused() -> None:
    with pytest.raises(DefenseError) as error:
        scale_up().run(suspect(), data(6))
    assert str(error.value) == "clean data: expected at least 7 images for scale-up; found 6; give more"
    assert scale_up().run(suspect(), data(7)).scores["held_out_images"] == 2
    with pytest.raises(DefenseError) as error:
        scale_up(normalize=False).run(suspect(), data(3))
    assert str(error.value) == "clean data: expected at least 4 images for scale-up; found 3; give more"


@pytest.mark.parametrize(("normalize", "limit"), [(True, "0"), (False, "1")])
def test_where_all_images_are_consistent_none_can_be_refused(normalize: bool, limit: str) -> None:
    finding = scale_up(normalize=normalize).run(suspect(Same()), data())
    assert finding.scores["refuses_nothing"] is True
    assert finding.scores["refusable_classes"] == 0
    assert finding.scores["fully_consistent"] == 1
    assert finding.sentence.endswith(
        f" No consistency is above {limit}, so that this threshold refuses nothing, whatever trigger there is."
    )


@pytest.mark.parametrize("count", [1, 2])
def test_classes_whose_images_none_can_be_refused_are_counted(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = scale_up().run(suspect(), data()).arrays
    highest = np.sort((1 - arrays["class_means"]) / arrays["class_deviations"])[::-1]
    between = float(highest[count - 1 : count + 1].mean())
    monkeypatch.setattr(ScaleUp, "set_threshold", lambda self, numbers: between)
    finding = scale_up().run(suspect(), data())
    assert finding.scores["refusable_classes"] == count
    assert finding.scores["refuses_nothing"] is False
    assert finding.sentence.endswith(
        f" Only images that are taken for {count} of the 3 classes can be refused: of the others none can be above it."
    )


def test_without_normalisation_images_of_all_classes_can_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScaleUp, "set_threshold", lambda self, numbers: 0.9)
    finding = scale_up(normalize=False).run(suspect(), data())
    assert finding.scores["refuses_nothing"] is False
    assert finding.scores["refusable_classes"] == CLASSES
    assert "class_means" not in finding.arrays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factors": ()}, "scale_up.factors: expected at least one; found none"),
        ({"factors": (3, 1)}, "scale_up.factors: expected a number of at least 2 and at most 255; found 1"),
        ({"factors": (3, 256)}, "scale_up.factors: expected a number of at least 2 and at most 255; found 256"),
        ({"factors": (3, 5, 3)}, "scale_up.factors: expected each number once; found (3, 5, 3)"),
        ({"references": 0}, "scale_up.references: expected a number of at least 1; found 0"),
        ({"threshold": -0.1}, "scale_up.threshold: expected a number of at least 0; found -0.1"),
        ({"images": 1}, "scale_up.images: expected a number of at least 2; found 1"),
        (
            {"false_rejection_rate": 0.0},
            "scale_up.false_rejection_rate: expected a number above 0 and at most 0.5; found 0.0",
        ),
    ],
    ids=str,
)
def test_settings_are_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        scale_up(**change)
    assert str(error.value) == message


def examined(run: Run) -> tuple[Finding, Score]:
    """Return what SCALE-UP finds with its defaults, fixed before the models were examined."""
    images, labels = run.images("defender")
    control = Suspect(run.classifier, run.spec.shape, run.spec.classes)
    defense = ScaleUp(ScaleUpSettings())
    finding = defense.run(control, CleanData(images, labels))
    return finding, defense.score(finding, control, Trial(CleanData(*run.images()), run.backdoor))


def test_badnets_is_recorded(badnets: Run, record_property: pytest.RecordProperty) -> None:
    """No detection is asked for: copies of most digits keep their class, with the patch and without it."""
    finding, score = examined(badnets)
    assert finding.scores["reference_images"] == 72
    assert finding.scores["threshold_images"] == finding.scores["held_out_images"] == 36
    assert score.scores["images"] == 360
    for name in ("auroc", "data_free_auroc", "fully_consistent_clean", "fully_consistent_triggered"):
        record_property(name, score.scores[name])
        assert 0 <= score.scores[name] <= 1


def test_a_clean_model_is_recorded(clean_model: Run, record_property: pytest.RecordProperty) -> None:
    finding, score = examined(clean_model)
    record_property("false_rejection_rate", score.scores["false_rejection_rate"])
    assert finding.verdict == "no-verdict"
    assert score.scores["auroc"] is None


def test_it_is_built_by_name() -> None:
    defense = build_defense("scale-up", DefenseSettings(scale_up=ScaleUpSettings(references=7)))
    assert isinstance(defense, ScaleUp)
    assert defense.settings.references == 7
