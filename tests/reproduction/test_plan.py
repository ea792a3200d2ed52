"""Everything in one call on small runs: what is made, what is kept, what cannot be made and why."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inputaware.cli import main
from inputaware.config.fields import Config
from inputaware.config.presets import preset_config
from inputaware.config.record import override
from inputaware.defenses.settings import (
    DefenseSettings,
    FinePruningSettings,
    ImageRegularizationSettings,
    NeuralCleanseSettings,
    StripSettings,
)
from inputaware.errors import ConfigError, DataError, RunFolderError
from inputaware.report.collect import collect_run
from inputaware.reproduction import plan_reproduction, reproduce
from inputaware.reproduction.items import ITEM_NAMES, ITEMS, Found
from inputaware.reproduction.works import Place, RunKey, Work
from inputaware.runs.files import read_json, write_json

SMALL = {
    "train_images": 100,
    "validation_images": 20,
    "model": {"hidden_units": 16},
    "mask_stage": {"epochs": 1, "batch_size": 50},
    "joint_stage": {"epochs": 1, "batch_size": 50},
}


@dataclass(frozen=True, kw_only=True)
class Quick(DefenseSettings):
    """Settings whose defaults are quick."""

    neural_cleanse: NeuralCleanseSettings = field(
        default=NeuralCleanseSettings(rounds=2, success_threshold=0.2, batch_size=72, images_per_round=72)
    )
    strip: StripSettings = field(default=StripSettings(overlays=2, images=100))
    fine_pruning: FinePruningSettings = field(default=FinePruningSettings(epochs=1))
    image_regularization: ImageRegularizationSettings = field(
        default=ImageRegularizationSettings(kernels=(3,), bits=(1,))
    )


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Let runs be small and defenses quick; what is done with them is as it is."""
    whole = Place.config

    def config(place: Place, run: RunKey) -> Config:
        return override(whole(place, run), SMALL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Place, "config", config)
        patch.setattr("inputaware.defenses.registry.DefenseSettings", Quick)
        patch.setattr("inputaware.reproduction.works._PASSES", 4)
        patch.setattr("inputaware.reproduction.works._WARM_UP", 1)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small: None) -> Path:
    """Return the folder of a reproduction of everything, with two seeds."""
    output = tmp_path_factory.mktemp("reproduction") / "all"
    plan = plan_reproduction(dataset="digits", seeds=(0, 1), output=output, device="cpu")
    assert not output.exists()
    assert plan.items == ITEM_NAMES
    assert not any(planned.done for planned in plan.works)
    assert plan.seconds == pytest.approx(sum(planned.seconds for planned in plan.works))
    assert reproduce(plan) == output / "README.md"
    return output


def run_files(output: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (output / "runs").rglob("*") if path.is_file()}


def test_every_item_is_there_in_every_format(made: Path) -> None:
    names = {path.name for path in (made / "digits").iterdir()}
    pictures = {f"{name}.{kind}" for name in ITEM_NAMES for kind in ("md", "png", "svg")}
    numbers = {f"{name}.csv" for name in ("main", "table2", "table3", "table4", "figure4", "figure5", "figure6")}
    assert names == pictures | numbers
    page = (made / "README.md").read_text()
    for name in ITEM_NAMES:
        assert f"](digits/{name}.png)" in page
        assert f"`inputaware reproduce {name} --dataset digits --seeds 0 1`" in page
    for address in re.findall(r"\]\(([^)]+)\)", page):
        assert (made / address).is_file()
    with Image.open(made / "digits/figure1.png") as file:
        assert file.width > 1000


def test_defenses_are_quick_in_these_tests(made: Path) -> None:
    """Where they are looked up elsewhere, the change of their settings above would do nothing but cost minutes."""
    rounds = {
        json.loads(path.read_text())["settings"]["rounds"]
        for path in (made / "runs").glob("*/defenses/neural-cleanse.json")
    }
    assert rounds == {2}


