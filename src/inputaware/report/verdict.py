"""What was found, in sentences and in rows of tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

from inputaware.config.fields import Config
from inputaware.config.record import flatten
from inputaware.evaluation.doubts import doubts
from inputaware.evaluation.filters import best_filter
from inputaware.evaluation.words import TESTS, in_percent, reuse_in_words, success_in_words
from inputaware.report.collect import CollectedRun
from inputaware.runs.journal import last_of_each

__all__ = [
    "DEFENSE_TITLES",
    "AccuracyRow",
    "CostRow",
    "accuracy_rows",
    "cost_rows",
    "flat",
    "target_words",
    "verdict",
]

DEFENSE_TITLES: dict[str, str] = {
    "neural-cleanse": "Neural Cleanse",
    "strip": "STRIP",
    "fine-pruning": "Fine-Pruning",
    "image-regularization": "Image regularization",
    "scale-up": "SCALE-UP",
    "beatrix": "Beatrix",
    "adversarial-neuron-pruning": "Adversarial Neuron Pruning",
}
"""How our own defenses are called in text; others by their names."""

_REPAIRED = {
    "fine-pruning": ("fine_tuned", "After pruning and fine-tuning"),
    "adversarial-neuron-pruning": ("pruned", "After Adversarial Neuron Pruning"),
}
"""Of each defense that repairs a model where its scores have the last stage, and how a sentence about it begins."""


class AccuracyRow(NamedTuple):
    """A test with our rate, the paper's and the difference in percentage points; empty where there is none."""

    test: str
    meaning: str
    ours: str
    paper: str
    difference: str


class CostRow(NamedTuple):
    """A part of the work with what it cost."""

    part: str
    seconds: str
    images_per_second: str
    memory: str


def target_words(config: Config, class_names: tuple[str, ...]) -> str:
    """Return what the attacker wants, in a word or two."""
    if config.attack == "none":
        return "no target"
    return config.target if config.target == "all-to-all" else f"all-to-one, class {class_names[config.target_class]}"


def verdict(run: CollectedRun) -> str:
    """Return what was found of a run, in a few sentences."""
    if run.result is None:
        return "Training is not finished: nothing is known of this model yet."
    found = run.result["evaluation"]
    clean = in_percent(found["clean_accuracy"], 1)
    if run.config.attack == "none":
        words = f"A clean control: it classifies {clean} of the test images correctly."
    else:
        wanted = "the class after their own"
        if run.config.target == "all-to-one":
            wanted = f"class {run.spec.class_names[run.config.target_class]}"
        words = (
            f"Backdoored: {in_percent(found['attack_success_rate'], 1)} of the test images are taken for {wanted} once "
            f"they carry their trigger; without it {clean} are classified correctly."
        )
        if found["cross_accuracy"] is not None:
            words += f" With another image's trigger {in_percent(found['cross_accuracy'], 1)} keep their true label."
        elif run.config.attack == "badnets":
            words += " The trigger is one patch, the same for all images."
    return " ".join([words, *reuse_in_words(found), *doubts(found), _judged(run)])


def _judged(run: CollectedRun) -> str:
    """Return what defenses say of the model, and of its images, where they judge one of them."""
    words = {"flagged": "flags it", "not-flagged": "does not flag it", "no-verdict": "has no verdict"}
    judged = [
        f"{DEFENSE_TITLES.get(name, name)} {words[found.record['verdict']]}{_caveat(name, found.record)}."
        for name, found in run.defenses.items()
        if name == "neural-cleanse" or found.record["verdict"] != "no-verdict"
    ]
    for name, found in run.defenses.items():
        scores, title = found.record["scoring"]["scores"], DEFENSE_TITLES.get(name, name)
        passed, refused = scores.get("false_acceptance_rate"), scores.get("false_rejection_rate")
        if isinstance(passed, int | float):
            judged.append(f"{title} lets {in_percent(passed, 1)} of the triggers pass{_caveat(name, found.record)}.")
        elif isinstance(refused, int | float):
            judged.append(f"{title} refuses {in_percent(refused, 1)} of the clean images{_caveat(name, found.record)}.")
    judged = judged or ["No defense that judges models or images has met it yet."]
    return " ".join([*judged, *_left(run)])


def _caveat(name: str, record: Mapping[str, Any]) -> str:
    """Return why a defense could not have said anything else; nothing where it could."""
    known = record.get("scores", {})
    if name == "neural-cleanse" and record["verdict"] == "not-flagged":
        highest = known.get("highest_index")
        if highest is not None and highest <= known["threshold"]:
            return ", and could flag no class, however small its trigger: the others' triggers differ too much in size"
    # Results of STRIP from before there were other detectors do not say it.
    if known.get("refuses_nothing", name == "strip" and known.get("threshold", 1.0) <= 0):
        return ", for no image can be beyond its threshold, which refuses nothing"
    reached = record.get("scoring", {}).get("scores", {}).get("refusable_triggered")
    if reached is not None and reached < 1:
        return f", and could refuse {in_percent(reached, 1)} at most, by the classes that they are taken for"
    return ""


def _left(run: CollectedRun) -> list[str]:
    """Return what is left of the attack on a model that was repaired, and on images that are filtered."""
    left: dict[str, tuple[Mapping[str, float | None], float]] = {}
    for name, (stage, words) in _REPAIRED.items():
        if repair := run.defenses.get(name):
            point = repair.record["scoring"]["scores"][stage]
            if point is not None and point["attack"] is not None:
                left[words] = point["attack"], point["clean_accuracy"]
    if filters := run.defenses.get("image-regularization"):
        best = best_filter(filters.record["scores"], filters.record["scoring"]["scores"])
        if best is not None:
            left[f"Under the best filter in hindsight ({best.name})"] = best.attack, best.clean_accuracy
    return [
        f"{words} the attack works on {success_in_words(attack)} of the images, and clean accuracy is "
        f"{in_percent(accuracy, 1)}."
        for words, (attack, accuracy) in left.items()
    ]


def accuracy_rows(run: CollectedRun) -> list[AccuracyRow]:
    """Return the three tests with the paper's numbers beside them; none where training is not finished."""
    if run.result is None:
        return []
    found, paper = run.result["evaluation"], run.result["paper"] or {}
    rows = []
    for test, key, meaning in TESTS:
        ours, theirs = found[key], paper.get(key)
        difference = "" if ours is None or theirs is None else f"{100 * (ours - theirs):+.2f}"
        rows.append(
            AccuracyRow(test, meaning, in_percent(ours), "" if theirs is None else in_percent(theirs), difference)
        )
    return rows


def cost_rows(run: CollectedRun) -> list[CostRow]:
    """Return what each part of the work cost: training, evaluation, defenses."""
    rows = last_of_each(run.timing)
    found = []
    for part in dict.fromkeys(row["part"] for row in rows):
        own = [row for row in rows if row["part"] == part]
        rates = [row["images_per_second"] for row in own if row["images_per_second"] is not None]
        found.append(
            CostRow(
                f"{part} stage, {len(own)} epoch{'s' if len(own) > 1 else ''}" if rates else part,
                f"{sum(row['seconds'] for row in own):.1f}",
                f"{statistics.median(rates):.0f}" if rates else "-",
                f"{max(row['peak_memory_mib'] for row in own)}",
            )
        )
    return found


def flat(values: dict[str, Any]) -> dict[str, str]:
    """Return nested settings as text by dotted name."""
    return {
        name: ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for name, value in flatten(values).items()
    }
