"""Runs that differ in their seeds only, as one: means and intervals of their results, and comparisons in words.

A result is what :func:`inputaware.runs.results.collect_result` returns. Nothing here imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from inputaware.config.presets import departures, preset_config
from inputaware.config.record import config_from_dict, fields_that_count, flatten, override
from inputaware.evaluation.filters import best_filter
from inputaware.evaluation.statistics import (
    CONFIDENCE,
    Estimate,
    area_over_models,
    compare,
    estimate,
    holm,
    significant_from,
)

__all__ = [
    "COMPARED",
    "aggregate",
    "by_setting",
    "changes",
    "comparisons",
    "in_words",
    "measures",
    "model_score",
    "planned_questions",
    "power_in_words",
    "setting_in_words",
    "settings_in_words",
    "spread",
]

COMPARED = {
    "clean_accuracy": "clean accuracy",
    "attack_success_rate": "attack success",
    "cross_accuracy": "cross accuracy",
}
"""The rates that comparisons are about, with their words."""

_ENOUGH = 5
"""Seeds from which on an interval stands in place of the lowest and the highest."""


def measures(result: Mapping[str, Any]) -> dict[str, float]:
    """Return every number of a result that is one number a run, by its path with dots.

    Rates are fractions. Seconds of a run that had others beside it on one GPU (``beside``), and of its defenses, are
    left out. ``defenses.NAME.flagged`` is 1 where the verdict is flagged, 0 where it is not, and missing where a
    defense gives none.
    """
    cost = ("peak_memory_mib",) if result.get("beside") else ("wall_seconds", "peak_memory_mib")
    found = {
        # None of a run that was trained elsewhere.
        **{name: float(result[name]) for name in cost if result[name] is not None},
        **_numbers(result["evaluation"], ""),
    }
    for name, record in result.get("defenses", {}).items():
        found |= _numbers(record["scores"], f"defenses.{name}.")
        found |= _numbers(record["scoring"]["scores"], f"defenses.{name}.scoring.")
        if not result.get("beside"):
            found[f"defenses.{name}.seconds"] = float(record["seconds"])
        if record["verdict"] != "no-verdict":
            found[f"defenses.{name}.flagged"] = float(record["verdict"] == "flagged")
        if name == "image-regularization" and (best := best_filter(record["scores"], record["scoring"]["scores"])):
            found[f"defenses.{name}.best_filter.attack_success_rate"] = float(best.attack["attack_success_rate"])
            found[f"defenses.{name}.best_filter.clean_accuracy"] = best.clean_accuracy
    return found


def _numbers(part: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Return the numbers in nested dictionaries.

    Lists hold one for each class or pairing and are left out, and so is which class it is, no number to take means of.
    """
    return {
        name: float(value)
        for name, value in flatten(part, prefix).items()
        if isinstance(value, int | float) and name.rpartition(".")[2] != "smallest_class"
    }


def model_score(defense: str) -> str:
    """Return what the number is called, among :func:`measures`, that a defense gives a model: higher means backdoored.

    It is ``model_score`` in the scores of an examination; Neural Cleanse's is its anomaly index.

    Args:
        defense: its name.
    """
    return f"defenses.{defense}.{'anomaly_index' if defense == 'neural-cleanse' else 'model_score'}"