def test_runs_are_named_by_what_they_are(made: Path) -> None:
    assert {path.name for path in (made / "runs").iterdir()} == {
        "digits-input-aware-all-to-one-seed-0",
        "digits-input-aware-all-to-one-seed-1",
        "digits-input-aware-all-to-all-seed-0",
        "digits-input-aware-all-to-all-seed-1",
        "digits-badnets-all-to-one-seed-0",
        "digits-none-all-to-one-seed-0",
        "digits-latency.json",
    }


def test_tables_hold_each_seed_with_mean_and_spread(made: Path) -> None:
    with (made / "digits/table3.csv").open(newline="") as file:
        rows = {row["test"]: row for row in csv.DictReader(file)}
    for test, key in (("clean", "clean_accuracy"), ("attack", "attack_success_rate"), ("cross", "cross_accuracy")):
        found = []
        for seed in (0, 1):
            folder = made / f"runs/digits-input-aware-all-to-all-seed-{seed}"
            found.append(100 * json.loads((folder / "evaluation.json").read_text())[key])
        assert [float(rows[test][f"seed {seed}"]) for seed in (0, 1)] == pytest.approx(found, abs=0.0051)
        assert float(rows[test]["ours, %"]) == pytest.approx(np.mean(found), abs=0.0051)
        assert float(rows[test]["standard deviation"]) == pytest.approx(np.std(found, ddof=1), abs=0.0051)
        assert rows[test]["paper, %"] == rows[test]["difference, points"] == "-"  # the paper has no digits


def test_the_note_names_each_way_in_which_seeds_were_trained(made: Path) -> None:
    keys = {seed: RunKey("digits", "input-aware", "all-to-all", seed) for seed in (0, 1)}
    runs = {key: collect_run(made / f"runs/digits-input-aware-all-to-all-seed-{seed}") for seed, key in keys.items()}
    same = ITEMS["table3"].make(Found("digits", (0, 1), runs)).note
    assert same.endswith(f", precision {runs[keys[0]].result['precision']}.")
    assert "(seed" not in same
    for number, key in keys.items():
        changed = {"device": f"machine {number}", "threads": 1 + number, "precision": ("32", "bf16")[number]}
        runs[key] = replace(runs[key], result=runs[key].result | changed)
    assert (
        ITEMS["table3"]
        .make(Found("digits", (0, 1), runs))
        .note.endswith(
            "seconds on machine 0, 1 thread, precision 32 (seed 0); machine 1, 2 threads, precision bf16 (seed 1)."
        )
    )


