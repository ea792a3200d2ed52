"""Runs that differ in their seeds only are counted together; what differs beside that is compared, paired by seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from inputaware.config.presets import preset_config
from inputaware.config.record import config_to_dict
from inputaware.evaluation.aggregate import (
    aggregate,
    by_setting,
    changes,
    comparisons,
    in_words,
    measures,
    model_score,
    planned_questions,
    power_in_words,
    setting_in_words,
    settings_in_words,
    spread,
)
from inputaware.evaluation.statistics import Estimate


def result(seed: int, clean: float, success: float | None = None, **options: Any) -> dict[str, Any]:
    """Return what a run publishes, as far as it is aggregated."""
    config = preset_config("fast", dataset="digits", seed=seed, **options)
    return {
        "dataset": "digits",
        "attack": config.attack,
        "target": config.target,
        "target_class": config.target_class if config.target == "all-to-one" else None,
        "preset": config.preset,
        "seed": seed,
        "evaluation": {
            "clean_accuracy": clean,
            "attack_success_rate": success,
            "cross_accuracy": None,
            "trigger": {"mask_area": 0.02, "ssim": None},
            "per_class": {"clean_accuracy": [clean]},
        },
        "paper": None,
        "wall_seconds": 10.0 + seed,
        "peak_memory_mib": 500,
        "defenses": {},
        "config": config_to_dict(config),
    }


FILTERED = {
    "scores": {
        "original": {"clean_accuracy": 0.9},
        "release": {"k=3": {"clean_accuracy": 0.9}},
        "feature-squeezing": {},
    },
    "scoring": {
        "scores": {
            "release": {"k=3": {"clean_accuracy": 0.9, "trigger_then_filter": {"attack_success_rate": 0.3}}},
            "feature-squeezing": {},
        }
    },
}


def test_measures_are_every_number_of_a_run() -> None:
    run = result(0, 0.9, 0.8)
    run["defenses"] = {
        "strip": {
            "scores": {"threshold": 0.5},
            "scoring": {"scores": {"auroc": 0.6}},
            "verdict": "no-verdict",
            "seconds": 3,
        },
        "neural-cleanse": {
            "scores": {"flagged": [1], "smallest_class": 1},
            "scoring": {"scores": {}},
            "verdict": "flagged",
            "seconds": 4,
        },
        "image-regularization": {**FILTERED, "verdict": "no-verdict", "seconds": 5},
    }
    found = measures(run)
    assert found["clean_accuracy"] == 0.9
    assert found["trigger.mask_area"] == 0.02
    assert found["wall_seconds"] == 10.0
    shared = measures({**run, "beside": 2})
    assert found.keys() - shared.keys() == {name for name in found if name.endswith("seconds")}
    assert found["defenses.strip.threshold"] == 0.5
    assert found["defenses.strip.scoring.auroc"] == 0.6
    assert found["defenses.neural-cleanse.flagged"] == 1.0
    assert found["defenses.image-regularization.best_filter.attack_success_rate"] == 0.3
    assert "defenses.strip.flagged" not in found
    assert "defenses.neural-cleanse.smallest_class" not in found
    assert "cross_accuracy" not in found
    assert not [name for name in found if "per_class" in name or "ssim" in name]


def test_changes_are_what_departs_from_the_preset() -> None:
    assert changes(result(3, 0.9)) == {}
    assert changes(result(3, 0.9, attack="badnets", target="all-to-all")) == {}
    run = result(3, 0.9, joint_stage={"lambda_div": 0.0}, target_class=4)
    assert changes(run) == {"joint_stage.lambda_div": 0.0}
    # What a control does not read makes no other setting of it.
    assert changes(result(3, 0.9, attack="none", joint_stage={"attack_probability": 0.2, "ramp": 0.3})) == {}
    run = result(3, 0.9, attack="badnets", joint_stage={"attack_probability": 0.2, "ramp": 0.3})
    assert changes(run) == {"joint_stage.attack_probability": 0.2}


def test_settings_are_counted_over_their_seeds() -> None:
    rates = [0.90, 0.94, 0.92]
    runs = [result(seed, rate, rate / 2) for seed, rate in enumerate(rates)]
    first, second = aggregate([runs[2], result(0, 0.5, attack="none"), runs[0], runs[1]])
    assert first["seeds"] == [0, 1, 2]
    assert second["seeds"] == [0]
    measure = first["measures"]["clean_accuracy"]
    assert measure["mean"] == pytest.approx(np.mean(rates))
    assert measure["deviation"] == pytest.approx(np.std(rates, ddof=1))
    assert measure["t_interval"] == pytest.approx(
        stats.t.interval(0.95, 2, np.mean(rates), stats.sem(rates)), rel=1e-12
    )
    assert second["measures"]["clean_accuracy"]["t_interval"] is None
    assert "attack_success_rate" not in second["measures"]
    assert setting_in_words(first) == "digits, input-aware, all-to-one, class 0, fast"
    assert setting_in_words(second) == "digits, none, fast"


def test_what_all_settings_share_is_named_once() -> None:
    def told(*runs: dict[str, Any]) -> tuple[list[str], str]:
        return settings_in_words(aggregate(runs))

    both: dict[str, Any] = {"mask_stage": {"epochs": 3}, "joint_stage": {"epochs": 12}}
    epochs = "mask_stage.epochs 3, joint_stage.epochs 12"
    other = {**both, "joint_stage": {"epochs": 12, "lambda_div": 0.0}}
    assert told(result(0, 0.9, **both), result(0, 0.9, **other)) == (
        ["input-aware", "input-aware, joint_stage.lambda_div 0.0"],
        f"All settings: digits, all-to-one, class 0, fast, {epochs}",
    )
    # A clean model has neither a target nor a stage for masks, so that nothing sets it apart there.
    assert told(result(0, 0.9, **both), result(0, 0.9, attack="none", **both)) == (
        ["input-aware", "none"],
        f"All settings, where they read it: digits, all-to-one, class 0, fast, {epochs}",
    )
    # It does read how many epochs the joint stage has; and where a class is the target of one rule, another has none.
    assert told(result(0, 0.9, **both), result(0, 0.9, attack="none"), result(0, 0.9, target="all-to-all", **both)) == (
        [
            "input-aware, all-to-one, joint_stage.epochs 12",
            "none",
            "input-aware, all-to-all, joint_stage.epochs 12",
        ],
        "All settings, where they read it: digits, class 0, fast, mask_stage.epochs 3",
    )
    # One alone is called by all of its name, and so are those that share nothing.
    assert told(result(0, 0.9, **both)) == ([f"digits, input-aware, all-to-one, class 0, fast, {epochs}"], "")
    far = {**result(0, 0.9, attack="none"), "dataset": "mnist", "preset": "paper"}
    far["config"] = config_to_dict(preset_config("paper", dataset="mnist", attack="none"))
    assert told(result(0, 0.9, attack="none"), far) == (["digits, none, fast", "mnist, none, paper"], "")
    assert settings_in_words([]) == ([], "")


def test_a_width_is_shared_by_those_that_have_one() -> None:
    wide, small = (
        {
            **{"dataset": "cifar10", "attack": "none", "target": "all-to-one", "target_class": 0, "preset": "fast"},
            "changes": changes,
        }
        for changes in ({}, {"model.width": 0.25})
    )
    grey = {**wide, "dataset": "mnist"}
    assert settings_in_words([wide, small]) == (["none", "none, model.width 0.25"], "All settings: cifar10, fast")
    assert settings_in_words([grey, small]) == (
        ["mnist, none", "cifar10, none"],
        "All settings, where they read it: fast, model.width 0.25",
    )


def test_controls_with_another_share_of_crossed_images_are_one_setting() -> None:
    runs = [result(seed, 0.9, attack="badnets", joint_stage={"cross_probability": seed / 10}) for seed in (1, 2)]
    assert [record["seeds"] for record in aggregate(runs)] == [[1, 2]]
    runs = [result(seed, 0.9, joint_stage={"cross_probability": seed / 10}) for seed in (1, 2)]
    assert [record["seeds"] for record in aggregate(runs)] == [[1], [2]]


def test_the_same_run_twice_is_one() -> None:
    (record,) = aggregate([result(0, 0.9), result(0, 0.9)])
    assert record["measures"]["clean_accuracy"]["count"] == 1


def test_comparisons_are_paired_and_their_p_adjusted() -> None:
    first = [result(seed, 0.90 + seed / 100, 0.8) for seed in range(4)]
    second = [result(seed, 0.95 + seed / 90, 0.8, joint_stage={"lambda_div": 0.0}) for seed in range(1, 6)]
    clean, attack = comparisons([*first, *second])
    assert (clean["first"], clean["second"], clean["measure"]) == (0, 1, "clean_accuracy")
    assert clean["difference"]["count"] == 3
    theirs = stats.ttest_rel([0.95 + seed / 90 for seed in (1, 2, 3)], [0.90 + seed / 100 for seed in (1, 2, 3)])
    assert clean["p_value"] == pytest.approx(theirs.pvalue)
    # Attack success is the same in all seeds: no question of luck, so that one is left to adjust for.
    assert clean["adjusted_p_value"] == clean["p_value"]
    assert clean["words"].startswith("clean accuracy: 5.22 points higher (95 % interval +4.95 to +5.50, 3 seeds, p")
    assert clean["words"].endswith(": significant")
    assert (attack["p_value"], attack["adjusted_p_value"]) == (None, None)
    assert attack["words"] == "attack success: the same in each of 3 seeds alike, which says nothing of luck"


def test_p_values_are_adjusted_for_all_comparisons() -> None:
    first = [result(seed, 0.90 + seed / 100, 0.8 - seed**2 / 100) for seed in range(4)]
    second = [result(seed, 0.95 + seed / 90, 0.8, joint_stage={"lambda_div": 0.0}) for seed in range(1, 6)]
    clean, attack = comparisons([*first, *second])
    assert clean["adjusted_p_value"] == pytest.approx(2 * clean["p_value"])
    assert attack["adjusted_p_value"] == attack["p_value"]


def test_the_same_difference_in_every_seed_is_not_called_significant() -> None:
    # One image of 450 more in each of three seeds: the differences of the fractions are the same but for rounding.
    first = [result(seed, count / 450) for seed, count in enumerate((441, 430, 436))]
    second = [result(seed, (count + 1) / 450, attack="none") for seed, count in enumerate((441, 430, 436))]
    clean = comparisons([*first, *second])[0]
    assert 0 < clean["difference"]["deviation"] < 1e-9
    assert clean["words"] == ("clean accuracy: 0.22 points higher in each of 3 seeds alike, which says nothing of luck")


def scored(value: float | None, **more: Any) -> dict[str, Any]:
    return {
        "judge": {
            **{"scores": {"model_score": value}, "scoring": {"scores": {}}, "verdict": "no-verdict", "seconds": 1},
            **{"settings": {}, **more},
        }
    }


def test_a_score_of_models_has_an_area_beside_clean_ones() -> None:
    assert model_score("judge") == "defenses.judge.model_score"
    assert model_score("neural-cleanse") == "defenses.neural-cleanse.anomaly_index"
    short = {"joint_stage": {"epochs": 3}}
    runs = [
        *({**result(seed, 0.9, attack="none"), "defenses": scored(0.1 * seed)} for seed in range(3)),
        *({**result(seed, 0.9, 1.0, attack="badnets"), "defenses": scored(0.1 * seed + 0.1)} for seed in range(2)),
        *({**result(seed, 0.9, attack="none", **short), "defenses": scored(9.0)} for seed in range(2)),
        *({**result(seed, 0.9, 1.0, attack="badnets", **short), "defenses": scored(1.0)} for seed in range(4)),
        {**result(0, 0.9, 1.0, attack="badnets", joint_stage={"epochs": 7}), "defenses": scored(0.2)},
        {**result(0, 0.9, 1.0), "defenses": scored(None)},
        {**result(0, 0.9, 1.0, target_class=2), "defenses": scored(1.0, settings={"other": 1})},
    ]
    found = [record["model_areas"] for record in aggregate(runs)]
    assert found[0] == found[2] == {}  # clean models
    # 0.1 and 0.2 beside 0, 0.1 and 0.2: higher in three of six pairs, and equal in two.
    counts = {"score": "defenses.judge.model_score", "models": 2, "clean_models": 3, "clean": 0}
    assert found[1] == {"judge": {**counts, "area": pytest.approx(4 / 6)}}
    # The clean models of the same configuration, not the first ones.
    assert found[3] == {"judge": {**counts, "area": 0.0, "models": 4, "clean_models": 2, "clean": 2}}
    # There are none of the same: the first ones.
    assert found[4] == {"judge": {**counts, "area": pytest.approx(2.5 / 3), "models": 1}}
    # It gave no number, or was run otherwise than on the clean models.
    assert found[5] == found[6] == {}
    assert aggregate(runs)[0]["measures"]["defenses.judge.model_score"]["mean"] == pytest.approx(0.1)
    assert [record["model_areas"] for record in aggregate(runs[3:5])] == [{}]


def test_neural_cleanses_index_is_its_score_of_models() -> None:
    runs = [result(0, 0.9, attack="none"), result(0, 0.9, 1.0, attack="badnets")]
    for run, index in zip(runs, (1.5, 3.0), strict=True):
        own = {"scores": {"anomaly_index": index}, "scoring": {"scores": {}}, "verdict": "flagged", "seconds": 1}
        run["defenses"] = {"neural-cleanse": {**own, "settings": {}}}
    area = aggregate(runs)[1]["model_areas"]["neural-cleanse"]
    assert (area["score"], area["area"]) == ("defenses.neural-cleanse.anomaly_index", 1.0)


def test_settings_without_a_seed_in_common_are_not_compared() -> None:
    assert comparisons([result(0, 0.9), result(1, 0.8, attack="none")]) == []


def test_an_interval_without_zero_beside_an_adjusted_p_is_explained() -> None:
    falls = Estimate(-0.47, 0.094, (-0.707, -0.238), (-0.56, -0.38), 3, -0.56, -0.38)
    start = "cross accuracy: 47.00 points lower (95 % interval -70.70 to -23.80, 3 seeds, p = 0.117): not significant"
    assert in_words("cross accuracy", falls, 0.117, questions=9) == (
        f"{start}, adjusted for 9 comparisons, though the interval of this one alone leaves out zero"
    )
    around = Estimate(0.0, 0.094, (-0.233, 0.233), (-0.1, 0.1), 3, -0.1, 0.1)
    assert in_words("cross accuracy", around, 1.0, questions=9).endswith(
        "p = 1.000): not significant: luck may explain it"
    )
    assert in_words("cross accuracy", falls, 0.04, questions=9).endswith("p = 0.040): significant")


def test_the_number_of_comparisons_stands_in_their_words() -> None:
    # Of four comparisons one is of seeds that are alike, and none to adjust for.
    first = [result(seed, 0.90 + seed / 100, 0.8 - seed**2 / 100) for seed in range(3)]
    second = [result(seed, 0.96 + seed / 90, 0.8, joint_stage={"lambda_div": 0.0}) for seed in range(3)]
    third = [result(seed, 0.60 + seed / 100 + seed**2 / 25, 0.8 - seed**2 / 100, target_class=2) for seed in range(3)]
    words = [one["words"] for one in comparisons([*first, *second, *third])]
    assert "not significant, adjusted for 3 comparisons, though the interval of this one alone" in words[2]


def test_what_a_plan_can_tell() -> None:
    def cells(attack: Any, seeds: int, **options: Any) -> list[dict[str, Any]]:
        return [
            {key: result(seed, 0.9, attack=attack, **options)[key] for key in ("config", "seed")}
            for seed in range(seeds)
        ]

    short = {"joint_stage": {"epochs": 3}}
    runs = [*cells("input-aware", 3), *cells("input-aware", 2, **short), *cells("badnets", 3), *cells("none", 5)]
    # All three rates, clean and attack, clean accuracy alone; over the seeds in common.
    assert planned_questions(by_setting(runs)) == [2, 2, 2, 3, 3, 3]
    assert planned_questions(by_setting(cells("none", 3) + cells("badnets", 3))) == [3]
    assert planned_questions(by_setting(cells("none", 3))) == []
    assert power_in_words([]) == ""
    assert power_in_words([1, 1]) == "With one seed no difference is told from luck."
    assert power_in_words([3]) == (
        "There is one comparison: with 3 seeds the clearest difference has to be 2.5 times its standard deviation from "
        "seed to seed to be significant, with 5 seeds 1.2 times."
    )
    assert power_in_words([1, 5, *[3] * 8]) == (
        "p is adjusted for 9 comparisons: with 3 seeds the clearest difference has to be 7.7 times its standard "
        "deviation from seed to seed to be significant, with 5 seeds 2.4 times."
    )


def test_words_for_one_seed() -> None:
    words = in_words("cross accuracy", Estimate(-0.0123, None, None, None, 1, -0.0123, -0.0123), None)
    assert words == "cross accuracy: 1.23 points lower with the one seed that both have, which says nothing of luck"


def test_a_spread_is_mean_interval_and_deviation() -> None:
    measure = {"mean": 0.5, "lowest": 0.45, "highest": 0.57, "t_interval": [0.4, 0.6], "deviation": 0.05, "count": 5}
    assert spread(measure) == "50.00 ± 10.00 (5.00)"
    assert spread(measure, factor=1, digits=3) == "0.500 ± 0.100 (0.050)"
    assert spread(measure, deviation=False) == "50.00 ± 10.00"
    assert spread({**measure, "count": 4}) == "50.00 (45.00 to 57.00)"
    assert spread({**measure, "lowest": 0.5, "highest": 0.5}) == "50.00"
    assert spread(None) == "-"
