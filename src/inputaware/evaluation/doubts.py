"""What an evaluation says against the model itself: rates that look like a result and are none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from inputaware.evaluation.words import in_percent

__all__ = ["doubts", "doubts_over_seeds"]

_HARDLY_MORE = 0.1
"""Share of what always saying one class gets wrong; a classifier that gets less of it right has learned nothing."""
_TOOK, _WORKS = 0.2, 0.8
"""Attack success rates without images of the target class below which the attack did not take, and is weak.

All-to-all they are shares of the clean accuracy.
"""
_TRAIN_LONGER = {
    "one stage": "Longer training may help (--joint-stage.epochs).",
    "both stages": "Longer training of both stages may help (--mask-stage.epochs, --joint-stage.epochs).",
}
"""What may help, by how an attack is trained."""
_KEPT = 0.5
"""Cross accuracy, as a share of the clean one, below which triggers are not each image's own."""


class _Doubt(NamedTuple):
    """What an evaluation says against its model.

    Attributes:
        kind: one of :data:`_OVER_SEEDS`.
        sentence: with the model's rates, and what may help.
    """

    kind: str
    sentence: str


_OVER_SEEDS = {
    "learned nothing": "The classifier has learned next to nothing with {}: its other rates mean nothing.",
    "not taken": "The attack did not take with {}: a defense that sees nothing there is right.",
    "not taken, crossed": (
        "The attack did not take with {}: a high cross accuracy is no merit there, and a defense that sees nothing is "
        "right."
    ),
    "weak": "The attack is weak with {}: a defense that misses it there may catch it where it works.",
    "of no image": (
        "Triggers work on other images too with {}: a defense that catches these models may miss an input-aware one."
    ),
}
"""What is said of some of a setting's runs, by kind."""


def doubts(evaluation: Mapping[str, Any], remedy: str | None = None) -> list[str]:
    """Return why a model is no example of what it was trained to be, a sentence each; none where it is one.

    A classifier that says the same of every image has an attack success rate of 1 if it is the attacker's class, and a
    model on which the attack did not take is missed by a detector for good reason.

    Args:
        evaluation: what ``evaluation.json`` holds.
        remedy: a sentence that ends those on the attack, in place of what may help where this package trains.
    """
    return [doubt.sentence for doubt in _doubts(evaluation, remedy)]


def doubts_over_seeds(evaluations: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Return why some of a setting's runs are no example of it, a sentence for each reason, with how many and which.

    Their rates are in the setting's means all the same.

    Args:
        evaluations: what ``evaluation.json`` holds, by seed.
    """
    seeds_of: dict[str, list[int]] = {}
    for seed in sorted(evaluations):
        for doubt in _doubts(evaluations[seed]):
            seeds_of.setdefault(doubt.kind, []).append(seed)
    total = len(evaluations)
    return [
        words.format(
            f"{len(seeds)} of {total} seed{'' if total == 1 else 's'}"
            + ("" if len(seeds) == total > 1 else f" ({', '.join(map(str, seeds))})")
        )
        for kind, words in _OVER_SEEDS.items()
        if (seeds := seeds_of.get(kind))
    ]


def _doubts(evaluation: Mapping[str, Any], remedy: str | None = None) -> list[_Doubt]:
    ends = _TRAIN_LONGER if remedy is None else dict.fromkeys(_TRAIN_LONGER, remedy)
    found = []
    images = evaluation["per_class"]["images"]
    clean, constant = evaluation["clean_accuracy"], max(images) / sum(images)
    if clean < constant + _HARDLY_MORE * (1 - constant):
        words = (
            f"The classifier is right on {in_percent(clean, 1)} of clean images, where always saying one class is "
            f"right on {in_percent(constant, 1)}: it has learned next to nothing, and its other rates mean nothing."
        )
        found.append(_Doubt("learned nothing", words))
    attack, cross = evaluation["attack_success_rate_excluding_target"], evaluation["cross_accuracy"]
    # All-to-all, where no image is left out, the attacker's class follows from the image's own, which has to be known.
    reach = clean if attack == evaluation["attack_success_rate"] else 1.0
    if attack is not None and attack < _WORKS * reach:
        took = attack >= _TOOK * reach
        verdict = (
            "it is weak, and a defense that misses it here may catch it where it works."
            if took
            else "it did not take, so that a defense that sees nothing here is right."
        )
        rate = in_percent(attack, 1)
        words = f"The attack works on {rate} of the images that are not of the attacker's class anyway: {verdict}"
        words += f" {ends['one stage' if cross is None else 'both stages']}"
        failed = "not taken" if cross is None else "not taken, crossed"
        found.append(_Doubt("weak" if took else failed, words))
    if cross is not None and cross < _KEPT * clean:
        words = (
            f"With another image's trigger only {in_percent(cross, 1)} keep their true label, where "
            f"{in_percent(clean, 1)} have it without: triggers work on other images too, so that a defense that "
            f"catches this model may miss an input-aware one. {ends['both stages']}"
        )
        found.append(_Doubt("of no image", words))
    return found
