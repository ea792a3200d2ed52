"""Neural Cleanse against formulas in float64, against class after class, and on models with and without a backdoor."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from inputaware.api import Run
from inputaware.attacks.base import Backdoor
from inputaware.defenses import neural_cleanse
from inputaware.defenses.base import CleanData, Finding, Suspect, Trial
from inputaware.defenses.neural_cleanse import (
    ClassSearch,
    NeuralCleanse,
    ReversedTriggers,
    anomaly_scores,
    chance_rate,
    highest_index,
    reverse_triggers,
    squash,
    unsquash,
)
from inputaware.defenses.registry import build_defense
from inputaware.defenses.settings import DefenseSettings, NeuralCleanseSettings
from inputaware.errors import ConfigError, DefenseError

SHAPE = (1, 6, 6)
CLASSES = 5


class Scores(nn.Module):
    """A linear classifier in which a bright first pixel leads to class 2."""

    def __init__(self, *, hopeless: tuple[int, ...] = (), classes: int = CLASSES) -> None:
        super().__init__()
        self.layer = nn.Linear(36, classes)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(classes, 36, generator=generator))
            self.layer.weight[:, 0] = 0
            self.layer.weight[2, 0] = 60
            self.layer.bias.zero_()
            self.layer.bias[2] = -15
            for label in hopeless:
                self.layer.bias[label] = -1e4

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images.flatten(1))
        return logits


def suspect(classifier: nn.Module | None = None) -> Suspect:
    chosen = (classifier or Scores()).eval().requires_grad_(False)
    return Suspect(chosen, SHAPE, CLASSES)


def data() -> CleanData:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, *SHAPE), generator=generator).to(torch.uint8)
    images[:, :, 0, 0] = 0
    return CleanData(images, torch.arange(60) % CLASSES)


QUICK = {"rounds": 40, "batch_size": 20, "learning_rate": 0.2, "patience": 3, "early_stop_patience": 8}


def settings(**changes: object) -> NeuralCleanseSettings:
    return NeuralCleanseSettings(**{**QUICK, **changes})


class Naming(Backdoor):
    """A backdoor that only says which class it asks for."""

    def __init__(self, target: str = "all-to-one", target_class: int = 2) -> None:
        super().__init__(shape=SHAPE, classes=CLASSES, target=target, target_class=target_class)

    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("Neural Cleanse is scored without triggers")


def test_squashing_keeps_values_between_zero_and_one_and_can_be_undone() -> None:
    values = torch.tensor([-9.0, -1.5, 0.0, 0.3, 9.0], dtype=torch.float64)
    np.testing.assert_allclose(squash(values).numpy(), np.tanh(values.numpy()) / 2 + 0.5, rtol=0, atol=1e-15)
    inner = torch.tensor([0.001, 0.25, 0.5, 0.9], dtype=torch.float64)
    np.testing.assert_allclose(unsquash(inner).numpy(), np.arctanh(2 * inner.numpy() - 1), rtol=1e-12)
    assert torch.isfinite(unsquash(torch.tensor([0.0, 1.0]))).all()


@pytest.mark.parametrize("count", [3, 10, 43])
def test_anomaly_scores_are_distances_from_the_median_in_normal_deviations(count: int) -> None:
    norms = np.random.default_rng(count).gamma(3.0, 20.0, count)
    deviation = stats.median_abs_deviation(norms) * 1.4826
    expected = (norms - np.median(norms)) / deviation
    np.testing.assert_allclose(anomaly_scores(norms.tolist()), expected, rtol=1e-12)


def test_an_even_count_has_the_mean_of_the_middle_two_for_a_median() -> None:
    # Median 3, deviations 2 1 1 97: their median 1.5. With the lower middle value, 2, all would differ.
    found = anomaly_scores([1.0, 2.0, 4.0, 100.0])
    assert found == pytest.approx([-2 / (1.4826 * 1.5), -1 / (1.4826 * 1.5), 1 / (1.4826 * 1.5), 97 / (1.4826 * 1.5)])


def test_a_class_without_a_norm_takes_no_part() -> None:
    found = anomaly_scores([1.0, None, 2.0, 5.0])
    assert found[1] is None
    assert [found[0], *found[2:]] == pytest.approx([-1 / 1.4826, 0.0, 3 / 1.4826], rel=1e-12)


@pytest.mark.parametrize("norms", [[1.0, 2.0], [1.0, None, 2.0], [4.0, 4.0, 4.0, 9.0], []])
def test_too_few_or_too_equal_norms_have_no_score(norms: list[float | None]) -> None:
    assert anomaly_scores(norms) == [None] * len(norms)


def test_the_highest_index_is_that_of_a_trigger_without_pixels() -> None:
    # The others' median is 60, and their deviations are so large that a norm of 0 stands out no further than this.
    norms = [7.0, 20.0, 40.0, 60.0, 80.0, 100.0, 120.0]
    expected = 60 / (1.4826 * 40)
    assert highest_index([*norms[3:], None, *norms[:3]]) == pytest.approx(expected, rel=1e-12)
    assert highest_index(norms) > -anomaly_scores(norms)[0]
    # Not always the smallest one's: without an outlier the others are closer together.
    outlier = [8.9, 119.1, 59.7, 10.3, 65.1, 10.4, 69.5, 10.5, 9.6, 10.0]
    assert highest_index(outlier) == pytest.approx(-anomaly_scores([8.9, 0.0, *outlier[2:]])[1])
    assert highest_index([None, 1.0, 2.0]) is None
    assert highest_index([None, None]) is None


def test_the_chance_rate_is_that_of_an_independent_simulation() -> None:
    draw = np.random.default_rng(5)
    hits = 0
    for _ in range(4000):
        scores = anomaly_scores(draw.normal(50, 7, 10).tolist())
        hits += min(score for score in scores if score is not None) < -2
    low, high = stats.binomtest(hits, 4000).proportion_ci(0.999)
    found = chance_rate(10, threshold=2.0)
    assert found is not None
    assert low < found < high
    assert found == chance_rate(10, threshold=2.0)


def test_the_chance_rate_rises_with_classes_and_falls_with_the_threshold() -> None:
    few, many, strict = chance_rate(10, threshold=2.0), chance_rate(43, threshold=2.0), chance_rate(10, threshold=3.0)
    assert few is not None
    assert many is not None
    assert strict is not None
    assert strict < few < many
    assert chance_rate(2, threshold=2.0) is None


def searched(rates: list[float], norms: list[float], **changes: object) -> tuple[ClassSearch, list[float]]:
    search = ClassSearch(NeuralCleanseSettings(**changes))
    costs = []
    for rate, norm in zip(rates, norms, strict=True):
        search.update(rate, norm)
        costs.append(search.cost)
    return search, costs


def published_costs(rates: list[float], patience: int = 5) -> list[float]:
    """Return the cost after each round: three counters, as the published code counts them."""
    cost, set_counter, up, down, costs = 0.0, 0, 0, 0, []
    for rate in rates:
        if cost == 0 and rate >= 0.99:
            set_counter += 1
            if set_counter >= patience:
                cost, up, down = 1e-3, 0, 0
        else:
            set_counter = 0
        up, down = (up + 1, 0) if rate >= 0.99 else (0, down + 1)
        if up >= patience:
            cost, up = cost * 2, 0
        elif down >= patience:
            cost, down = cost / 2**1.5, 0
        costs.append(cost)
    return costs


@pytest.mark.parametrize("seed", range(5))
def test_the_cost_follows_the_published_schedule(seed: int) -> None:
    draw = np.random.default_rng(seed)
    blocks = [
        [float(value)] * int(length)
        for value, length in zip(draw.choice([0.5, 1.0], 30), draw.integers(1, 9, 30), strict=True)
    ]
    rates = [rate for block in blocks for rate in block]
    _, costs = searched(rates, [9.0] * len(rates), early_stopping=False)
    assert max(costs) > 0
    np.testing.assert_allclose(costs, published_costs(rates), rtol=1e-12)


def test_the_best_mask_is_the_smallest_that_works() -> None:
    search = ClassSearch(NeuralCleanseSettings())
    assert [search.update(*result) for result in [(0.98, 1.0), (0.99, 9.0), (1.0, 9.5), (0.5, 2.0), (1.0, 8.0)]] == [
        False,
        True,
        False,
        False,
        True,
    ]
    assert search.best == 8.0
    assert search.rounds == 5


def test_a_search_ends_when_the_cost_went_both_ways_and_the_norm_no_longer_falls() -> None:
    up, down = [1.0] * 9, [0.0] * 5  # the cost is set in round 5, raised in 9 and lowered in 14
    rates = up + down + [0.0] * 20
    search, _ = searched(rates, [7.0] * len(rates), early_stop_patience=18)
    # Stale from round 2 on: 18 in a row in round 19.
    assert search.finished
    one_way, _ = searched([1.0] * 34, [7.0] * 34, early_stop_patience=18)
    assert not one_way.finished
    endless, _ = searched(rates, [7.0] * len(rates), early_stop_patience=18, early_stopping=False)
    assert not endless.finished
    falling, _ = searched(up + down + [1.0] * 20, [7.0 * 0.98**n for n in range(34)], early_stop_patience=18)
    assert not falling.finished


def test_the_planted_shortcut_is_found() -> None:
    defense = NeuralCleanse(settings())
    finding = defense.run(suspect(), data())
    scores = finding.scores
    assert (finding.verdict, scores["flagged"][0], scores["smallest_class"]) == ("flagged", 2, 2)
    assert scores["anomaly_index"] > 2
    mask, pattern = finding.arrays["masks"][0, 2, 0], finding.arrays["patterns"][0, 2, 0]
    assert np.unravel_index(mask.argmax(), mask.shape) == (0, 0)
    assert pattern[0, 0] > 0.9
    assert mask.sum() == pytest.approx(scores["norms"][2], rel=1e-5)
    assert scores["unreached"] == []
    assert finding.sentence.startswith("Flagged, class 2 (anomaly index ")


def test_success_rates_are_those_of_the_triggers_on_all_images() -> None:
    finding = NeuralCleanse(settings()).run(suspect(), data())
    layer = Scores().layer
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    images = data().images.numpy()[:, 0] / 255
    for label in range(CLASSES):
        mask = finding.arrays["masks"][0, label, 0].astype(float)
        stamped = images * (1 - mask) + finding.arrays["patterns"][0, label, 0] * mask
        predicted = (stamped.reshape(60, -1) @ weight.T + bias).argmax(1)
        assert finding.scores["success_rates"][0][label] == np.mean(predicted == label)


def test_classes_together_find_what_class_after_class_finds() -> None:
    chosen = settings(rounds=25, early_stopping=False)
    together = reverse_triggers(suspect(), data().pixels, chosen, seed=4)
    single = reverse_triggers(suspect(), data().pixels, chosen, seed=4, batched=False)
    pieces = reverse_triggers(suspect(), data().pixels, chosen, seed=4, images_in_flight=40)
    assert None not in together.norms
    assert single.norms == pytest.approx(together.norms, rel=0.01)
    assert pieces.norms == pytest.approx(together.norms, rel=0.01)
    other = reverse_triggers(suspect(), data().pixels, chosen, seed=5)
    assert other.norms != pytest.approx(together.norms, rel=1e-4)


@pytest.mark.parametrize(
    ("device", "gib", "expected"), [("cpu", 80, 96), ("cuda", 80, 2048), ("cuda", 31, 2048), ("cuda", 24, 512)]
)
def test_as_many_images_at_once_as_memory_bears(
    device: str, gib: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = SimpleNamespace(total_memory=gib * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    assert neural_cleanse._images_in_flight(torch.device(device)) == expected


class Counting(Scores):
    """Counts the images that it sees."""

    seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return super().forward(images)


def test_classes_that_are_finished_drop_out() -> None:
    seen = {}
    for early in (True, False):
        classifier = Counting()
        found = reverse_triggers(suspect(classifier), data().pixels, settings(rounds=60, early_stopping=early), seed=0)
        seen[early] = classifier.seen
        assert classifier.seen == sum(found.rounds) * 60
        if early:
            assert min(found.rounds) < 60
        else:
            assert found.rounds == [60] * CLASSES
    assert seen[True] < seen[False]


def test_a_class_that_is_never_reached_has_no_norm_and_is_named() -> None:
    finding = NeuralCleanse(settings()).run(suspect(Scores(hopeless=(4,))), data())
    assert finding.scores["unreached"] == [4]
    assert finding.scores["norms"][4] is None
    assert finding.scores["anomaly_scores"][4] is None
    assert finding.scores["success_rates"][0][4] is None
    assert np.isnan(finding.arrays["masks"][0, 4]).all()
    assert np.isfinite(finding.arrays["masks"][0, :4]).all()
    assert "No trigger reached 99% success for class 4, left out of the comparison." in finding.sentence
    assert finding.scores["chance_rate"] == chance_rate(4, threshold=2.0)


def test_too_few_classes_give_no_verdict() -> None:
    defense = NeuralCleanse(settings())
    finding = defense.run(suspect(Scores(hopeless=(0, 1, 4))), data())
    assert finding.verdict == "no-verdict"
    assert finding.scores["anomaly_index"] is None
    assert finding.scores["chance_rate"] is None
    assert finding.sentence.startswith("No verdict: 2 of 5 classes have a trigger with 99% success")
    json.dumps(finding.record(), allow_nan=False)
    score = defense.score(finding, suspect(), Trial(data(), Naming()))
    assert score.sentence == "There was no verdict."
    assert score.scores["target_rank"] is None


def test_a_verdict_says_where_the_rule_could_flag_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    norms = [1.0, 20.0, 10.0, 34.0, 36.0]
    images = torch.zeros(CLASSES, *SHAPE)
    found = ReversedTriggers(images, images, [*norms], [1] * CLASSES)
    monkeypatch.setattr("inputaware.defenses.neural_cleanse.reverse_triggers", lambda *_, **__: found)
    finding = NeuralCleanse(settings()).run(suspect(), data())
    assert finding.scores["highest_index"] == pytest.approx(20 / (1.4826 * 14))
    assert "No trigger could be flagged: the others differ so much that one of no pixels has 0.96." in finding.sentence


def test_trials_start_anew_and_the_median_decides() -> None:
    finding = NeuralCleanse(settings(trials=3, rounds=20)).run(suspect(), data())
    scores = finding.scores
    norms = np.array(scores["trial_norms"])
    assert norms.shape == (3, CLASSES)
    assert len({tuple(row) for row in norms}) == 3
    np.testing.assert_allclose(scores["norms"], np.median(norms, axis=0))
    np.testing.assert_allclose(scores["norm_spread"], norms.std(axis=0, ddof=1))
    np.testing.assert_allclose(
        scores["anomaly_scores"], np.median([anomaly_scores(row.tolist()) for row in norms], axis=0)
    )
    assert finding.arrays["masks"].shape == (3, CLASSES, *SHAPE)


def test_a_class_that_is_reached_in_half_of_the_trials_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [[50.0, 60.0, 70.0, norm, 83.0] for norm in (None, 20.0)]
    trials = iter(given)

    def found(*_: object, **__: object) -> ReversedTriggers:
        shape = (CLASSES, 1, *SHAPE[1:])
        return ReversedTriggers(torch.zeros(shape), torch.zeros(shape), next(trials), [1] * CLASSES)

    monkeypatch.setattr("inputaware.defenses.neural_cleanse.reverse_triggers", found)
    finding = NeuralCleanse(settings(trials=2)).run(suspect(), data())
    assert finding.scores["unreached"] == [3]
    assert finding.scores["norms"] == [50, 60, 70, None, 83]
    assert finding.scores["norm_spread"] == [0, 0, 0, None, 0]
    assert finding.scores["chance_rate"] == chance_rate(4, threshold=2.0)
    assert finding.scores["trial_norms"] == given
    assert (
        "No trigger reached 99% success in more than half of the 2 trials for class 3, left out of the comparison."
    ) in finding.sentence


def test_a_flagged_class_whose_kept_trigger_works_on_fewer_images_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, patterns = torch.zeros(CLASSES, 1, *SHAPE[1:]), torch.zeros(CLASSES, *SHAPE)
    kept = ReversedTriggers(masks, patterns, [1.0, 50.0, 60.0, 70.0, 83.0], [1] * CLASSES)
    monkeypatch.setattr("inputaware.defenses.neural_cleanse.reverse_triggers", lambda *_, **__: kept)
    finding = NeuralCleanse(settings()).run(suspect(), data())
    # Masks of nothing: each class has the images that the classifier sees in it anyway, 55 of 60 in class 0.
    assert finding.scores["success_rates"][0][0] == 55 / 60
    assert finding.scores["flagged"] == [0]
    assert finding.sentence.count("Counted after the search") == 1
    assert " Counted after the search the trigger of class 0 has 91.67 % success. The rule has" in finding.sentence
    enough = NeuralCleanse(settings(success_threshold=55 / 60)).run(suspect(), data())
    assert "Counted after the search" not in enough.sentence


class Stubborn(nn.Module):
    """Sees class 0 in all but each tenth image, whatever they show."""

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 2)
        logits[:, 0] = 1
        logits[::10, 1] = 2
        return logits + 0 * images.sum()


def test_exactly_the_threshold_is_enough() -> None:
    asked = settings(success_threshold=0.9, batch_size=10, images_per_round=10, rounds=2)
    found = reverse_triggers(Suspect(Stubborn(), SHAPE, 2), data().pixels[:10], asked, seed=0)
    assert found.norms[0] is not None
    assert found.norms[1] is None


def test_the_same_seed_gives_the_same_record_and_progress_ends_at_one() -> None:
    heard: list[float] = []
    one = NeuralCleanse(settings(trials=2, rounds=15)).run(suspect(), data(), seed=3, progress=heard.append)
    same = NeuralCleanse(settings(trials=2, rounds=15)).run(suspect(), data(), seed=3)
    assert json.dumps(one.record(), allow_nan=False) == json.dumps(same.record(), allow_nan=False)
    assert one.record() != NeuralCleanse(settings(trials=2, rounds=15)).run(suspect(), data(), seed=4).record()
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


def test_mixed_precision_finds_the_same_class() -> None:
    finding = NeuralCleanse(settings(precision="bf16")).run(suspect(), data())
    assert finding.scores["flagged"][0] == 2


class Spoiled(Scores):
    """Breaks on images that no clean image is like."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + torch.where(images[:, :1, 0, 0] > 0, float("nan"), 0.0)


