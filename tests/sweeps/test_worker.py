"""A worker leaves the files that ``inputaware train`` and ``inputaware defend`` leave, and tells how it goes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from robustness.kills import files
from robustness.storage import small_config

from inputaware.api import Run, train
from inputaware.config.record import config_to_dict
from inputaware.defenses.settings import DefenseSettings, StripSettings
from inputaware.errors import DefenseError, RunFolderError
from inputaware.sweeps.worker import CellProgress, run_cell

SETTINGS = DefenseSettings(strip=StripSettings(overlays=3))


def test_a_cell_has_the_files_of_train_and_defend(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    config = small_config(seed=2)
    arguments: dict[str, Any] = {
        "defenses": [("strip", asdict(SETTINGS.strip), None), ("image-regularization", {}, None)],
        "overwrite": False,
        "threads": torch.get_num_threads(),
        "allow_different_machine": False,
    }
    run_cell(config_to_dict(config), str(tmp_path / "cell"), **arguments, tell=lambda *what: told.append(what))
    run = train(config, tmp_path / "run")
    run.defend(["strip", "image-regularization"], SETTINGS, seed=2)
    assert files(tmp_path / "cell") == files(tmp_path / "run")
    assert told[0] == ("mask", 0.0)
    assert list(dict.fromkeys(stage for stage, _ in told))[:2] == ["mask", "joint"]
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    before = files(tmp_path / "cell")
    told.clear()
    run_cell(config_to_dict(config), str(tmp_path / "cell"), **arguments, tell=lambda *what: told.append(what))
    assert files(tmp_path / "cell") == before
    assert told == []
    # An evaluation that was damaged since is made again.
    whole = (tmp_path / "cell" / "evaluation.json").read_bytes()
    (tmp_path / "cell" / "evaluation.json").write_bytes(whole[:100])
    run_cell(config_to_dict(config), str(tmp_path / "cell"), **arguments, tell=lambda *what: None)
    assert files(tmp_path / "cell") == before
    assert Run.load(tmp_path / "cell").folder.finished
    arguments["defenses"] = [("strip", {"overlays": 4}, None)]
    with pytest.raises(RunFolderError, match="found overlays 3 there, 4 here; replace it with --overwrite"):
        run_cell(config_to_dict(config), str(tmp_path / "cell"), **arguments, tell=lambda *what: None)
    assert files(tmp_path / "cell") == before
    arguments["overwrite"] = True
    run_cell(config_to_dict(config), str(tmp_path / "cell"), **arguments, tell=lambda *what: None)
    after = files(tmp_path / "cell")
    example = f"{Path(__file__).parents[2] / 'examples/own_defense.py'}:FeatureSqueezing"
    arguments["defenses"] = [(example, {"side": 5}, "of another day")]
    with pytest.raises(DefenseError) as error:
        run_cell(config_to_dict(config), str(tmp_path / "cell"), **arguments, tell=lambda *what: None)
    assert str(error.value) == (
        f"feature-squeezing: expected the code that the sweep began with in {example}; found other code; start the "
        "sweep again"
    )
    assert files(tmp_path / "cell") == after
    assert {name for name in before if after[name] != before[name]} == {"defenses/strip.json", "defenses/strip.npz"}


def test_shares_count_epochs_and_defenses() -> None:
    told: list[tuple[str, float]] = []
    progress = CellProgress(small_config(), 1, lambda *what: told.append(what))
    progress.stage_started("mask", 2, 4, 0)
    progress.stage_started("joint", 2, 3, 1)  # goes on after the first of its two epochs
    progress.told = float("-inf")
    progress.stepped(3, {})
    progress.told = float("-inf")
    progress.evaluating(0.5)
    progress.told = float("-inf")
    progress.defending(0)("strip", 0.5)
    assert told == [("mask", 0.0), ("joint", 3 / 4 / 2), ("joint", 0.5), ("evaluation", 0.5), ("strip", 0.75)]


def test_it_tells_at_most_once_a_second() -> None:
    told: list[float] = []
    progress = CellProgress(small_config(attack="none"), 0, lambda stage, share: told.append(share))
    progress.stage_started("joint", 2, 100, 0)
    for _ in range(50):
        progress.stepped(1, {})
    assert told == [0.0]
