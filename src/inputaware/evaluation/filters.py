"""What the filters of image regularization are called, and which one counts. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["AFFORDABLE", "FILTER_SETS", "ORDERS", "Filter", "best_filter"]

FILTER_SETS = ("release", "feature-squeezing")
"""The two sets of filters: of the authors' release, and of Xu et al. 2018."""

ORDERS = {"filter_then_trigger": "filter, then trigger", "trigger_then_filter": "trigger, then filter"}
"""The orders in which an image meets filter and trigger, with their words: the paper's, and what a defender can do."""

AFFORDABLE = 0.04
"""Clean accuracy that the filter chosen by :func:`best_filter` may cost."""


class Filter(NamedTuple):
    """A filter of image regularization, and what it leaves where it is laid over the triggered image."""

    kind: str
    label: str
    clean_accuracy: float
    attack: Mapping[str, Any]
    """Rates, as :func:`inputaware.evaluation.metrics.attack_rates` gives them."""

    @property
    def name(self) -> str:
        """What tables and sentences call it."""
        return f"{self.kind}, {self.label}"


def best_filter(known: Mapping[str, Any], scored: Mapping[str, Any]) -> Filter | None:
    """Return the best filter of image regularization; none where no filter qualifies.

    It is the one that, laid over the triggered image, leaves the attack least, of those that cost at most 4 points of
    clean accuracy on the defender's images; of several the one with the best clean accuracy. This is a choice in
    hindsight, by the attack on the test set: a defender, who has no triggers, cannot make it.

    Args:
        known: the scores of the examination, on the defender's images.
        scored: the scores on the test set.
    """
    # Far below one image's share, so that a cost of exactly 4 points is allowed.
    affordable = known["original"]["clean_accuracy"] - AFFORDABLE - 1e-9
    return min(
        (
            Filter(kind, label, found["clean_accuracy"], found["trigger_then_filter"])
            for kind in FILTER_SETS
            for label, found in scored[kind].items()
            if found.get("trigger_then_filter") and known[kind][label]["clean_accuracy"] >= affordable
        ),
        key=lambda best: (best.attack["attack_success_rate"], -best.clean_accuracy, best.name),
        default=None,
    )
