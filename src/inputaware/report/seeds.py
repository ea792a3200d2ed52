"""What runs that differ in their seeds only say together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inputaware.evaluation.aggregate import aggregate, by_setting, comparisons, model_score, setting_in_words, spread
from inputaware.evaluation.words import RATES
from inputaware.report.verdict import DEFENSE_TITLES

__all__ = ["defended", "over_seeds"]

_LEFT = {
    "attack left by pruning": "defenses.fine-pruning.scoring.pruned.attack.attack_success_rate",
    "attack left by fine-tuning": "defenses.fine-pruning.scoring.fine_tuned.attack.attack_success_rate",
    "attack left by neuron pruning": "defenses.adversarial-neuron-pruning.scoring.pruned.attack.attack_success_rate",
    "attack left by the best filter": "defenses.image-regularization.best_filter.attack_success_rate",
}
"""The columns of what defenses leave, in the same way."""

_JUDGED = {
    "clean images that {} refuses": ".scoring.false_rejection_rate",
    "triggers that pass {}": ".scoring.false_acceptance_rate",
    "area under the curve of {}": ".scoring.auroc",
    "{} flags": ".flagged",
}
"""What a defense says of images and of models, the built-in ones and others, and where an aggregated setting has it."""


def over_seeds(results: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Return the means of each setting that has several seeds, and how settings differ; none where none has.

    Args:
        results: what finished runs publish, by the runs' names on the page.

    Returns:
        ``columns``: of the table. ``rows``: of each setting its words, its runs, and its cells. ``differences``: what
        is compared, seed by seed, in words, with the runs of both settings. ``twice``: how many runs are left out since
        another one has their setting and seed. ``otherwise``: the defenses that are left out since their settings
        or their code differ from seed to seed.
    """
    published = list(results.values())
    groups, records = by_setting(published), aggregate(published)
    if all(len(group) < 2 for group in groups):
        return None
    counted = sum(len(group) for group in groups)
    keys = {id(result): key for key, result in results.items()}
    runs = [" ".join(keys[id(result)] for result in group.values()) for group in groups]
    words = [setting_in_words(record) for record in records]
    shown = [number for number, record in enumerate(records) if len(record["seeds"]) > 1]
    cells = [_cells(records[number]) for number in shown]
    # Columns that say something of some setting.
    columns = [
        name
        for name in dict.fromkeys(name for row in cells for name in row)
        if any(row.get(name, "-") != "-" for row in cells)
    ]
    otherwise = {name for number in shown for name in records[number]["defended_otherwise"]}
    return {
        "columns": columns,
        "rows": [
            {"setting": words[number], "runs": runs[number], "cells": [row.get(name, "-") for name in columns]}
            for number, row in zip(shown, cells, strict=True)
        ],
        "twice": len(published) - counted,
        "otherwise": sorted(otherwise),
        "differences": [
            {
                "second": words[found["second"]],
                "first": words[found["first"]],
                "words": found["words"],
                "runs": f"{runs[found['first']]} {runs[found['second']]}",
            }
            for found in comparisons(published)
            if found["difference"]["count"] > 1
        ],
    }


def _cells(record: Mapping[str, Any]) -> dict[str, str]:
    """Return seeds, rates in percent, and what defenses say, by the names of columns."""
    return {
        "seeds": ", ".join(map(str, record["seeds"])),
        **{name: _cell(record, path) for name, path in RATES.items()},
        **defended(record),
    }


def defended(record: Mapping[str, Any]) -> dict[str, str]:
    """Return what defenses leave, let pass, and flag, and how they score models, by the names of columns.

    Args:
        record: one of :func:`~inputaware.evaluation.aggregate.aggregate`.
    """
    found = record["measures"]
    # Names of defenses have no dots.
    names = dict.fromkeys(path.split(".")[1] for path in found if path.startswith("defenses."))
    judged, areas = {}, record.get("model_areas", {})
    for words, end in _JUDGED.items():
        for name in names:
            path = f"defenses.{name}{end}"
            if measure := found.get(path):
                judged[words.format(DEFENSE_TITLES.get(name, name))] = (
                    f"{measure['mean'] * measure['count']:.0f} of {measure['count']}"
                    if end == ".flagged"
                    else _cell(record, path, share=end == ".scoring.auroc")
                )
    for name in names:
        title = DEFENSE_TITLES.get(name, name)
        if model_score(name) in found:
            judged[f"model score of {title}"] = _cell(record, model_score(name), share=True)
        if area := areas.get(name):
            judged[f"AUROC of models' scores by {title}"] = (
                f"{area['area']:.3f} ({area['models']} beside {area['clean_models']} clean)"
            )
    return {**{name: _cell(record, path) for name, path in _LEFT.items()}, **judged}


def _cell(record: Mapping[str, Any], path: str, *, share: bool = False) -> str:
    """Return a measure over the seeds, in percent or as a share, and of how many, where it is not of all."""
    measure, seeds = record["measures"].get(path), len(record["seeds"])
    few = measure is not None and measure["count"] < seeds
    words = spread(measure, factor=1, digits=3) if share else spread(measure)
    return words + (f", {measure['count']} of {seeds} seeds" if measure is not None and few else "")
