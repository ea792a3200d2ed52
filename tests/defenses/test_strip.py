"""STRIP against formulas in float64, and on models with and without a backdoor."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from defenses.white_pixel import WhitePixel
from scipy import stats
from torch import Tensor, nn

from inputaware.api import Run
from inputaware.attacks.base import Backdoor
from inputaware.defenses.base import CleanData, Finding, Score, Suspect, Trial
from inputaware.defenses.registry import build_defense
from inputaware.defenses.settings import DefenseSettings, StripSettings
from inputaware.defenses.strip import (
    Strip,
    blended_entropies,
    entropy_threshold,
    shannon_entropy,
    sigmoid_entropy,
    superimpose,
)
from inputaware.errors import ConfigError, DefenseError

SHAPE = (1, 4, 4)
CLASSES = 3


class Scores(nn.Module):
    """A linear classifier that a bright first pixel makes sure of class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, CLASSES)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(1)))
            self.layer.weight[:, 0] = torch.tensor([30.0, 0.0, 0.0])
            self.layer.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images.flatten(1))
        return logits


def suspect() -> Suspect:
    return Suspect(Scores().eval(), SHAPE, CLASSES)


def data(count: int = 60, *, seed: int = 0) -> CleanData:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 200, (count, *SHAPE), generator=generator).to(torch.uint8)
    images[:, :, 0, 0] = 0
    return CleanData(images, torch.arange(count) % CLASSES)


def strip(**changes: object) -> Strip:
    return Strip(StripSettings(**{"overlays": 10, **changes}))


def expected_entropies(images: np.ndarray, overlays: np.ndarray) -> np.ndarray:
    """Return the entropies in float64, image by image."""
    layer = Scores().layer
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    found = []
    for image in images:
        blended = np.minimum(image[None] + overlays, 1).reshape(len(overlays), -1)
        logits = blended @ weight.T + bias
        odds = np.exp(logits - logits.max(1, keepdims=True))
        found.append(np.mean([stats.entropy(row, base=2) for row in odds]))
    return np.array(found)


def test_images_are_added_and_cut_off_at_white() -> None:
    draw = np.random.default_rng(0)
    images, overlays = draw.random((3, 2, 4, 5)), draw.random((4, 2, 4, 5))
    found = superimpose(torch.from_numpy(images), torch.from_numpy(overlays)).numpy()
    assert found.shape == (12, 2, 4, 5)
    for first in range(3):
        for second in range(4):
            np.testing.assert_array_equal(found[4 * first + second], np.clip(images[first] + overlays[second], 0, 1))
    assert found.max() == 1.0


def test_entropy_is_in_bits() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, -2.0, 0.5, 3.0], [500.0, 0.0, 0.0, -500.0]], dtype=torch.float64)
    odds = np.exp(logits.numpy() - logits.numpy().max(1, keepdims=True))
    np.testing.assert_allclose(shannon_entropy(logits).numpy(), stats.entropy(odds, base=2, axis=1), atol=1e-12)
    assert shannon_entropy(logits)[0] == pytest.approx(2.0)


def test_the_releases_sum_takes_sigmoids() -> None:
    logits = torch.tensor([[0.4, -3.0, 2.0]], dtype=torch.float64)
    share = 1 / (1 + np.exp(-logits.numpy()))
    np.testing.assert_allclose(sigmoid_entropy(logits).numpy(), -(share * np.log2(share)).sum(1), rtol=1e-12)


@pytest.mark.parametrize("in_flight", [1, 25, 10_000])
def test_entropies_are_means_over_the_overlays_in_chunks_of_any_size(in_flight: int) -> None:
    images, overlays = data(7).pixels, data(10, seed=1).pixels
    heard: list[float] = []
    found, _ = blended_entropies(suspect(), images, overlays, in_flight=in_flight, progress=heard.append)
    np.testing.assert_allclose(found.numpy(), expected_entropies(images.numpy(), overlays.numpy()), atol=1e-5)
    assert heard[-1] == 1.0


def test_the_threshold_is_a_quantile_of_the_normal_distribution() -> None:
    values = np.random.default_rng(2).normal(1.3, 0.2, 50)
    expected = stats.norm.ppf(0.01, values.mean(), values.std(ddof=1))
    assert entropy_threshold(torch.from_numpy(values), rate=0.01) == pytest.approx(expected, rel=1e-9)


def test_of_skewed_entropies_the_normal_threshold_refuses_none() -> None:
    values = np.random.default_rng(2).exponential(1.0, 2000)
    assert np.sum(values < entropy_threshold(torch.from_numpy(values), rate=0.01)) == 0


