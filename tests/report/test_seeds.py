"""What runs that differ in their seeds only say together, as data and on the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inputaware.config.fields import AttackName
from inputaware.config.presets import preset_config
from inputaware.config.record import config_to_dict
from inputaware.report import write_report
from inputaware.report.seeds import over_seeds
from inputaware.runs.files import read_json, write_json

Copy = Callable[..., Path]


def result(attack: AttackName, seed: int, clean: float, rate: float | None, flagged: list[int]) -> dict[str, Any]:
    config = preset_config("fast", dataset="digits", attack=attack, seed=seed)
    return {
        **{key: getattr(config, key) for key in ("dataset", "attack", "target", "target_class", "preset", "seed")},
        "config": config_to_dict(config),
        "paper": None,
        "wall_seconds": 1.0,
        "peak_memory_mib": 100,
        "evaluation": {"clean_accuracy": clean, "attack_success_rate": rate, "cross_accuracy": None, "trigger": None},
        "defenses": {
            "neural-cleanse": {
                "verdict": "flagged" if flagged else "not-flagged",
                "scores": {"flagged": flagged},
                "scoring": {"scores": {}},
                "settings": {"rounds": 10},
                "seconds": 2.0,
            }
        },
    }


def test_defenses_of_ones_own_have_columns_too() -> None:
    runs = [result("badnets", seed, 0.9, 1.0, []) for seed in range(3)]
    for number, run in enumerate(runs):
        own = {"settings": {}, "seconds": 1.0, "scores": {}, "scoring": {"scores": {}}}
        if number < 2:
            run["defenses"]["judge"] = {**own, "verdict": "flagged" if number else "not-flagged"}
        scoring = {"scores": {"false_acceptance_rate": number / 10}}
        run["defenses"]["sieve"] = {**own, "verdict": "no-verdict", "scoring": scoring}
    runs.extend(result("none", seed, 0.9, None, []) for seed in range(2))
    found = over_seeds({f"run{number}": run for number, run in enumerate(runs)})
    assert found is not None
    assert found["columns"][-3:] == ["triggers that pass sieve", "Neural Cleanse flags", "judge flags"]
    assert [row["cells"][-3:] for row in found["rows"]] == [
        ["10.00 (0.00 to 20.00)", "0 of 3", "1 of 2"],
        ["-", "0 of 2", "-"],
    ]


def test_scores_of_models_have_columns() -> None:
    runs = [result(attack, seed, 0.9, None, []) for attack in ("badnets", "none") for seed in range(2)]
    for number, run in enumerate(runs):
        run["defenses"] = {"judge": {**run["defenses"]["neural-cleanse"], "verdict": "no-verdict"}}
        run["defenses"]["judge"]["scores"] = {"model_score": [0.5, 0.7, 0.6, 0.1][number]}
    found = over_seeds({f"run{number}": run for number, run in enumerate(runs)})
    assert found is not None
    assert found["columns"][-2:] == ["model score of judge", "AUROC of models' scores by judge"]
    assert [row["cells"][-2:] for row in found["rows"]] == [
        ["0.600 (0.500 to 0.700)", "0.750 (2 beside 2 clean)"],
        ["0.350 (0.100 to 0.600)", "-"],
    ]


def test_a_score_within_others_makes_no_column() -> None:
    runs = [result("badnets", seed, 0.9, 1.0, []) for seed in range(2)]
    for run in runs:
        scoring = {"scores": {"group": {"scoring": {"auroc": 0.5}}}}
        own = {"settings": {}, "seconds": 1.0, "scores": {"group": {"flagged": 1}}, "scoring": scoring}
        run["defenses"]["mine"] = {**own, "verdict": "not-flagged"}
    found = over_seeds({f"run{number}": run for number, run in enumerate(runs)})
    assert found is not None
    assert found["columns"] == ["seeds", "clean", "attack", "Neural Cleanse flags", "mine flags"]
    assert found["rows"][0]["cells"][-2:] == ["0 of 2", "0 of 2"]


def test_means_and_differences_of_what_has_several_seeds() -> None:
    found = over_seeds(
        {
            "run0": result("badnets", 0, 0.9, 0.5, [0]),
            "run1": result("none", 0, 0.95, None, []),
            "run2": result("badnets", 1, 1.0, 0.7, []),
            "run3": result("none", 1, 0.97, None, []),
            "run4": result("input-aware", 0, 0.8, 0.4, []),
        }
    )
    assert found is not None
    assert found["rows"] == [
        {
            "setting": "digits, badnets, all-to-one, class 0, fast",
            "runs": "run0 run2",
            "cells": ["0, 1", "95.00 (90.00 to 100.00)", "60.00 (50.00 to 70.00)", "1 of 2"],
        },
        {
            "setting": "digits, none, fast",
            "runs": "run1 run3",
            "cells": ["0, 1", "96.00 (95.00 to 97.00)", "-", "0 of 2"],
        },
    ]
    # No column says nothing.
    assert found["columns"] == ["seeds", "clean", "attack", "Neural Cleanse flags"]
    assert (found["twice"], found["otherwise"]) == (0, [])
    (difference,) = found["differences"]
    assert difference["runs"] == "run0 run2 run1 run3"
    assert (difference["second"], difference["first"]) == (found["rows"][1]["setting"], found["rows"][0]["setting"])
    assert difference["words"].startswith("clean accuracy: 1.00 points higher (95 % interval ")


@pytest.mark.parametrize("otherwise", [{"settings": {"rounds": 20}}, {"code": "of another day"}])
def test_what_was_defended_otherwise_is_left_out_and_named(otherwise: dict[str, Any]) -> None:
    results = {f"run{seed}": result("badnets", seed, 0.9, 0.5, [0]) for seed in range(2)}
    results["run1"]["defenses"]["neural-cleanse"] |= otherwise
    found = over_seeds(results)
    assert found is not None
    assert found["otherwise"] == ["neural-cleanse"]
    assert found["columns"] == ["seeds", "clean", "attack"]


def test_seeds_that_lack_a_number_and_runs_that_stand_there_twice_are_told() -> None:
    results = {f"run{number}": result("badnets", seed, 0.9, 0.5, [0]) for number, seed in enumerate((0, 1, 2, 1))}
    results["run0"]["evaluation"]["attack_success_rate"] = None
    found = over_seeds(results)
    assert found is not None
    assert found["twice"] == 1
    assert found["rows"][0]["runs"] == "run0 run3 run2"
    assert found["rows"][0]["cells"][2] == "50.00, 2 of 3 seeds"


def test_one_seed_of_each_says_nothing_together() -> None:
    assert over_seeds({"run0": result("badnets", 0, 0.9, 0.5, []), "run1": result("none", 1, 0.9, None, [])}) is None
    assert over_seeds({}) is None


def test_the_page_has_them_where_there_are_several_seeds(copy_of: Copy, tmp_path: Path) -> None:
    folders = [copy_of("input-aware", f"seed-{seed}") for seed in range(2)]
    for seed, folder in enumerate(folders):
        config = {key: value for key, value in read_json(folder / "config.json").items() if key != "sha256"}
        write_json(folder / "config.json", {**config, "seed": seed})
    write_report(folders, tmp_path / "several.html")
    page = (tmp_path / "several.html").read_text(encoding="utf-8")
    assert '<a href="#seeds">Over seeds</a>' in page
    assert '<tr data-runs="run0 run1"><th scope="row">digits, input-aware, all-to-one, class 0, fast' in page
    assert page.index('id="seeds"') < page.index('id="verdict-title"')
    write_report(folders[:1], tmp_path / "one.html")
    assert "Over seeds" not in (tmp_path / "one.html").read_text(encoding="utf-8")
