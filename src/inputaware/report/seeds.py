"""What runs that differ in their seeds only say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inputaware.evaluation.aggregate import aggregate, by_setting, comparisons, setting_in_words, spread

__all__ = ["SEED_COLUMNS", "over_seeds"]

SEED_COLUMNS = {
    "clean": "clean_accuracy",
    "attack": "attack_success_rate",
    "cross": "cross_accuracy",
    "triggers that pass STRIP": "defenses.strip.scoring.false_acceptance_rate",
    "attack left by pruning": "defenses.fine-pruning.scoring.pruned.attack.attack_success_rate",
    "attack left by fine-tuning": "defenses.fine-pruning.scoring.fine_tuned.attack.attack_success_rate",
    "attack left by the best filter": "defenses.image-regularization.best_filter.attack_success_rate",
}
"""The columns of rates, and where an aggregated setting has each."""

_FLAGGED = "defenses.neural-cleanse.flagged"


def over_seeds(results: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Return the means of each setting that has several seeds, and how settings differ; none where none has.

    Args:
        results: what finished runs publish, by the runs' names on the page.

    Returns:
        ``rows``: of each setting its words, its runs, and its cells. ``differences``: what is compared, seed by seed,
        in words, with the runs of both settings.
    """
    published = list(results.values())
    groups, records = by_setting(published), aggregate(published)
    if all(len(group) < 2 for group in groups):
        return None
    keys = {id(result): key for key, result in results.items()}
    runs = [" ".join(keys[id(result)] for result in group.values()) for group in groups]
    words = [setting_in_words(record) for record in records]
    return {
        "rows": [
            {"setting": words[number], "runs": runs[number], "cells": _cells(record)}
            for number, record in enumerate(records)
            if len(record["seeds"]) > 1
        ],
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


def _cells(record: Mapping[str, Any]) -> Sequence[str]:
    """Return seeds, rates in percent, and how many Neural Cleanse flags."""
    found = record["measures"]
    flagged = found.get(_FLAGGED)
    return [
        ", ".join(map(str, record["seeds"])),
        *(spread(found.get(name)) for name in SEED_COLUMNS.values()),
        "-" if flagged is None else f"{flagged['mean'] * flagged['count']:.0f} of {flagged['count']}",
    ]