def test_overlays_and_both_halves_are_disjoint() -> None:
    finding = strip().run(suspect(), data())
    parts = [finding.arrays[name] for name in ("overlay_indices", "threshold_indices", "held_out_indices")]
    assert [len(part) for part in parts] == [10, 25, 25]
    assert len(np.unique(np.concatenate(parts))) == 60
    np.testing.assert_array_equal(finding.arrays["overlays"], data().images.numpy()[parts[0]])
    assert (finding.scores["overlays"], finding.scores["threshold_images"]) == (10, 25)
    fewer = strip(images=5).run(suspect(), data())
    assert len(fewer.arrays["threshold_entropies"]) == len(fewer.arrays["held_out_entropies"]) == 5


def test_a_finding_holds_threshold_and_realised_rate() -> None:
    finding = strip(false_rejection_rate=0.3).run(suspect(), data())
    pixels = data().pixels.numpy()
    overlays = pixels[finding.arrays["overlay_indices"]]
    setting = expected_entropies(pixels[finding.arrays["threshold_indices"]], overlays)
    threshold = stats.norm.ppf(0.3, setting.mean(), setting.std(ddof=1))
    scores = finding.scores
    assert finding.verdict == "no-verdict"
    assert scores["threshold"] == pytest.approx(threshold, abs=1e-5)
    refused = expected_entropies(pixels[finding.arrays["held_out_indices"]], overlays) < threshold
    assert scores["held_out_false_rejection_rate"] == np.mean(refused)
    interval = stats.binomtest(int(refused.sum()), 25).proportion_ci(method="wilson")
    assert scores["held_out_false_rejection_interval"] == pytest.approx(list(interval), abs=1e-12)
    assert f"{scores['threshold']:.3f} bits" in finding.sentence
    quantile = np.quantile(setting, 0.3)
    assert scores["quantile_threshold"] == pytest.approx(quantile, abs=1e-5)
    refused = expected_entropies(pixels[finding.arrays["held_out_indices"]], overlays) < quantile
    assert scores["quantile_held_out_false_rejection_rate"] == np.mean(refused)
    interval = stats.binomtest(int(refused.sum()), 25).proportion_ci(method="wilson")
    assert scores["quantile_held_out_false_rejection_interval"] == pytest.approx(list(interval), abs=1e-12)


def scored(backdoor: Backdoor | None, **changes: object) -> tuple[Finding, Score, CleanData]:
    defense, test = strip(**changes), data(45, seed=9)
    finding = defense.run(suspect(), data())
    return finding, defense.score(finding, suspect(), Trial(test, backdoor)), test


def test_a_score_tells_triggered_from_clean_images() -> None:
    finding, score, test = scored(WhitePixel(SHAPE))
    overlays = finding.arrays["overlays"] / 255
    clean = test.pixels.numpy().astype(float)
    stamped = clean.copy()
    stamped[:, 0, 0, 0] = 1
    low, high = expected_entropies(stamped, overlays), expected_entropies(clean, overlays)
    indices = score.arrays["indices"]
    assert sorted(indices) == [*range(45)] != indices.tolist()
    np.testing.assert_allclose(score.arrays["triggered_entropies"], low[indices], atol=1e-5)
    np.testing.assert_allclose(score.arrays["clean_entropies"], high[indices], atol=1e-5)
    scores, threshold = score.scores, finding.scores["threshold"]
    assert scores["images"] == 45
    assert scores["false_rejection_rate"] == np.mean(high < threshold)
    assert scores["false_acceptance_rate"] == np.mean(low >= threshold)
    assert scores["quantile_threshold"] == finding.scores["quantile_threshold"] != threshold
    assert scores["quantile_false_rejection_rate"] == np.mean(high < scores["quantile_threshold"])
    assert scores["quantile_false_acceptance_rate"] == np.mean(low >= scores["quantile_threshold"])
    others = test.labels.numpy() != 0
    assert scores["false_acceptance_rate_excluding_target"] == np.mean(low[others] >= threshold)
    assert scores["auroc"] == np.mean(low[:, None] < high[None])
    assert score.arrays["bin_edges"][-1] == pytest.approx(np.log2(CLASSES))
    assert score.arrays["clean_histogram"].sum() == score.arrays["triggered_histogram"].sum() == 45
    json.dumps(scores, allow_nan=False)


def test_a_score_takes_the_same_images_with_and_without_triggers() -> None:
    _, score, _ = scored(WhitePixel(SHAPE), images=20)
    assert score.scores["images"] == 20
    assert len(score.arrays["clean_entropies"]) == len(score.arrays["triggered_entropies"]) == 20
    assert len(set(score.arrays["indices"].tolist())) == 20


