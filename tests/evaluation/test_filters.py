"""Which filter counts: the best one that a defender can afford."""

from __future__ import annotations

from inputaware.evaluation.filters import Filter, best_filter

KNOWN = {
    "original": {"clean_accuracy": 0.9},
    "release": {"k=3": {"clean_accuracy": 0.9}, "k=5": {"clean_accuracy": 0.85}},
    "feature-squeezing": {"k=3": {"clean_accuracy": 0.87}},
}
SCORED = {
    "release": {
        "k=3": {"clean_accuracy": 0.9, "trigger_then_filter": {"attack_success_rate": 0.4}},
        "k=5": {"clean_accuracy": 0.8, "trigger_then_filter": {"attack_success_rate": 0.2}},
    },
    "feature-squeezing": {
        "k=3": {"clean_accuracy": 0.7, "trigger_then_filter": {"attack_success_rate": 0.3}},
    },
}


def test_the_best_filter_is_one_that_a_defender_can_afford() -> None:
    best = best_filter(KNOWN, SCORED)
    assert best == Filter("feature-squeezing", "k=3", 0.7, {"attack_success_rate": 0.3})
    assert best.name == "feature-squeezing, k=3"
    # Of two that leave as much, the one that costs less; a cost of exactly 4 points is allowed, whatever its rounding.
    known = {
        "original": {"clean_accuracy": 0.07},
        "release": {"k=3": {"clean_accuracy": 0.03}, "k=5": {"clean_accuracy": 0.03}},
        "feature-squeezing": {},
    }
    equal = {
        name: {"clean_accuracy": clean, "trigger_then_filter": {"attack_success_rate": 0.2}}
        for name, clean in (("k=3", 0.02), ("k=5", 0.03))
    }
    best = best_filter(known, {"release": equal, "feature-squeezing": {}})
    assert best == Filter("release", "k=5", 0.03, {"attack_success_rate": 0.2})
    clean = {"release": {"k=3": {"trigger_then_filter": None}}, "feature-squeezing": {}}
    assert best_filter(KNOWN, clean) is None
