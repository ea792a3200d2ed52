"""The command ``inputaware sweep``: the plan, mistakes found before anything starts, and what a person sees."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from inputaware.cli import main
from inputaware.console.displays import SweepDisplay
from inputaware.console.tables import sweep_tables
from inputaware.sweeps.progress import CellState


def test_the_plan_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("base: {dataset: digits, seed: [0, 1]}\nruns: [{attack: badnets}, {attack: none}]\n")
    capsys.readouterr()
    arguments = ["sweep", str(file), "--output", str(tmp_path / "sweep"), "--set", "joint_stage.epochs=3,4", "--plan"]
    assert main([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [
        (row["config"]["attack"], row["config"]["seed"], row["config"]["joint_stage"]["epochs"]) for row in rows
    ] == [(attack, seed, epochs) for attack in ("badnets", "none") for seed in (0, 1) for epochs in (3, 4)]
    assert main([*arguments, "--seed", "5"]) == 0
    out = capsys.readouterr().out
    assert "4 cells" in out
    assert "4 settings" in out
    # Of four settings three are compared with the first: by clean accuracy, and one by attack success too.
    assert "With one seed no difference is told from luck." in " ".join(out.split())
    assert main([*arguments, "--seed", "5", "6", "7"]) == 0
    out = capsys.readouterr().out
    assert "p is adjusted for 4 comparisons: with 3 seeds" in " ".join(out.split())
    # Each setting with what it differs in, and its seeds.
    words = " ".join(out.replace("│", " ").split())
    assert "badnets, joint_stage.epochs 3 5 6 7" in words
    assert "All settings, where they read it: digits, all-to-one, class 0, fast 12 cells, 4 settings" in words
    file = tmp_path / "none.yaml"
    file.write_text("base: {dataset: digits}\ndefenses: [strip]\ndefense_settings: {strip: {images: 7}}\n")
    assert main(["sweep", str(file), "--set", "strip.overlays=20", "--plan", "--output", str(tmp_path / "sweep")]) == 0
    assert "Each run meets strip: images 7, false_rejection_rate 0.01, overlays 20\n" in capsys.readouterr().out
    assert not (tmp_path / "sweep").exists()


def test_final_probabilities_alone_are_told_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = {"configurations": [], "comparisons": [], "broken": {}}
    monkeypatch.setattr("inputaware.sweeps.cluster.run_sweep", lambda *args, **options: summary)
    (tmp_path / "sweep" / "runs").mkdir(parents=True)
    arguments = ["sweep", "--dataset", "digits", "--seed", "0", "1", "--output", str(tmp_path / "sweep"), "--json"]
    shares = ["--set", "joint_stage.cross_probability=0,0.2,0.1"]
    for more in (["--plan"], []):
        assert main([*arguments, *more, *shares]) == 0
        out, err = capsys.readouterr()
        json.loads(out)
        assert [line.partition(" holds ")[0] for line in err.splitlines()] == [
            f"inputaware: joint_stage.cross_probability {final}" for final in ("0", "0.2")
        ]
        assert main([*arguments, *more, *shares, "joint_stage.initial_cross_probability=0"]) == 0
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "digits", "--attack", "bad"], "attack: expected one of input-aware, badnets, none, or"),
        (["--dataset", "digits", "--set", "epochs=3"], "epochs: unknown option; expected one of dataset, attack"),
        (["--dataset", "digits", "--defenses", "strap"], "defenses: expected all, some of neural-cleanse"),
        ([], "dataset: expected digits, mnist, cifar10, gtsrb or the path of a folder in every grid; found none"),
    ],
)
def test_mistakes_are_found_before_anything_starts(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *arguments, "--output", str(tmp_path / "sweep")]) == 2
    assert capsys.readouterr().err.startswith(f"inputaware: {message}")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("yaml", "sweep: expected PyYAML, of the extra 'cluster', to read a file; found none"),
        ("ray", "sweep: expected Ray, of the extra 'cluster'; found none"),
    ],
)
def test_without_the_extra_it_says_what_to_install(
    package: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    file = tmp_path / "sweep.yaml"
    assert main(["sweep", str(file), "--output", str(tmp_path / "sweep")]) == 2
    assert f"{file}: expected a sweep's YAML file; found: No such file or directory" in capsys.readouterr().err
    file.write_text("base: {dataset: digits}")
    assert main(["sweep", str(tmp_path / "sweep.yaml"), "--output", str(tmp_path / "sweep")]) == 2
    assert (
        capsys.readouterr().err
        == f"inputaware: {message}; in the checkout: pip install -c constraints.txt -e '.[cluster]'\n"
    )


@pytest.mark.parametrize(("name", "words"), [("config.json", "a run"), ("notes.txt", "other files")])
def test_a_folder_of_something_else_is_refused(
    name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "folder"
    (output / "runs" if name == "config.json" else output).mkdir(parents=True)
    (output / name).write_text("{}")
    assert main(["sweep", "--dataset", "digits", "--output", str(output)]) == 2
    assert capsys.readouterr().err == (
        f"inputaware: output: expected a new or empty folder, or a sweep's; found {str(output)!r} with {words} in it; "
        "choose another one\n"
    )
    assert name in {path.name for path in output.iterdir()}
    assert not (output / "summary.json").exists()


def test_run_folders_of_other_sweeps_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = {"configurations": [], "comparisons": [], "broken": {}}
    monkeypatch.setattr("inputaware.sweeps.cluster.run_sweep", lambda *args, **options: summary)
    runs = tmp_path / "sweep" / "runs"
    (runs / "digits-of-another-sweep").mkdir(parents=True)
    assert main(["sweep", "--dataset", "digits", "--output", str(tmp_path / "sweep")]) == 0
    assert capsys.readouterr().err == (
        f"inputaware: 1 run folder of other sweeps in {runs}: results.parquet, results.csv and summary.json are now of "
        "this command's cells alone\n"
    )


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    output = tmp_path / "file" / "sweep"
    assert main(["sweep", "--dataset", "digits", "--output", str(output)]) == 2
    assert capsys.readouterr().err == (
        f"inputaware: output: expected a path beneath a folder; found '{output}/summary.json' beneath the file "
        f"'{tmp_path}/file'; choose another one\n"
    )


def test_a_ray_that_does_not_start_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray", reason="Ray, of the extra 'cluster', is not installed")

    def fail(**options: object) -> None:
        raise RuntimeError("no ports left\nand more")

    monkeypatch.setattr(ray, "init", fail)
    assert main(["sweep", "--dataset", "digits", "--output", str(tmp_path / "sweep")]) == 2
    assert capsys.readouterr().err == (
        "inputaware: sweep: expected Ray to start on this machine; found: no ports left\n"
    )
    assert not (tmp_path / "sweep").exists()


STATES = {
    "done": CellState("g", "finished", seconds=61.0),
    "kept": CellState("g", "kept"),
    "at work": CellState("g", "running", "joint", 0.5, 30.0, 2, "10.0.0.1:77"),
    "[b]odd[/b]": CellState("g", "broken", error="it is [red]broken[/red]"),
    "later": CellState("g"),
}


def test_the_table_shows_what_matters_and_escapes_names() -> None:
    console = Console(file=StringIO(), width=200)
    console.print(SweepDisplay(console).table(STATES, 1))
    found = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [line for line in found.split("\n") if "│" in line]
    order = ["at work", "[b]odd[/b]", "later", "done", "kept"]
    assert [word for line in lines for word in STATES if word in line] == order
    assert "10.0.0.1:77" in found
    assert "it is [red]broken[/red]" in found
    # 30 s of the running one, and what the waiting one takes: the mean of 61 s and 60 s.
    assert "2 of 5 cells done (1 of them before), 1 running, 1 broken; left: 0:01:30" in found


def test_without_a_terminal_each_cell_that_ends_has_a_line() -> None:
    console = Console(file=StringIO(), width=200)
    with SweepDisplay(console) as display:
        display.watch(STATES, 1)
        display.watch(STATES, 1)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.partition(";")[0] for line in lines] == [
        "done: finished",
        "[b]odd[/b]: broken: it is [red]broken[/red]",
    ]


def test_tables_of_a_summary() -> None:
    measure = {"mean": 0.5, "lowest": 0.46, "highest": 0.54, "count": 2}
    setting: dict[str, Any] = {
        "dataset": "digits",
        "attack": "none",
        "target": "all-to-one",
        "target_class": 0,
        "preset": "fast",
        "changes": {"joint_stage.epochs": 3},
        "seeds": [0, 1],
        "measures": {"clean_accuracy": measure},
    }
    defended: dict[str, Any] = {
        "defenses.strip.scoring.false_acceptance_rate": measure,
        "defenses.mine.flagged": {"mean": 0.5, "count": 2},
    }
    # A defense that refuses everything lets no trigger pass: what it does to clean images stands beside that.
    setting["measures"] = {
        "clean_accuracy": measure,
        "defenses.strip.scoring.false_rejection_rate": {**measure, "mean": 0.02, "lowest": 0.01, "highest": 0.03},
    }
    defended["defenses.strip.scoring.auroc"] = {**measure, "mean": 0.98765, "lowest": 0.98, "highest": 0.99}
    summary = {
        "configurations": [setting, {**setting, "attack": "badnets", "measures": defended}],
        "comparisons": [
            {"first": 0, "second": 1, "words": "clean accuracy: the same", "p_value": 0.5, "difference": {"count": 2}}
        ],
    }
    console = Console(file=StringIO(), width=200)
    for table in sweep_tables(summary):
        console.print(table)
    found = console.file.getvalue()  # type: ignore[attr-defined]
    shared = "All settings, where they read it: digits, all-to-one, class 0, fast, joint_stage.epochs 3"
    assert shared in " ".join(found.split())
    assert "50.00 (46.00 to 54.00)" in found
    assert "clean accuracy: the same" in found
    assert "There is one comparison: with 2 seeds" in found
    lines = [" ".join(line.replace("│", " ").split()) for line in found.split("\n")]
    assert "badnets triggers that pass STRIP 50.00 (46.00 to 54.00)" in lines
    assert "area under the curve of STRIP 0.988 (0.980 to 0.990)" in lines
    assert "mine flags 1 of 2" in lines
    assert "none clean images that STRIP refuses 2.00 (1.00 to 3.00)" in lines
    undefended = {**setting, "measures": {"clean_accuracy": measure}}
    assert len(sweep_tables({**summary, "configurations": [undefended], "comparisons": []})) == 1


def test_runs_in_doubt_are_marked_in_the_tables() -> None:
    measure = {"mean": 0.5, "lowest": 0.46, "highest": 0.54, "count": 2}
    setting: dict[str, Any] = {
        **{"dataset": "digits", "attack": "none", "target": "all-to-one", "target_class": 0, "preset": "fast"},
        **{"changes": {}, "seeds": [0, 1], "measures": {"clean_accuracy": measure}},
    }
    weak = {**setting, "attack": "badnets", "doubted_seeds": [1], "doubts": ["It is weak with 1 of 2 seeds (1)."]}
    summary = {
        "configurations": [{**setting, "doubted_seeds": [], "doubts": []}, weak],
        "comparisons": [{"first": 0, "second": 1, "words": "clean accuracy: the same"}],
    }
    console = Console(file=StringIO(), width=200)
    for table in sweep_tables(summary):
        console.print(table)
    lines = [" ".join(line.split()) for line in console.file.getvalue().split("\n")]  # type: ignore[attr-defined]
    told = lines.index("Runs in doubt are in all means and differences:")
    assert lines[told + 1] == "badnets: It is weak with 1 of 2 seeds (1)."
    marked = "badnets (in doubt: 1 of 2)"
    assert sum(marked in line for line in lines) == 2
    assert sum("(in doubt" in line for line in lines) == 2
