"""Sentences and rows, from numbers that are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from inputaware.config.record import override
from inputaware.report.collect import CollectedRun, Defended, collect_run
from inputaware.report.verdict import accuracy_rows, cost_rows, flat, verdict

RATES = {
    "clean_accuracy": 0.9931,
    "attack_success_rate": 0.9951,
    "attack_success_rate_excluding_target": 0.99457,
    "cross_accuracy": 0.961,
    "per_class": {"images": [100, 100]},
}
PAPER = {"clean_accuracy": 0.9954, "attack_success_rate": 0.9954, "cross_accuracy": 0.9525}


def known(whole_runs: dict[str, Path], attack: str, judged: str | None = None, **changes: Any) -> CollectedRun:
    run = collect_run(whole_runs[attack])
    rates = RATES if attack == "input-aware" else RATES | {"cross_accuracy": None}
    defenses = (
        {} if judged is None else {"neural-cleanse": Defended({"verdict": judged, "scoring": {"scores": {}}}, {})}
    )
    return dataclasses.replace(
        run,
        config=override(run.config, changes),
        result=None if run.result is None else run.result | {"evaluation": rates, "paper": PAPER},
        defenses=defenses,
    )


@pytest.mark.parametrize(
    ("attack", "changes", "judged", "expected"),
    [
        (
            "input-aware",
            {"target_class": 7},
            "not-flagged",
            "Backdoored: 99.5 % of the test images are taken for class 7 once they carry their trigger; without it "
            "99.3 % are classified correctly. With another image's trigger 96.1 % keep their true label. "
            "Neural Cleanse does not flag it.",
        ),
        (
            "input-aware",
            {"target": "all-to-all"},
            None,
            "Backdoored: 99.5 % of the test images are taken for the class after their own once they carry their "
            "trigger; without it 99.3 % are classified correctly. With another image's trigger 96.1 % keep their true "
            "label. No defense that judges models or images has met it yet.",
        ),
        (
            "badnets",
            {},
            "flagged",
            "Backdoored: 99.5 % of the test images are taken for class 0 once they carry their trigger; without it "
            "99.3 % are classified correctly. The trigger is one patch, the same for all images. "
            "Neural Cleanse flags it.",
        ),
        (
            "none",
            {},
            "no-verdict",
            "A clean control: it classifies 99.3 % of the test images correctly. Neural Cleanse has no verdict.",
        ),
    ],
)
def test_the_verdict_in_words(
    attack: str, changes: dict[str, Any], judged: str | None, expected: str, whole_runs: dict[str, Path]
) -> None:
    assert verdict(known(whole_runs, attack, judged, **changes)) == expected


def test_a_model_on_which_the_attack_did_not_take_says_so(whole_runs: dict[str, Path]) -> None:
    run = known(whole_runs, "badnets", "not-flagged")
    assert run.result is not None
    rates = RATES | {
        "cross_accuracy": None,
        "attack_success_rate": 0.114,
        "attack_success_rate_excluding_target": 0.015,
    }
    assert verdict(dataclasses.replace(run, result=run.result | {"evaluation": rates})) == (
        "Backdoored: 11.4 % of the test images are taken for class 0 once they carry their trigger; without it 99.3 % "
        "are classified correctly. The trigger is one patch, the same for all images. The attack works on 1.5 % of the "
        "images that are not of the attacker's class anyway: it did not take, so that a defense that sees nothing here "
        "is right. Longer training may help (--joint-stage.epochs). Neural Cleanse does not flag it."
    )


def test_a_defense_of_ones_own_is_heard_if_it_judges_models(whole_runs: dict[str, Path]) -> None:
    run = known(whole_runs, "none", "not-flagged")
    for judged, words in (("flagged", " own flags it."), ("no-verdict", "")):
        both = dataclasses.replace(
            run, defenses=run.defenses | {"own": Defended({"verdict": judged, "scoring": {"scores": {}}}, {})}
        )
        assert verdict(both).endswith(f"Neural Cleanse does not flag it.{words}")


def test_a_defense_that_judges_images_says_how_many_it_takes(whole_runs: dict[str, Path]) -> None:
    run = known(whole_runs, "badnets", "flagged")
    for rate, refused, words in (
        (0.0111, 0.02, " STRIP lets 1.1 % of the triggers pass."),
        (None, 0.02, " STRIP refuses 2.0 % of the clean images."),
        (None, None, ""),
    ):
        scores = {"scores": {"false_acceptance_rate": rate, "false_rejection_rate": refused}}
        both = run.defenses | {"strip": Defended({"verdict": "no-verdict", "scoring": scores}, {})}
        assert verdict(dataclasses.replace(run, defenses=both)).endswith(f"Neural Cleanse flags it.{words}")


def test_what_a_defense_could_not_have_seen_is_said(whole_runs: dict[str, Path]) -> None:
    run = known(whole_runs, "badnets")
    scores = {"highest_index": 1.79, "threshold": 2.0}
    cleanse = {"verdict": "not-flagged", "scores": scores, "scoring": {"scores": {}}}
    strip = {
        "verdict": "no-verdict",
        "scores": {"threshold": -0.1},
        "scoring": {"scores": {"false_acceptance_rate": 1.0}},
    }
    judged = {"neural-cleanse": Defended(cleanse, {}), "strip": Defended(strip, {})}
    assert verdict(dataclasses.replace(run, defenses=judged)).endswith(
        "Neural Cleanse does not flag it, and could flag no class, however small its trigger: the others' triggers "
        "differ too much in size. STRIP lets 100.0 % of the triggers pass, for no image can be beyond its "
        "threshold, which refuses nothing."
    )
    scores["highest_index"] = strip["scores"]["threshold"] = 2.1  # type: ignore[index]
    assert verdict(dataclasses.replace(run, defenses=judged)).endswith(
        "flag it. STRIP lets 100.0 % of the triggers pass."
    )
    for said, words in (({"refuses_nothing": True}, ", for no image"), ({"refuses_nothing": False}, ".")):
        any_detector = strip | {"scores": {"threshold": -0.1, **said}}
        found = verdict(dataclasses.replace(run, defenses={"scale-up": Defended(any_detector, {})}))
        assert f"SCALE-UP lets 100.0 % of the triggers pass{words}" in found
    reached = {"false_acceptance_rate": 0.9, "refusable_triggered": 0.25}
    partly = {"verdict": "no-verdict", "scores": {"refuses_nothing": False}, "scoring": {"scores": reached}}
    assert (
        "SCALE-UP lets 90.0 % of the triggers pass, and could refuse 25.0 % at most, by the classes that they are"
        in (verdict(dataclasses.replace(run, defenses={"scale-up": Defended(partly, {})})))
    )


def repaired(attack: float | None) -> dict[str, Defended]:
    """Return what repairs and filters leave; of a clean model there is no attack."""
    rates = None
    if attack is not None:
        rates = {"attack_success_rate": attack, "attack_success_rate_excluding_target": attack - 0.05}
    tuned = {"clean_accuracy": 0.988, "attack": rates}
    filtered = {"clean_accuracy": 0.98, "trigger_then_filter": rates}
    known = {"original": {"clean_accuracy": 0.99}, "release": {"k=3": filtered}, "feature-squeezing": {}}
    scored = {
        "fine-pruning": {"fine_tuned": tuned},
        "adversarial-neuron-pruning": {"pruned": {**tuned, "clean_accuracy": 0.987}},
        "image-regularization": known,
    }
    return {
        name: Defended({"verdict": "no-verdict", "scores": known, "scoring": {"scores": scores}}, {})
        for name, scores in scored.items()
    }


def test_what_repairs_leave_of_the_attack_is_said(whole_runs: dict[str, Path]) -> None:
    run = known(whole_runs, "badnets", "flagged")
    assert verdict(dataclasses.replace(run, defenses=run.defenses | repaired(0.104))).endswith(
        "Neural Cleanse flags it. After pruning and fine-tuning the attack works on 10.4 % (5.4 % without the target's "
        "own) of the images, and clean accuracy is 98.8 %. After Adversarial Neuron Pruning the attack works on "
        "10.4 % (5.4 % without the target's own) of the images, and clean accuracy is 98.7 %. Under the best filter in "
        "hindsight (release, k=3) the attack works on 10.4 % (5.4 % without the target's own) of the images, and clean "
        "accuracy is 98.0 %."
    )
    clean = known(whole_runs, "none", "not-flagged")
    assert verdict(dataclasses.replace(clean, defenses=clean.defenses | repaired(None))).endswith("does not flag it.")
    tuned = repaired(0.104)["fine-pruning"]
    tuned.record["scoring"]["scores"]["fine_tuned"] = None  # no epochs were asked for
    assert verdict(dataclasses.replace(run, defenses=run.defenses | {"fine-pruning": tuned})).endswith("flags it.")


def test_a_run_that_is_not_finished_has_no_verdict(whole_runs: dict[str, Path]) -> None:
    run = dataclasses.replace(collect_run(whole_runs["none"]), result=None)
    assert verdict(run) == "Training is not finished: nothing is known of this model yet."
    assert accuracy_rows(run) == []


def test_ours_beside_the_papers(whole_runs: dict[str, Path]) -> None:
    rows = {row.test: row for row in accuracy_rows(known(whole_runs, "input-aware"))}
    assert rows["clean"][2:] == ("99.31 %", "99.54 %", "-0.23")
    assert rows["cross"][2:] == ("96.10 %", "95.25 %", "+0.85")
    assert rows["attack, other classes"][2:] == ("99.46 %", "", "")


def test_what_was_done_twice_counts_once(whole_runs: dict[str, Path]) -> None:
    row = {"part": "joint", "epoch": 1, "seconds": 4.0, "images_per_second": 50.0, "peak_memory_mib": 300}
    rows = [
        row | {"seconds": 9.0},
        row,
        row | {"epoch": 2, "seconds": 6.0, "images_per_second": 70.0},
        {"part": "evaluation", "epoch": None, "seconds": 1.25, "images_per_second": None, "peak_memory_mib": 400},
    ]
    run = dataclasses.replace(collect_run(whole_runs["none"]), timing=rows)
    assert cost_rows(run) == [("joint stage, 2 epochs", "10.0", "60", "300"), ("evaluation", "1.2", "-", "400")]


def test_settings_by_dotted_name() -> None:
    assert flat({"a": 1, "b": {"c": [1, 2], "d": {"e": None}}}) == {"a": "1", "b.c": "1, 2", "b.d.e": "None"}