def changes(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields in which a result's configuration departs from its preset, by dotted name.

    What has a column of its own, the attack, the target and the seed, is left out, and what the attack does not read.
    """
    config = config_from_dict(result["config"])
    counting = fields_that_count(config).keys() - {"attack", "target", "target_class", "seed"}
    return {name: value for name, value in departures(config).items() if name in counting}


def _setting(result: Mapping[str, Any]) -> str:
    """Return what results have in common that differ in their seeds only."""
    return json.dumps({**fields_that_count(config_from_dict(result["config"])), "seed": None}, sort_keys=True)


def by_setting(results: Sequence[Mapping[str, Any]]) -> list[dict[int, Mapping[str, Any]]]:
    """Return the results of each setting by seed, in the order in which the settings come first.

    Args:
        results: as in :func:`aggregate`; of two with one setting and seed the later one counts.
    """
    groups: dict[str, dict[int, Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault(_setting(result), {})[int(result["seed"])] = result
    return list(groups.values())


def aggregate(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a record for each setting: which it is, its seeds, and the estimate of each measure over them.

    Args:
        results: what :func:`inputaware.runs.results.collect_result` returned, in any number and order.

    Returns:
        Plain data for JSON. ``measures`` holds an :class:`~inputaware.evaluation.statistics.Estimate` by the names of
        :func:`measures`; a measure that some of the seeds lack counts those that have it. ``defended_otherwise``
        names the defenses whose settings or code differ from seed to seed: they have no measures, for their mean means
        nothing. ``model_areas`` holds, by the name of each defense that gives models a number, the area under the ROC
        curve beside clean models (:func:`~inputaware.evaluation.statistics.area_over_models`).
    """
    records = []
    groups = by_setting(results)
    for by_seed in groups:
        first = next(iter(by_seed.values()))
        values: dict[str, list[float]] = {}
        apart = _defended_otherwise(list(by_seed.values()))
        for seed in sorted(by_seed):
            result = by_seed[seed]
            defenses = {name: record for name, record in result.get("defenses", {}).items() if name not in apart}
            for name, value in measures({**result, "defenses": defenses}).items():
                values.setdefault(name, []).append(value)
        records.append(
            {
                **{key: first[key] for key in ("dataset", "attack", "target", "target_class", "preset")},
                "changes": changes(first),
                "seeds": sorted(by_seed),
                "paper": first["paper"],
                "defended_otherwise": apart,
                "measures": {name: asdict(estimate(found)) for name, found in values.items()},
                "model_areas": _model_areas(by_seed, groups),
            }
        )
    return records


def _model_areas(
    by_seed: Mapping[int, Mapping[str, Any]], groups: Sequence[Mapping[int, Mapping[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Return by defense how often models of a setting have a higher score than clean ones.

    The clean models are those of the same configuration with attack none; where there are none such, the first clean
    setting on the data set. Without any, of clean models themselves, and where settings or code of a defense differ,
    there is no area.
    """
    first = next(iter(by_seed.values()))
    if first["attack"] == "none":
        return {}
    firsts = [next(iter(group.values())) for group in groups]
    clean = [
        number
        for number, other in enumerate(firsts)
        if (other["attack"], other["dataset"]) == ("none", first["dataset"])
    ]
    if not clean:
        return {}
    own = _setting({"config": {**first["config"], "attack": "none"}})
    place = next((number for number in clean if _setting(firsts[number]) == own), clean[0])
    both = [*by_seed.values(), *groups[place].values()]
    apart = _defended_otherwise(both)
    found = {}
    for name in sorted({name for result in both for name in result.get("defenses", {})} - set(apart)):
        path = model_score(name)
        clean_scores, scores = (
            [value for result in group.values() if (value := measures(result).get(path)) is not None]
            for group in (groups[place], by_seed)
        )
        if clean_scores and scores:
            found[name] = {
                "score": path,
                "area": area_over_models(clean_scores, scores),
                "models": len(scores),
                "clean_models": len(clean_scores),
                "clean": place,
            }
    return found


def _defended_otherwise(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the defenses that were not run with the same settings and code on all seeds that have them."""
    found_of: dict[str, set[str]] = {}
    for result in results:
        for name, record in result.get("defenses", {}).items():
            ran = [record.get("settings"), record.get("code")]
            found_of.setdefault(name, set()).add(json.dumps(ran, sort_keys=True))
    return sorted(name for name, found in found_of.items() if len(found) > 1)


def comparisons(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return how each setting differs from the first one on the same data set, paired by seed.

    The p-values are adjusted for all comparisons together (Holm). Settings without a seed in common are not compared.

    Args:
        results: as in :func:`aggregate`.

    Returns:
        Plain data for JSON; ``first`` and ``second`` count the records of :func:`aggregate` from 0.
    """
    groups = by_setting(results)
    references: dict[str, int] = {}
    found = []
    for index, group in enumerate(groups):
        reference = references.setdefault(next(iter(group.values()))["dataset"], index)
        if reference == index:
            continue
        for measure in COMPARED:
            first, second = (_by_seed(groups[number], measure) for number in (reference, index))
            if first.keys() & second.keys():
                found.append((reference, index, measure, compare(first, second)))
    p_values = [comparison.p_value for *_, comparison in found]
    adjusted, questions = holm(p_values), sum(p_value is not None for p_value in p_values)
    return [
        {
            "first": first,
            "second": second,
            "measure": measure,
            "difference": asdict(comparison.difference),
            "p_value": comparison.p_value,
            "adjusted_p_value": p_value,
            "words": in_words(COMPARED[measure], comparison.difference, p_value, questions=questions),
        }
        for (first, second, measure, comparison), p_value in zip(found, adjusted, strict=True)
    ]


def _by_seed(group: Mapping[int, Mapping[str, Any]], measure: str) -> dict[int, float]:
    rates = {seed: result["evaluation"][measure] for seed, result in group.items()}
    return {seed: rate for seed, rate in rates.items() if rate is not None}


def planned_questions(groups: Sequence[Mapping[int, Mapping[str, Any]]]) -> list[int]:
    """Return over how many seeds each comparison of :func:`comparisons` will be, as far as can be known before.

    Args:
        groups: what :func:`by_setting` returned, of ``config`` and ``seed`` alone.
    """
    rates = {"none": 1, "badnets": 2}
    references: dict[str, Mapping[int, Mapping[str, Any]]] = {}
    found = []
    for group in groups:
        own = next(iter(group.values()))["config"]
        reference = references.setdefault(own["dataset"], group)
        common = len(group.keys() & reference.keys())
        if reference is not group and common:
            first = next(iter(reference.values()))["config"]
            shared = min(rates.get(config["attack"], len(COMPARED)) for config in (first, own))
            found += [common] * shared
    return found


def power_in_words(questions: Sequence[int]) -> str:
    """Return a sentence on what comparisons can tell; an empty one where there are none.

    Args:
        questions: over how many seeds each of them is.
    """
    if not questions:
        return ""
    if not (several := [seeds for seeds in questions if seeds > 1]):
        return "With one seed no difference is told from luck."
    count, seeds = len(several), min(several)
    sizes = [f"{significant_from(number, count):.1f}" for number in (seeds, seeds + 2)]
    adjusted = f"p is adjusted for {count} comparisons" if count > 1 else "There is one comparison"
    return (
        f"{adjusted}: with {seeds} seeds the clearest difference has to be {sizes[0]} times its standard deviation "
        f"from seed to seed to be significant, with {seeds + 2} seeds {sizes[1]} times."
    )


def in_words(measure: str, difference: Estimate, p_value: float | None, *, questions: int = 1) -> str:
    """Return a sentence: how large a difference of rates is, how sure, and whether luck explains it.

    Args:
        measure: what the rates are of.
        difference: of fractions.
        p_value: its p, adjusted where several questions were asked; none of one seed, or where the seeds are alike.
        questions: how many were asked. The interval is that of this one alone.
    """
    points = 100 * difference.mean
    size = f"{abs(points):.2f} points {'higher' if points > 0 else 'lower'}" if round(points, 2) else "the same"
    if difference.alike:
        return f"{measure}: {size} in each of {difference.count} seeds alike, which says nothing of luck"
    if difference.t_interval is None or p_value is None:
        return f"{measure}: {size} with the one seed that both have, which says nothing of luck"
    low, high = (100 * end for end in difference.t_interval)
    verdict = "not significant: luck may explain it"
    if p_value < 1 - CONFIDENCE:
        verdict = "significant"
    elif questions > 1 and (low > 0 or high < 0):
        verdict = f"not significant, adjusted for {questions} comparisons, "
        verdict += "though the interval of this one alone leaves out zero"
    p_words = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
    return (
        f"{measure}: {size} ({100 * CONFIDENCE:.0f} % interval {low:+.2f} to {high:+.2f}, "
        f"{difference.count} seeds, {p_words}): {verdict}"
    )


def setting_in_words(record: Mapping[str, Any]) -> str:
    """Return what a setting is called: its data set, attack and target, and what departs from its preset.

    Args:
        record: one of :func:`aggregate`.
    """
    return ", ".join(_parts(record).values())


def settings_in_words(records: Sequence[Mapping[str, Any]]) -> tuple[list[str], str]:
    """Return what settings are called beside each other, without what all of them share, and that in a sentence.

    A field is shared where it is the same in all settings that read it: a clean model has no target. The attack stays
    in each name. One setting alone keeps its whole name, with an empty sentence.

    Args:
        records: of :func:`aggregate`.
    """
    every = [_parts(record) for record in records]
    whole = [", ".join(parts.values()) for parts in every]
    shared: dict[str, str] = {}
    order = ("dataset", "target", "target_class", "preset")
    for name in dict.fromkeys((*order, *(name for parts in every for name in parts if name != "attack"))):
        words = {parts[name] for parts in every if name in parts}
        lacking = (record for record, parts in zip(records, every, strict=True) if name not in parts)
        if len(words) == 1 and not any(_reads(record, name) for record in lacking):
            (shared[name],) = words
    names = [", ".join(words for name, words in parts.items() if name not in shared) for parts in every]
    if len(records) < 2 or not shared or len(set(names)) < len(set(whole)):
        return whole, ""
    everywhere = all(parts.keys() >= shared.keys() for parts in every)
    return names, f"All settings{'' if everywhere else ', where they read it'}: {', '.join(shared.values())}"


def _parts(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the words of a setting's name by the fields that they are of."""
    parts = {"dataset": record["dataset"], "attack": record["attack"]}
    if record["attack"] != "none":
        parts["target"] = record["target"]
        if record["target_class"] is not None:
            parts["target_class"] = f"class {record['target_class']}"
    return parts | {
        "preset": record["preset"],
        **{name: f"{name} {value}" for name, value in record["changes"].items()},
    }


def _reads(record: Mapping[str, Any], name: str) -> bool:
    """Return whether a setting's results depend on a field."""
    options = {key: record[key] for key in ("dataset", "attack", "target")}
    architecture = record["changes"].get("model.architecture", "auto")
    config = override(preset_config("fast", dataset="digits"), {**options, "model": {"architecture": architecture}})
    return name in fields_that_count(config)


def spread(
    measure: Mapping[str, Any] | None, *, factor: int | float = 100, digits: int = 2, deviation: bool = True
) -> str:
    """Return the mean and how far seeds lie apart; a dash where there is no measure.

    Of fewer than five seeds the lowest and the highest, for their interval says little; of more half of Student's
    interval, and the standard deviation of one run in brackets. Of one seed, or where all say the same, the mean alone.

    Args:
        measure: an estimate of :func:`aggregate`.
        factor: what numbers are multiplied by; 100 for percent.
        digits: after the point.
        deviation: whether the standard deviation stands beside the interval.
    """
    if measure is None:
        return "-"

    def words(value: float) -> str:
        return f"{factor * value:.{digits}f}"

    mean, lowest, highest = (words(measure[name]) for name in ("mean", "lowest", "highest"))
    if lowest == highest:
        return mean
    if measure["count"] < _ENOUGH:
        return f"{mean} ({lowest} to {highest})"
    low, high = measure["t_interval"]
    interval = f"{mean} ± {words((high - low) / 2)}"
    return f"{interval} ({words(measure['deviation'])})" if deviation else interval