def test_a_suspect_that_breaks_during_the_search_is_refused() -> None:
    with pytest.raises(DefenseError, match=r"^suspect: expected a classifier with finite logits; found NaN"):
        NeuralCleanse(settings()).run(suspect(Spoiled()), data())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 0}, "neural_cleanse.threshold: expected a number above 0; found 0"),
        ({"trials": 0}, "neural_cleanse.trials: expected a number of at least 1; found 0"),
        ({"rounds": 0}, "neural_cleanse.rounds: expected a number of at least 1; found 0"),
        ({"images_per_round": 0}, "neural_cleanse.images_per_round: expected a number of at least 1; found 0"),
        ({"batch_size": 0}, "neural_cleanse.batch_size: expected a number of at least 1; found 0"),
        ({"learning_rate": math.inf}, "neural_cleanse.learning_rate: expected a number above 0; found inf"),
        (
            {"success_threshold": 1.5},
            "neural_cleanse.success_threshold: expected a number above 0 and at most 1; found 1.5",
        ),
        ({"initial_cost": 0.0}, "neural_cleanse.initial_cost: expected a number above 0; found 0.0"),
        ({"cost_multiplier": 1.0}, "neural_cleanse.cost_multiplier: expected a number above 1; found 1.0"),
        ({"patience": 0}, "neural_cleanse.patience: expected a number of at least 1; found 0"),
        (
            {"early_stop_threshold": 2},
            "neural_cleanse.early_stop_threshold: expected a number above 0 and at most 1; found 2",
        ),
        ({"early_stop_patience": 0}, "neural_cleanse.early_stop_patience: expected a number of at least 1; found 0"),
        ({"precision": "16"}, "neural_cleanse.precision: expected 32 or bf16; found '16'"),
    ],
    ids=str,
)
def test_settings_are_checked(change: dict[str, object], message: str) -> None:
    made = object.__new__(NeuralCleanseSettings)
    for name, value in {**vars(NeuralCleanseSettings()), **change}.items():
        object.__setattr__(made, name, value)
    with pytest.raises(ConfigError) as error:
        NeuralCleanse(made)
    assert str(error.value) == message


