"""What an evaluation says against the model itself: rates that look like a result and are none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inputaware.evaluation.words import in_percent

__all__ = ["doubts"]

_HARDLY_MORE = 0.1
"""Share of what always saying one class gets wrong; a classifier that gets less of it right has learned nothing."""
_TOOK, _WORKS = 0.2, 0.8
"""Attack success rates without images of the target class below which the attack did not take, and is weak.

All-to-all they are shares of the clean accuracy.
"""
_BOTH_STAGES = " Longer training of both stages may help (--mask-stage.epochs, --joint-stage.epochs)."
_KEPT = 0.5
"""Cross accuracy, as a share of the clean one, below which triggers are not each image's own."""


def doubts(evaluation: Mapping[str, Any]) -> list[str]:
    """Return why a model is no example of what it was trained to be, a sentence each; none where it is one.

    A classifier that says the same of every image has an attack success rate of 1 if it is the attacker's class, and a
    model on which the attack did not take is missed by a detector for good reason.

    Args:
        evaluation: what ``evaluation.json`` holds.
    """
    found = []
    images = evaluation["per_class"]["images"]
    clean, constant = evaluation["clean_accuracy"], max(images) / sum(images)
    if clean < constant + _HARDLY_MORE * (1 - constant):
        found.append(
            f"The classifier is right on {in_percent(clean, 1)} of clean images, where always saying one class is "
            f"right on {in_percent(constant, 1)}: it has learned next to nothing, and its other rates mean nothing."
        )
    attack = evaluation["attack_success_rate_excluding_target"]
    # All-to-all, where no image is left out, the attacker's class follows from the image's own, which has to be known.
    reach = clean if attack == evaluation["attack_success_rate"] else 1.0
    if attack is not None and attack < _WORKS * reach:
        verdict = (
            "it did not take, so that a defense that sees nothing here is right."
            if attack < _TOOK * reach
            else "it is weak, and a defense that misses it here may catch it where it works."
        )
        rate = in_percent(attack, 1)
        words = f"The attack works on {rate} of the images that are not of the attacker's class anyway: {verdict}"
        if evaluation["cross_accuracy"] is None:
            words += " Longer training may help (--joint-stage.epochs)."
        else:
            words += _BOTH_STAGES
        found.append(words)
    cross = evaluation["cross_accuracy"]
    if cross is not None and cross < _KEPT * clean:
        found.append(
            f"With another image's trigger only {in_percent(cross, 1)} keep their true label, where "
            f"{in_percent(clean, 1)} have it without: triggers work on other images too, so that a defense that "
            f"catches this model may miss an input-aware one.{_BOTH_STAGES}"
        )
    return found