def test_a_clean_model_has_nothing_to_catch() -> None:
    _, score, _ = scored(None)
    assert score.scores["auroc"] is None
    assert score.scores["false_acceptance_rate"] is score.scores["quantile_false_acceptance_rate"] is None
    assert score.scores["false_rejection_rate"] is not None
    assert "triggered_histogram" not in score.arrays
    assert score.sentence.endswith("the model is clean, so there is nothing to catch.")
    json.dumps(score.scores, allow_nan=False)


def test_the_releases_rule_takes_the_smallest_of_all() -> None:
    finding, score, test = scored(WhitePixel(SHAPE))
    stamped = test.pixels.clone()
    stamped[:, 0, 0, 0] = 1
    overlays = torch.from_numpy(finding.arrays["overlays"] / 255).float()
    sums = [float(blended_entropies(suspect(), images, overlays)[1].min()) for images in (test.pixels, stamped)]
    assert score.scores["release_rule_min_entropy"] == pytest.approx(min(sums), abs=1e-6)
    assert score.scores["release_rule_flags"] == (min(sums) < 0.2)


def test_the_same_seed_gives_the_same_record_and_progress_ends_at_one() -> None:
    heard: list[float] = []
    one = strip().run(suspect(), data(), seed=3, progress=heard.append)
    same = strip().run(suspect(), data(), seed=3)
    assert json.dumps(one.record(), allow_nan=False) == json.dumps(same.record(), allow_nan=False)
    assert one.record() != strip().run(suspect(), data(), seed=4).record()
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    told: list[float] = []
    strip().score(one, suspect(), Trial(data(45, seed=9), WhitePixel(SHAPE)), progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_of_few_images_half_are_overlays() -> None:
    whole, few, fewest = strip(overlays=56), strip(overlays=57), strip(overlays=100)
    found = whole.run(suspect(), data())
    assert (found.scores["overlays"], found.scores["held_out_images"]) == (56, 2)
    assert "overlays" not in found.sentence
    found = few.run(suspect(), data())
    assert (found.scores["overlays"], found.scores["threshold_images"], found.scores["held_out_images"]) == (30, 15, 15)
    assert found.sentence.endswith(" There were clean images for 30 overlays in place of 57.")
    found = fewest.run(suspect(), data(8))
    assert (found.scores["overlays"], found.scores["threshold_images"], found.scores["held_out_images"]) == (4, 2, 2)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(DefenseError, match=r"^clean data: expected at least 7 images for strip; found 6; give more$"):
        strip().run(suspect(), data(6))
    with pytest.raises(DefenseError, match=r"^clean data: expected at least 6 images for strip; found 5; give more$"):
        strip(overlays=2).run(suspect(), data(5))
    assert strip(overlays=2).run(suspect(), data(6)).scores["overlays"] == 2


def test_a_threshold_below_any_entropy_says_that_it_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "No entropy is below 0, so that this threshold refuses nothing, whatever trigger there is."
    for threshold in (0.1, -0.1):
        monkeypatch.setattr("inputaware.defenses.strip.entropy_threshold", lambda entropies, rate: threshold)  # noqa: B023
        assert strip().run(suspect(), data()).sentence.endswith(words) is (threshold < 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overlays": 0}, "overlays: expected a number of at least 1; found 0"),
        ({"images": 1}, "images: expected a number of at least 2; found 1"),
        ({"false_rejection_rate": 0.0}, "false_rejection_rate: expected a number above 0 and at most 0.5; found 0.0"),
        ({"false_rejection_rate": 0.6}, "false_rejection_rate: expected a number above 0 and at most 0.5; found 0.6"),
    ],
    ids=str,
)
def test_settings_are_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        strip(**change)
    assert str(error.value) == f"strip.{message}"


def examined(run: Run) -> tuple[Finding, Score]:
    """Return what STRIP finds with its defaults, fixed before the models were examined."""
    images, labels = run.images("defender")
    control = Suspect(run.classifier, run.spec.shape, run.spec.classes)
    defense = Strip(StripSettings())
    finding = defense.run(control, CleanData(images, labels))
    return finding, defense.score(finding, control, Trial(CleanData(*run.images()), run.backdoor))


def test_badnets_is_told_from_clean_images(badnets: Run) -> None:
    finding, score = examined(badnets)
    assert finding.scores["threshold_images"] == finding.scores["held_out_images"] == 22
    assert score.scores["images"] == 360
    assert score.scores["auroc"] >= 0.95


def test_a_clean_model_is_recorded(clean_model: Run, record_property: pytest.RecordProperty) -> None:
    finding, score = examined(clean_model)
    record_property("false_rejection_rate", score.scores["false_rejection_rate"])
    assert finding.verdict == "no-verdict"
    assert score.scores["auroc"] is None


def test_it_is_built_by_name() -> None:
    defense = build_defense("strip", DefenseSettings(strip=StripSettings(overlays=7)))
    assert isinstance(defense, Strip)
    assert defense.settings.overlays == 7