def finding_with(flagged: list[int], scores: list[float | None]) -> Finding:
    return Finding(
        defense="neural-cleanse",
        verdict="flagged" if flagged else "not-flagged",
        sentence="",
        settings={},
        seed=0,
        data={},
        scores={"flagged": flagged, "anomaly_scores": scores, "norms": [5.0] * len(scores)},
        arrays={},
    )


RANKS = [0.3, -1.0, -3.0, -2.5, None]


@pytest.mark.parametrize(
    ("backdoor", "flagged", "expected", "sentence"),
    [
        (
            Naming(),
            [2, 3],
            {"targets": [2], "found": True, "false_alarms": [3], "target_rank": 1, "target_anomaly_score": -3.0},
            "The target is class 2, and it was flagged; its trigger is the smallest. False alarm for class 3.",
        ),
        (
            Naming(target_class=1),
            [],
            {"targets": [1], "found": False, "false_alarms": [], "target_rank": 3},
            "The target is class 1, and it was not flagged; 2 classes have a smaller trigger.",
        ),
        (
            Naming(target_class=4),
            [2],
            {"found": False, "false_alarms": [2], "target_rank": None, "target_anomaly_score": None},
            "The target is class 4, and it was not flagged. False alarm for class 2.",
        ),
        (
            Naming("all-to-all", 0),
            [2],
            {"targets": [0, 1, 2, 3, 4], "found": True, "false_alarms": [], "target_rank": None},
            "Every class is a target; class 2 was flagged.",
        ),
        (Naming("all-to-all", 0), [], {"found": False}, "Every class is a target; none was flagged."),
        (None, [3], {"targets": [], "found": None, "false_alarms": [3]}, "False alarm for class 3."),
        (None, [], {"found": None, "false_alarms": []}, "Right: the model is clean, and no class was flagged."),
    ],
)
def test_a_finding_is_scored_by_the_attackers_target(
    backdoor: Backdoor | None, flagged: list[int], expected: dict[str, object], sentence: str
) -> None:
    defense = NeuralCleanse(settings())
    score = defense.score(finding_with(flagged, RANKS), suspect(), Trial(data(), backdoor))
    assert {key: score.scores[key] for key in expected} == expected
    assert score.sentence == sentence
    json.dumps(score.scores, allow_nan=False)


