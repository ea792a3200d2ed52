"""The README's table of results, by calling the script as a person does."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inputaware.config.presets import preset_config
from inputaware.config.record import config_to_dict, override
from inputaware.defenses.settings import DEFENSES
from inputaware.runs.files import seal

Runner = Callable[..., subprocess.CompletedProcess[str]]

SCRIPT = Path(__file__).parents[1] / "scripts" / "results-table"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
ATTACKED: dict[str, Any] = {
    "dataset": "mnist",
    "attack": "input-aware",
    "target": "all-to-one",
    "target_class": 0,
    "preset": "fast",
    "seed": 3,
    "evaluation": {
        "clean_accuracy": 0.99,
        "attack_success_rate": 0.98765,
        "cross_accuracy": 0.9,
        "trigger": {"mask_area": 0.1, "mask_distance": 0.25, "pattern_distance": None},
    },
    "paper": {"clean_accuracy": 0.9954, "attack_success_rate": 0.9954, "cross_accuracy": 0.9525},
    "wall_seconds": 61.6,
    "device": "Some CPU",
    "command": "inputaware train --dataset mnist --output runs/mnist",
    "commit": "abc",
}
CLEAN: dict[str, Any] = {
    **ATTACKED,
    "attack": "none",
    "target_class": 0,
    "evaluation": {"clean_accuracy": 0.5, "attack_success_rate": None, "cross_accuracy": None, "trigger": None},
    "paper": None,
}


class Project:
    """A made-up project: a README with two marks, and a folder of results."""

    def __init__(self, folder: Path, run_script: Runner) -> None:
        self.script = run_script
        self.readme = folder / "README.md"
        self.results = folder / "results"
        self.readme.write_text(f"# Name\n\n{BEGIN}\n{END}\n\nThe end.\n", encoding="utf-8")

    def publish(self, name: str, result: object) -> None:
        self.results.mkdir(exist_ok=True)
        (self.results / f"{name}.json").write_text(json.dumps(result), encoding="utf-8")

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.script(SCRIPT, "--page", str(self.readme), "--results", str(self.results), *options)

    def table(self, name: str) -> list[str]:
        """Return the lines of a page that is this table alone."""
        self.readme.write_text(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n", encoding="utf-8")
        assert self.run("--table", name).returncode == 0
        return self.readme.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def project(tmp_path: Path, run_script: Runner) -> Project:
    return Project(tmp_path, run_script)


def test_no_results_yet(project: Project) -> None:
    found = project.run()
    assert (found.returncode, found.stdout) == (0, "README.md, results: no results yet\n")
    assert project.readme.read_text(encoding="utf-8") == f"# Name\n\n{BEGIN}\nNo results yet.\n{END}\n\nThe end.\n"
    assert project.run("--check").returncode == 0


def test_table(project: Project) -> None:
    project.publish("b", {**CLEAN, "beside": 1})
    project.publish("a", ATTACKED)
    found = project.run()
    assert (found.returncode, found.stdout) == (0, "README.md, results: 2 rows written\n")
    lines = project.readme.read_text(encoding="utf-8").split("\n")
    command = "`inputaware train --dataset mnist --output runs/mnist`"
    assert lines[lines.index(BEGIN) + 1 : lines.index(END)] == [
        "| data set | attack | target | preset | seed | clean | attack success | cross "
        "| mask area | mask distance | pattern distance | seconds | device | command |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |",
        "| mnist | input-aware | all-to-one, class 0 | fast | 3 | 99.00 (99.54) | 98.77 (99.54) | 90.00 (95.25) "
        f"| 10.00 | 0.250 | - | 62 | Some CPU | {command} |",
        f"| mnist | none | - | fast | 3 | 50.00 | - | - | - | - | - | 62 (beside 1) | Some CPU | {command} |",
        "",
        "Rates and mask area in percent, the paper's in brackets. Distances: root mean square between two images' "
        "masks or patterns, pixels in [0, 1]. Seconds: the whole command, from reading the data to the finished "
        "evaluation. Beside seconds in brackets: how many others shared the GPU.",
    ]
    assert lines[:2] == ["# Name", ""]
    assert lines[-2] == "The end."


def test_all_to_all_has_no_class(project: Project) -> None:
    project.publish("a", {**ATTACKED, "target": "all-to-all", "target_class": None})
    assert project.run().returncode == 0
    text = project.readme.read_text(encoding="utf-8")
    assert "| input-aware | all-to-all | fast |" in text
    assert "shared the GPU" not in text


DEFENDED: dict[str, Any] = {
    **ATTACKED,
    "defenses": {
        "neural-cleanse": {
            "verdict": "flagged",
            "scores": {"flagged": [0, 3], "anomaly_index": 2.345},
            "seconds": 10.2,
        },
        "strip": {"scoring": {"scores": {"auroc": 0.51, "false_acceptance_rate": 0.987}}, "seconds": 5},
        "fine-pruning": {
            "scoring": {
                "scores": {
                    "pruned_channels": 40,
                    "pruned": {"clean_accuracy": 0.96, "attack": {"attack_success_rate": 0.5}},
                    "fine_tuned": {"clean_accuracy": 0.98, "attack": {"attack_success_rate": 0.25}},
                }
            },
            "seconds": 3,
        },
        "image-regularization": {
            "scores": {
                "original": {"clean_accuracy": 0.9},
                "release": {"k=3": {"clean_accuracy": 0.9}, "k=5": {"clean_accuracy": 0.8}},
                "feature-squeezing": {"k=3": {"clean_accuracy": 0.87}},
            },
            "scoring": {
                "scores": {
                    "release": {
                        "k=3": {"clean_accuracy": 0.9, "trigger_then_filter": {"attack_success_rate": 0.4}},
                        "k=5": {"clean_accuracy": 0.8, "trigger_then_filter": {"attack_success_rate": 0.2}},
                    },
                    "feature-squeezing": {
                        "k=3": {"clean_accuracy": 0.7, "trigger_then_filter": {"attack_success_rate": 0.3}}
                    },
                }
            },
            "seconds": 2,
        },
    },
}


def test_table_of_defenses(project: Project) -> None:
    project.readme.write_text("<!-- defenses:begin -->\n<!-- defenses:end -->\n", encoding="utf-8")
    project.publish("a", DEFENDED)
    project.publish("b", ATTACKED)
    project.publish("c", {**ATTACKED, "beside": 2, "defenses": {"strip": DEFENDED["defenses"]["strip"]}})
    found = project.run("--table", "defenses")
    assert (found.returncode, found.stdout) == (0, "README.md, defenses: 2 rows written\n")
    assert project.readme.read_text(encoding="utf-8").split("\n")[3:5] == [
        "| mnist | input-aware | all-to-one, class 0 | 3 | flagged: class 0, 3 | 2.35 | 0.510 | 98.70 | 40 channels "
        "| 50.00 / 96.00 | 25.00 / 98.00 | 30.00 / 70.00 (feature-squeezing, k=3) | 20 |",
        "| mnist | input-aware | all-to-one, class 0 | 3 | not run | not run | 0.510 | 98.70 | not run "
        "| not run | not run | not run | 5 (beside 2) |",
    ]


def test_a_clean_model_in_the_table_of_defenses(project: Project) -> None:
    defenses = json.loads(json.dumps(DEFENDED["defenses"]))
    defenses["neural-cleanse"] |= {"verdict": "no-verdict", "scores": {"flagged": [], "anomaly_index": None}}
    defenses["strip"]["scoring"]["scores"] = {"auroc": None, "false_acceptance_rate": None}
    for part in ("pruned", "fine_tuned"):
        defenses["fine-pruning"]["scoring"]["scores"][part]["attack"] = None
    for kind in ("release", "feature-squeezing"):
        for scores in defenses["image-regularization"]["scoring"]["scores"][kind].values():
            scores["trigger_then_filter"] = None
    project.publish("a", {**CLEAN, "defenses": defenses})
    assert project.table("defenses")[3] == (
        "| mnist | none | - | 3 | no-verdict | - | - | - | 40 channels | - / 96.00 | - / 98.00 | - | 20 |"
    )


def test_what_many_runs_cost_on_cores_and_on_gpus(project: Project) -> None:
    project.publish("a", {**ATTACKED, "threads": "2", "peak_memory_mib": 512, "wall_seconds": 36.0})
    project.publish("b", {**ATTACKED, "threads": "16", "peak_memory_mib": 700, "wall_seconds": 72.0, "gpus": 1})
    project.publish("c", {"configurations": [], "comparisons": []})
    project.publish("d", {**ATTACKED, "peak_memory_mib": 700, "gpus": 1, "beside": 2})
    assert project.table("cost")[3:5] == [
        "| mnist | input-aware | all-to-one, class 0 | fast | 36 | 2 | 512 | 200 | 0.1 | 16 | - | Some CPU |",
        "| mnist | input-aware | all-to-one, class 0 | fast | 72 | - | 700 | - | - | - | 200 | Some CPU |",
    ]


def test_settings_stand_in_one_order_whatever_their_files_are_called(project: Project) -> None:
    settings: list[dict[str, Any]] = [
        {"dataset": "mnist", "attack": "none"},
        {"dataset": "mnist", "preset": "paper"},
        {"dataset": "/my/dogs"},
        {"dataset": "mnist", "changes": {"joint_stage": {"lambda_div": 0.5}}},
        {"dataset": "mnist", "target": "all-to-all"},
        {"dataset": "/my/cats"},
        {"dataset": "mnist", "target_class": 3},
        {"dataset": "/my/cats", "attack": "badnets"},
        {"dataset": "mnist", "attack": "badnets"},
        {"dataset": "mnist"},
    ]
    for number, setting in enumerate(settings):
        for seed in range(2):
            options = {key: value for key, value in setting.items() if key not in ("preset", "changes")}
            config = preset_config(setting.get("preset", "fast"), seed=seed, **options)
            config = override(config, setting.get("changes", {}))
            named = {key: getattr(config, key) for key in ("dataset", "attack", "target", "target_class", "preset")}
            result = {**ATTACKED, **named, "seed": seed, "config": config_to_dict(config), "peak_memory_mib": 1}
            project.publish(f"{number}-{seed}", result)
    lines = project.table("seeds")
    assert [line.removeprefix("| ").split(" | ")[0] for line in lines[3:13]] == [
        "mnist, input-aware, all-to-one, class 0, fast",
        "mnist, input-aware, all-to-one, class 0, fast, joint_stage.lambda_div 0.5",
        "mnist, input-aware, all-to-one, class 0, paper",
        "mnist, input-aware, all-to-one, class 3, fast",
        "mnist, input-aware, all-to-all, class 0, fast",
        "mnist, badnets, all-to-one, class 0, fast",
        "mnist, none, fast",
        "/my/cats, input-aware, all-to-one, class 0, fast",
        "/my/cats, badnets, all-to-one, class 0, fast",
        "/my/dogs, input-aware, all-to-one, class 0, fast",
    ]
    rows = [line.split(" | ")[:2] for line in project.table("differences")]
    beside = {row[1] for row in rows if row[0].startswith(("| mnist, ", "| /my/"))}
    assert beside == {f"{name}, input-aware, all-to-one, class 0, fast" for name in ("mnist", "/my/cats")}


def test_a_patch_that_is_not_the_usual_one_is_named(project: Project) -> None:
    for patch in ("checkerboard", "white"):
        config = preset_config("fast", dataset="mnist", attack="badnets", patch=patch)
        project.publish(patch, {**ATTACKED, "attack": "badnets", "config": config_to_dict(config)})
    assert project.run().returncode == 0
    lines = project.readme.read_text(encoding="utf-8").splitlines()
    assert [line.split(" | ")[1] for line in lines[5:7]] == ["badnets", "badnets, white"]


def test_what_all_settings_of_a_data_set_change_is_named_once(project: Project) -> None:
    setting: dict[str, Any] = {
        "attack": "input-aware",
        "target": "all-to-one",
        "target_class": 0,
        "preset": "fast",
        "seeds": [0],
        "measures": {},
    }

    def configuration(dataset: str, **changes: object) -> dict[str, Any]:
        return {**setting, "dataset": dataset, "changes": changes}

    small = {"width": 0.25, "flip": True}
    project.publish("a", {"configurations": [configuration("cifar10", **small, epochs=14)], "comparisons": []})
    others = [
        configuration("cifar10", **small, epochs=10),
        configuration("gtsrb", **small, epochs=10),
        configuration("mnist", padding=2),
        configuration("mnist"),
        configuration("digits", batch=64),
        configuration("digits", batch=64),
    ]
    project.publish("b", {"configurations": others, "comparisons": []})
    lines = project.table("seeds")
    start = "input-aware, all-to-one, class 0, fast"
    assert [line.removeprefix("| ").split(" | ")[0] for line in lines[3:10]] == [
        f"cifar10, {start}, epochs 14",
        f"cifar10, {start}, epochs 10",
        f"gtsrb, {start}, width 0.25, flip True, epochs 10",
        f"mnist, {start}, padding 2",
        f"mnist, {start}",
        f"digits, {start}",
        f"digits, {start}",
    ]
    assert lines[11].endswith(" All of cifar10 with `width` 0.25, `flip` True; all of digits with `batch` 64.")


def test_check_writes_nothing(project: Project) -> None:
    project.publish("a", ATTACKED)
    before = project.readme.read_text(encoding="utf-8")
    found = project.run("--check")
    assert found.returncode == 1
    assert found.stderr == (
        f"{project.readme}: the table results is out of date; run scripts/results-table --page {project.readme} "
        f"--results {project.results}\n"
    )
    assert project.readme.read_text(encoding="utf-8") == before
    project.run()
    found = project.run("--check")
    assert (found.returncode, found.stdout) == (0, "README.md, results: 1 rows up to date\n")
    project.publish("a", {**ATTACKED, "seed": 4})
    assert project.run("--check").returncode == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "expected the field 'paper'; found none"),
        ("not JSON", "expected a published result; found: Expecting value: line 1 column 1 (char 0)"),
        ("[1]", "expected a published result; found: a list"),
        (
            json.dumps(seal(CLEAN)).replace("0.5", "0.6"),
            "expected a published result; found: other entries than those whose digest was recorded: the file is "
            "corrupt or was changed",
        ),
    ],
    ids=["field", "json", "list", "changed"],
)
def test_bad_result(project: Project, content: str, message: str) -> None:
    project.publish("a", None)
    (project.results / "a.json").write_text(content, encoding="utf-8")
    found = project.run()
    assert (found.returncode, found.stderr) == (
        2,
        f"results-table: {project.results}/a.json: {message}; publish the run again\n",
    )


def test_a_result_of_an_old_configuration_is_named(project: Project) -> None:
    project.readme.write_text("<!-- seeds:begin -->\n<!-- seeds:end -->\n", encoding="utf-8")
    project.publish("a", {**ATTACKED, "peak_memory_mib": 1, "config": {"dataset": "mnist", "no_more": 1}})
    found = project.run("--table", "seeds")
    assert found.returncode == 2
    assert found.stderr.startswith(f"results-table: {project.results}: expected a published result; found: ")
    assert found.stderr.endswith("; publish the run again\n")


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}\n{BEGIN}"], ids=["none", "begin", "end", "turned"])
def test_marks_must_be_there(project: Project, text: str) -> None:
    project.readme.write_text(text, encoding="utf-8")
    found = project.run()
    assert found.returncode == 2
    assert f"expected a line {BEGIN} and below it a line {END}; found no such pair" in found.stderr


def test_missing_readme(project: Project) -> None:
    project.readme.unlink()
    found = project.run()
    assert found.returncode == 2
    assert "No such file or directory" in found.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            (),
            ["README.md, glance: no results yet", "README.md, glance-defenses: no results yet"],
        ),
        (("--table", "cost"), ["cost.md, cost: no results yet"]),
        (("--page", "docs/sensitivity.md"), ["sensitivity.md, seeds", "sensitivity.md, differences"]),
        (("--page", "docs/presets.md", "--table", "results"), ["presets.md, results: no results yet"]),
    ],
    ids=["all", "one", "page", "both"],
)
def test_tables_that_have_a_place(
    options: tuple[str, ...],
    expected: list[str],
    tmp_path: Path,
    run_script: Runner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "scripts").mkdir()
    script = Path(shutil.copy(SCRIPT, tmp_path / "scripts"))
    for folder in ("epochs", "fine-tuning", "later-defenses", "mask-epochs", "reuse", "small"):
        (tmp_path / "results" / folder).mkdir(parents=True)
    tables = (
        "results",
        "defenses",
        "cost",
        "seeds",
        "seeds-defenses",
        "differences",
        "filters",
        "detectors",
        "repairs",
        "fine-tuning",
        "epochs",
        "reuse",
    )
    marks = "".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in (*tables, "glance", "glance-defenses"))
    pages = {path.relative_to(SCRIPT.parents[1]) for path in SCRIPT.parents[1].glob("docs/**/*.md")} | {
        Path("README.md")
    }
    for page in pages:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page).write_text(marks, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found = run_script(script, *options)
    assert (found.returncode, found.stderr) == (0, "")
    lines = found.stdout.splitlines()
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=False))
    assert len(lines) == (25 if not options else len(expected))
    assert run_script(script, "--check").returncode == int(bool(options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--results", "x"), "--results: expected --page beside it, the page of the table; found none"),
        (
            ("--page", "SECURITY.md"),
            "--page, --table: expected a table of the list in results-table; found none on that page; name its "
            "results with --results",
        ),
    ],
)
def test_a_table_without_a_place(options: tuple[str, ...], message: str, run_script: Runner) -> None:
    found = run_script(SCRIPT, *options)
    assert (found.returncode, found.stderr) == (2, f"results-table: {message}\n")


def test_table_of_filters(project: Project) -> None:
    prefix = "defenses.image-regularization.scoring"
    measures = {
        f"{prefix}.original.clean_accuracy": {"mean": 0.99},
        f"{prefix}.original.attack.attack_success_rate": {"mean": 1.0},
        f"{prefix}.release.k=3.clean_accuracy": {"mean": 0.96},
        f"{prefix}.release.k=3.trigger_then_filter.attack_success_rate": {"mean": 0.1},
    }
    setting = {
        "dataset": "mnist",
        "attack": "badnets",
        "target": "all-to-one",
        "target_class": 0,
        "preset": "fast",
        "changes": {},
    }
    project.publish("a", {"configurations": [{**setting, "seeds": [0], "measures": measures}], "comparisons": []})
    lines = project.table("filters")
    assert [line.split(" | ", 2)[2] for line in lines[3:5]] == [
        "clean | 99.00 | 96.00 | - | - | - | - |",
        "attack, filter then trigger | 100.00 | - | - | - | - | - |",
    ]
    assert "attack, trigger then filter | 100.00 | 10.00 | - | - | - | - |" in lines[5]


def test_tables_of_detectors_and_repairs(project: Project) -> None:
    def rates(name: str, *values: float) -> dict[str, Any]:
        kinds = ("auroc", "false_acceptance_rate", "false_rejection_rate")
        return {
            f"defenses.{name}.scoring.{kind}": {"mean": value, "count": 1, "lowest": value, "highest": value}
            for kind, value in zip(kinds, values, strict=False)
        }

    pruned = "defenses.adversarial-neuron-pruning.scoring.pruned"
    left = {
        f"{pruned}.{name}": {"mean": value, "count": 1, "lowest": value, "highest": value}
        for name, value in (("attack.attack_success_rate", 0.25), ("clean_accuracy", 0.98))
    }
    measures = rates("mine", 0.75, 0.5, 0.02) | rates("beatrix", 0.9, 0.1, 0.01) | rates("strip", 0.6, 0.9, 0.0) | left
    setting = {"dataset": "mnist", "attack": "badnets", "target": "all-to-one", "target_class": 0, "preset": "fast"}
    row = {**setting, "changes": {}, "seeds": [0], "measures": measures}
    project.publish("a", {"configurations": [row], "comparisons": []})
    assert [line.split(" | ", 2)[2] for line in project.table("detectors")[3:6]] == [
        "STRIP | 0.600 | 90.00 | 0.00 |",
        "Beatrix | 0.900 | 10.00 | 1.00 |",
        "`mine` | 0.750 | 50.00 | 2.00 |",
    ]
    assert project.table("repairs")[3].endswith(" | 1 | not run | not run | 25.00 / 98.00 |")


def test_table_of_epochs(project: Project) -> None:
    clean = [0.5, 0.9, 0.8, 0.85, 0.99, 0.96]
    watched = {"clean_accuracy": clean, "attack_success_rate": [None] * 6, "cross_accuracy": [None] * 6}
    project.publish("a", {**CLEAN, "validation_by_epoch": watched})
    project.publish("b", {**CLEAN, "validation_by_epoch": {name: values[:1] for name, values in watched.items()}})
    project.publish("before-it-was-kept", CLEAN)
    lines = project.table("epochs")
    assert [line.split(" | ", 5)[5] for line in lines[3:8]] == [
        "1 | 50.00 | - | - |",
        "2 | 90.00 | - | - |",
        "3 to 5 | 88.00 (80.00 to 99.00) | - | - |",
        "6 | 96.00 | - | - |",
        "1 | 50.00 | - | - |",
    ]
    assert lines[8] == ""


def test_table_of_reuse(project: Project) -> None:
    rows = [{"pairs": 3, "distance": part / 10, "keeps_label": 1.0, "gets_target": 1 / part} for part in range(1, 11)]
    nearest = {"images": 30, "distance": 0.05, "same_class": 0.5, "keeps_label": 0.25, "gets_target": None}
    own = ATTACKED["evaluation"] | {"attack_success_rate_excluding_target": 0.97}
    evaluation = {**own, "reuse": {"nearest": nearest, "by_distance": rows}}
    config = config_to_dict(preset_config("fast", dataset="mnist"))
    project.publish("a", {**ATTACKED, "evaluation": evaluation, "config": config})
    project.publish("before-it-was-measured", ATTACKED)
    few = {"reuse": {"nearest": nearest, "by_distance": rows[:3]}}
    project.publish("few", {**ATTACKED, "evaluation": {**own, **few}, "config": config})
    project.publish("clean", {**CLEAN, "evaluation": {**CLEAN["evaluation"], "reuse": None}})
    lines = project.table("reuse")
    assert lines[3].split(" | ", 4)[4] == (
        "3 | 1.0 | 12 | 97.00 | 90.00 | 50.00 | 25.00 | - (0.05) "
        "| 100.00 (0.10) | 50.00 (0.20) | 20.00 (0.50) | 10.00 (1.00) |"
    )
    assert lines[4].endswith(" | - (0.05) | - | - | - | - |")
    assert lines[5] == ""


def test_table_of_fine_tuning_reads_several_folders(project: Project, tmp_path: Path) -> None:
    def defended(width: float, settings: dict[str, Any], attack: dict[str, float] | None) -> dict[str, Any]:
        tuned = {"clean_accuracy": 0.7, "attack": attack}
        before = {"clean_accuracy": 0.9, "attack": {"attack_success_rate": 0.95} if attack else None}
        pruned = {"clean_accuracy": 0.86, "attack": {"attack_success_rate": 0.94} if attack else None}
        scores = {"original": before, "pruned": pruned, "fine_tuned": tuned}
        held_out = {"original": 0.91, "pruned": 0.87, "fine_tuned": 0.72}
        record = {"settings": settings, "scores": {"held_out_accuracy": held_out}, "scoring": {"scores": scores}}
        return {"config": {"model": {"width": width}}, "defenses": {"fine-pruning": record}}

    plain = {
        "learning_rate": 0.01,
        "schedule": "constant",
        "weight_decay": 0.0,
        "crop_padding": 0,
        "horizontal_flip": False,
    }
    annealed = {
        "learning_rate": 0.03,
        "schedule": "cosine",
        "weight_decay": 0.0005,
        "crop_padding": 4,
        "horizontal_flip": True,
    }
    attack = {"attack_success_rate": 0.2, "attack_success_rate_excluding_target": 0.11}
    project.publish("b", {**ATTACKED, **defended(1.0, plain, attack)})
    project.publish("c", ATTACKED)
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.json").write_text(json.dumps({**CLEAN, **defended(0.25, annealed, None)}), encoding="utf-8")
    project.readme.write_text("<!-- fine-tuning:begin -->\n<!-- fine-tuning:end -->\n", encoding="utf-8")
    found = project.run("--table", "fine-tuning", "--results", str(project.results), str(other))
    assert (found.returncode, found.stdout) == (0, "README.md, fine-tuning: 2 rows written\n")
    numbers = "91.00 / 87.00 / 72.00 | 90.00 / 86.00 / 70.00"
    learning = "learning rate 0.03, cosine, weight decay 0.0005, shifted by 4, mirrored"
    assert project.readme.read_text(encoding="utf-8").splitlines()[3:5] == [
        f"| mnist | input-aware | 3 | 1 | learning rate 0.01, constant | {numbers} | 95.00 / 94.00 / 20.00 | 11.00 |",
        f"| mnist | none | 3 | 0.25 | {learning} | {numbers} | - | - |",
    ]
    found = project.run("--table", "fine-tuning", "--results", str(project.results / "b*.json"), str(other))
    assert found.stdout == "README.md, fine-tuning: 2 rows up to date\n"
    found = project.run("--table", "fine-tuning", "--results", str(project.results / "c*.json"), str(other))
    assert found.stdout == "README.md, fine-tuning: 1 rows written\n"
    again = [str(project.results / "b*.json"), str(project.results), str(other)]
    found = project.run("--table", "fine-tuning", "--results", *again)
    assert found.stdout == "README.md, fine-tuning: 2 rows written\n"
    found = project.run("--table", "fine-tuning", "--results", str(project.results / "no*.json"))
    assert (found.returncode, found.stderr) == (
        2,
        f"results-table: {project.results}/no*.json: expected files of results; found none with such a name\n",
    )
    found = project.run("--table", "fine-tuning", "--results", str(project.results), str(tmp_path / "none"))
    assert (found.returncode, found.stderr) == (
        2,
        f"results-table: {tmp_path}/none: expected a folder of results; found none\n",
    )
    found = project.run("--table", "seeds", "--results", str(project.results), str(other))
    assert found.stderr == "results-table: --results: expected one folder for the table seeds; found 2\n"


def test_tables_for_a_first_reader_have_the_papers_rows_and_ranges(project: Project) -> None:
    def estimate(low: float, high: float) -> dict[str, float]:
        return {"mean": (low + high) / 2, "lowest": low, "highest": high, "count": 2}

    def many(half: float) -> dict[str, Any]:
        return {"mean": 0.9, "lowest": 0.8, "highest": 1.0, "count": 5, "t_interval": [0.9 - half, 0.9 + half]}

    setting = {"dataset": "mnist", "attack": "input-aware", "target": "all-to-all", "preset": "fast", "changes": {}}
    setting["target_class"] = None
    measures: dict[str, Any] = {
        "clean_accuracy": estimate(0.99, 0.99),
        "attack_success_rate": estimate(0.9, 0.98),
        "defenses.neural-cleanse.flagged": {**estimate(0, 1), "count": 2},
        "defenses.strip.scoring.false_acceptance_rate": estimate(0.5, 0.7),
        **{f"defenses.{name}.seconds": estimate(1, 2) for name in DEFENSES},
    }
    rows = [
        {**setting, "seeds": [0, 1], "paper": ATTACKED["paper"], "measures": measures},
        {**setting, "preset": "paper", "changes": {"seeds": 1}, "seeds": [0], "paper": None, "measures": {}},
        {
            **setting,
            "dataset": "digits",
            "seeds": list(range(5)),
            "paper": None,
            "measures": {"clean_accuracy": many(0.0123)},
        },
    ]
    of_two = {name: measures[name] for name in measures if name.startswith(("defenses.strip", "defenses.neural-"))}
    rows.append({**rows[2], "dataset": "gtsrb", "measures": of_two, "defended_otherwise": ["fine-pruning"]})
    project.publish("a", {"configurations": rows, "comparisons": []})
    assert project.table("glance")[3:7] == [
        "| digits: input-aware, all-to-all | ours, 5 seeds | 90.00 ± 1.23 | - | - |",
        "| MNIST: input-aware, all-to-all | ours, 2 seeds | 99.00 | 94.00 (90.00 to 98.00) | - |",
        "| MNIST: input-aware, all-to-all | the paper | 99.54 | 99.54 | 95.25 |",
        "| MNIST: input-aware, all-to-all, preset paper, seeds 1 | ours, 1 seed | - | - | - |",
    ]
    assert project.table("glance-defenses")[3:5] == [
        "| MNIST: input-aware, all-to-all | 1 of 2 | 60.00 (50.00 to 70.00) | - | - | - |",
        "| GTSRB: input-aware, all-to-all | 1 of 2 | 60.00 (50.00 to 70.00), 2 of 5 seeds "
        "| settings differ | settings differ | not run |",
    ]
    # Of five seeds two met the defense.
    assert project.table("seeds-defenses")[4] == (
        "| gtsrb, input-aware, all-to-all, fast | 5 | 1 of 2 | -, 2 of 5 seeds | -, 2 of 5 seeds "
        "| 60.00 (50.00 to 70.00), 2 of 5 seeds | settings differ | settings differ | not run |"
    )
