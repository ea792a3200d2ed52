"""What is read from run folders, and the commands for what is not there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inputaware.defenses.settings import DEFENSES
from inputaware.errors import RunFolderError
from inputaware.report.collect import collect_run
from inputaware.runs.files import read_json

Copy = Callable[..., Path]


@pytest.mark.parametrize("attack", ["input-aware", "badnets", "none"])
def test_a_whole_run_misses_nothing(attack: str, whole_runs: dict[str, Path]) -> None:
    run = collect_run(whole_runs[attack])
    assert run.missing == {}
    assert run.name == attack
    assert run.result is not None
    assert run.result["evaluation"] == read_json(whole_runs[attack] / "evaluation.json")
    assert set(run.defenses) == set(DEFENSES)
    assert run.inspected is not None
    assert len(run.inspected.record["samples"]) == 10
    assert (run.inspected.cross_trigger is None) == (attack == "none")
    assert [row["stage"] for row in run.epochs] == ["mask"] * (attack == "input-aware") + ["joint"] * 2


def test_each_missing_part_has_its_command(copy_of: Copy) -> None:
    folder = copy_of("badnets", "my run's")
    shutil.rmtree(folder / "inspection")
    (folder / "defenses/strip.npz").unlink()
    shown = "'" + str(folder).replace("'", "'\"'\"'") + "'"
    assert collect_run(folder).missing == {
        "inspection": f"inputaware inspect {shown}",
        "strip": f"inputaware defend {shown} strip",
    }
    (folder / "evaluation.json").unlink()
    run = collect_run(folder)
    assert run.missing["evaluation"] == f"inputaware train --resume --output {shown}"
    assert run.result is None
    assert run.defenses == {}
    assert len(run.epochs) == 2


@pytest.mark.parametrize("part", ["cross_trigger.npz", "gallery.npz", "grad_cam.npz", "inspection.json"])
def test_an_inspection_that_lacks_a_part_is_made_again(part: str, copy_of: Copy) -> None:
    folder = copy_of("input-aware")
    (folder / "inspection" / part).unlink()
    run = collect_run(folder)
    assert run.inspected is None
    assert run.missing == {"inspection": f"inputaware inspect {folder} --overwrite"}


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"expected a run folder with a config\.json.*found none in this folder"):
        collect_run(tmp_path)


def test_arrays_are_not_unpickled(copy_of: Copy) -> None:
    folder = copy_of("badnets")
    np.savez(folder / "inspection/gallery.npz", image=np.array([{"code": "here"}], dtype=object))
    with pytest.raises(RunFolderError, match="expected arrays; found: Object arrays cannot be loaded"):
        collect_run(folder)