def test_figures_have_their_numbers(made: Path) -> None:
    with (made / "digits/figure4.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with np.load(made / "runs/digits-input-aware-all-to-all-seed-0/defenses/fine-pruning.npz") as arrays:
        expected = 100 * arrays["scoring_attack_success_rate"]
    np.testing.assert_allclose([float(row["attack, %"]) for row in rows], expected, atol=0.0051)
    with (made / "digits/figure6.csv").open(newline="") as file:
        models = [row["model"] for row in csv.DictReader(file)]
    assert models == ["input-aware, all-to-all", "input-aware, all-to-one", "BadNets", "clean model"]


def test_what_is_done_is_not_done_again(made: Path) -> None:
    before = run_files(made)
    plan = plan_reproduction(["table3", "figure6", "table2"], dataset="digits", seeds=(0, 1), output=made)
    assert plan.items == ("table2", "table3", "figure6")
    assert all(planned.done for planned in plan.works)
    assert plan.seconds == 0
    page = (made / "README.md").read_bytes()
    table = (made / "digits/table3.md").read_bytes()
    (made / "digits/table3.md").unlink()
    reproduce(plan)
    assert run_files(made) == before
    # The page still holds what this call did not make.
    assert (made / "README.md").read_bytes() == page
    assert (made / "digits/table3.md").read_bytes() == table


def test_half_done_work_is_gone_on_with(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, name = tmp_path / "out", "digits-input-aware-all-to-one-seed-0"
    run = output / "runs" / name
    shutil.copytree(made / "runs" / name, run)
    evaluation, metrics = (run / "evaluation.json").read_bytes(), (run / "metrics.jsonl").read_bytes()
    (run / "evaluation.json").unlink()
    (run / "classifier.safetensors").unlink()
    arguments = ["main", "--dataset", "digits", "--device", "cpu", "--output", str(output)]
    plan = plan_reproduction(["main"], dataset="digits", output=output, device="cpu")
    assert [planned.done for planned in plan.works] == [False]
    assert main(["reproduce", *arguments]) == 0
    out, err = capsys.readouterr()
    # It says first what it will run, then does it.
    assert out.index(f"train {name}") < out.index(f"Page: {output}/README.md")
    assert "in all, estimated from a few steps on this machine" in " ".join(out.split())
    assert err == f"train {name}\n"
    assert (run / "evaluation.json").read_bytes() == evaluation
    assert (run / "metrics.jsonl").read_bytes() == metrics


def test_without_the_data_it_says_what_it_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(dataset: str, split: str) -> Any:
        raise DataError(f"{dataset}: expected its files; found none")

    monkeypatch.setattr("inputaware.reproduction.plan.load_images", missing)
    plan = plan_reproduction(["table2", "table3"], dataset="gtsrb", output=tmp_path / "out", device="cpu", hours=1e9)
    assert plan.items == ("table2",)
    assert plan.impossible == {"table3": "gtsrb: expected its files; found none"}
    assert [planned.work.kind for planned in plan.works] == ["latency"]


def test_what_takes_too_long_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "inputaware.reproduction.plan.seconds_of_work", lambda kind, *_: 99_999.0 if kind == "train" else 70.0
    )
    arguments = ["reproduce", "--dataset", "digits", "--device", "cpu", "--plan", "--output", str(tmp_path / "out")]
    words = (
        "its work should take about {} on this cpu, more than {}; run it on a machine with a GPU, or allow more with "
        "--hours\n"
    )
    assert main([*arguments, "--hours", "0.5"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].rstrip() == "To make of digits: table2"
    assert f"main, table3 cannot be made here: {words.format('27:46:39', '0:30:00')}" in out
    # Where nothing can be made that is said once.
    assert main([*arguments, "--hours", "0"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "inputaware: item: expected at least one that can be made here; found none, not even table2: "
        + words.format("0:01:10", "0:00:00")
    )
    assert list(tmp_path.iterdir()) == []


def test_a_reason_stays_on_the_page_until_the_item_is_made(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, words = tmp_path / "out", "Not made here:\n\n- Figure 3: samples, all-to-all: its work should take about"

    def page(*items: str, dataset: str = "digits", **options: Any) -> str:
        return reproduce(plan_reproduction(items, dataset=dataset, output=output, device="cpu", **options)).read_text()

    with monkeypatch.context() as patch:
        patch.setattr(
            "inputaware.reproduction.plan.seconds_of_work", lambda kind, *_: 7200.0 if kind == "train" else 1.0
        )
        assert words in page("table2", "figure3", hours=1.0)
    # A call for something else, in another way, takes it over.
    text = page("table2", dataset="mnist", preset="paper", precision="32")
    assert f"## digits\n\n### {ITEMS['table2'].title}" in text
    assert words in text
    assert "`inputaware reproduce table2 --dataset mnist --preset paper --precision 32`" in text
    shutil.copytree(made / "runs", output / "runs", dirs_exist_ok=True)
    assert "Not made here" not in page("figure3")
    (output / "digits/not-made.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"digits/not-made\.json: expected JSON"):
        page("table2", dataset="mnist")


def test_the_command_says_what_is_done(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--dataset", "digits", "--seeds", "0", "1", "--output", str(made), "--device=cpu"]) == 0
    out, err = capsys.readouterr()
    assert len(re.findall(r" done │", out)) == 17
    assert err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"items": ["table1"]}, f"item: expected one of {', '.join(ITEM_NAMES)}; found 'table1'"),
        ({"dataset": "cats"}, "dataset: expected one of digits, mnist, cifar10, gtsrb; found 'cats'"),
        ({"seeds": []}, "seeds: expected at least one, each once; found none"),
        ({"seeds": [1, 1]}, "seeds: expected at least one, each once; found 1, 1"),
        ({"seeds": [0, -1]}, "seed: expected a whole number from 0 to 9223372036854775807; found -1"),
        ({"hours": float("nan")}, "hours: expected a number of at least 0; found nan"),
        ({"hours": -1.0}, "hours: expected a number of at least 0; found -1.0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        plan_reproduction(output=tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_run_with_other_settings_is_refused(made: Path) -> None:
    key = RunKey("digits", "input-aware", "all-to-one", 0)
    place = Place(made, "paper", "cpu", "auto")
    with pytest.raises(ConfigError, match="expected the configuration that the run was started with"):
        place.do(Work("train", key), listener=None)
    assert preset_config("paper", dataset="digits").joint_stage.epochs == 600
    # Before anything is run, too.
    with pytest.raises(ConfigError, match="expected the configuration that the run was started with"):
        plan_reproduction(["main"], dataset="digits", output=made, preset="paper", device="cpu")


def test_what_was_made_in_another_way_is_refused(made: Path, tmp_path: Path) -> None:
    output, name = tmp_path / "out", "digits-input-aware-all-to-all-seed-0"
    run = output / "runs" / name
    shutil.copytree(made / "runs" / name, run)

    def refused(item: str, path: str, key: str, value: object) -> str:
        """Return why an item is refused while a file's entry is another."""
        file = run / path
        before = file.read_bytes()
        write_json(file, {**read_json(file), key: value})
        with pytest.raises(RunFolderError) as caught:
            plan_reproduction([item], dataset="digits", output=output, device="cpu")
        file.write_bytes(before)
        return str(caught.value)

    for key, found in (("seed", "1 with seed 3"), ("images_of_each_class", "3 with seed 0")):
        assert refused("figure3", "inspection/inspection.json", key, 3) == (
            f"{run}/inspection: expected an inspection of 1 image of each class with seed 0; found one of {found}; "
            f"make it anew with: inputaware inspect {run} --overwrite"
        )
    inspected = run / "inspection/inspection.json"
    before = inspected.read_bytes()
    write_json(inspected, {**read_json(inspected), "images_of_each_class": None})
    assert "; found one of named images with seed 0; " in refused(
        "figure3", "inspection/inspection.json", "indices", [3, 17]
    )
    inspected.write_bytes(before)
    assert "; found seed 3 there, 0 here; replace it with --overwrite of inputaware defend" in refused(
        "figure5", "defenses/strip.json", "seed", 3
    )
    settings = {**read_json(run / "defenses/strip.json")["settings"], "overlays": 7}
    assert "; found overlays 7 there, 2 here; " in refused("figure5", "defenses/strip.json", "settings", settings)
    assert all(work.done for work in plan_reproduction(["figure3", "figure5"], dataset="digits", output=output).works)


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError) as caught:
        plan_reproduction(["table2"], dataset="digits", output=tmp_path / "file" / "x", device="cpu")
    assert str(caught.value).startswith("output: expected a path beneath a folder; found ")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_readme_of_something_else_is_refused_before_any_work(kind: str, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    if kind == "file":
        readme.write_text("# My thesis\n")
    else:
        readme.mkdir()
    with pytest.raises(RunFolderError) as caught:
        plan_reproduction(["table2"], dataset="digits", output=tmp_path, device="cpu")
    assert str(caught.value) == (
        "output: expected a folder without a README.md, or with an earlier reproduction's; found another "
        f"'{readme}'; choose another folder"
    )
    assert list(tmp_path.iterdir()) == [readme]