CONTROL = NeuralCleanseSettings(rounds=40)
"""The defaults, but fewer rounds; fixed before the models below were examined."""


def examined(run: Run) -> tuple[Finding, dict[str, object]]:
    images, labels = run.images("defender")
    control = Suspect(run.classifier, run.spec.shape, run.spec.classes)
    defense = NeuralCleanse(CONTROL)
    finding = defense.run(control, CleanData(images, labels))
    return finding, defense.score(finding, control, Trial(CleanData(*run.images()), run.backdoor)).scores


def test_the_target_of_badnets_is_flagged(badnets: Run) -> None:
    rates = badnets.evaluate()
    assert min(rates["clean_accuracy"], rates["attack_success_rate"]) > 0.95
    finding, score = examined(badnets)
    assert finding.scores["smallest_class"] == 0
    assert finding.scores["anomaly_index"] > 2
    assert (score["found"], score["target_rank"]) == (True, 1)


def test_a_clean_model_is_recorded_with_its_chance_rate(
    clean_model: Run, record_property: pytest.RecordProperty
) -> None:
    finding, score = examined(clean_model)
    record_property("flagged", finding.scores["flagged"])
    assert score["targets"] == []
    assert score["false_alarms"] == finding.scores["flagged"]
    # No class has a trigger that is anywhere near the patch's few pixels.
    assert min(norm for norm in finding.scores["norms"] if norm is not None) > 20
    assert 0.2 < finding.scores["chance_rate"] < 0.5


def test_it_is_built_by_name() -> None:
    defense = build_defense("neural-cleanse", DefenseSettings(neural_cleanse=settings(trials=4)))
    assert isinstance(defense, NeuralCleanse)
    assert defense.settings.trials == 4
