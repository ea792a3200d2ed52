"""Defenses on a run folder: what is written, what is kept, what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inputaware import api, own_code
from inputaware.api import Run, train
from inputaware.cli import main
from inputaware.config.fields import AttackName
from inputaware.config.presets import preset_config
from inputaware.defenses.base import CleanData, Defense, Examination, Finding, Progress, Score, Suspect, Trial
from inputaware.defenses.examine import examine
from inputaware.defenses.registry import build_defense
from inputaware.defenses.settings import PAPER_DEFENSES, DefenseSettings, StripSettings
from inputaware.errors import ConfigError, DefenseError, RunFolderError
from inputaware.runs.files import read_arrays, read_json, write_arrays, write_json
from inputaware.runs.results import collect_result

FEW = DefenseSettings(strip=StripSettings(overlays=5))


class Own(Defense):
    """A defense that somebody else wrote: what it returns is the test's."""

    name = "own"
    told = Score("Nothing was missed.", {"rate": 0.0}, {"drawn": np.zeros(3)})

    def examine(self, suspect: Suspect, clean: CleanData, seed: int, progress: Progress) -> Examination:
        """Flag whatever comes."""
        return Examination("flagged", "All is suspicious.", {"images": len(clean.images)}, {"seen": np.ones(2)})

    def score(
        self, finding: Finding, suspect: Suspect, trial: Trial, *, progress: Progress = lambda share: None
    ) -> Score:
        """Return what the test wants."""
        return self.told


def make(attack: AttackName, folder: Path) -> Path:
    config = preset_config(
        "fast",
        dataset="digits",
        attack=attack,
        device="cpu",
        train_images=100,
        validation_images=20,
        model={"hidden_units": 32},
        mask_stage={"epochs": 1, "batch_size": 30},
        joint_stage={"epochs": 2, "batch_size": 30},
    )
    train(config, folder / attack)
    return folder / attack


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small finished run."""
    return make("badnets", tmp_path_factory.mktemp("defended"))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    """Return a copy of it that a test may change."""
    shutil.copytree(trained, tmp_path / "run")
    return Run.load(tmp_path / "run", device="cpu")


class Spoiler(Own):
    """A defense that works in place on what it was handed."""

    name = "spoiler"

    def score(
        self, finding: Finding, suspect: Suspect, trial: Trial, *, progress: Progress = lambda share: None
    ) -> Score:
        """Blacken all images, with and without triggers."""
        assert trial.poisoned is not None
        for images in (trial.clean.images, trial.clean.pixels, trial.poisoned.images, trial.poisoned.targets):
            images.data.zero_()
        return self.told


def files(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.folder.defenses.iterdir()}


def test_a_result_is_a_json_file_and_its_arrays(run: Run) -> None:
    records = run.defend(["strip"], FEW)
    assert records == {"strip": read_json(run.folder.defenses / "strip.json")}
    record = records["strip"]
    assert record["data"] == {"split": "defender", "images": 144}
    assert record["scoring"]["data"] == {"split": "test", "images": 360}
    assert record["settings"]["overlays"] == 5
    assert record["sentence"]
    assert record["scoring"]["sentence"]
    with np.load(run.folder.defenses / "strip.npz", allow_pickle=False) as arrays:
        assert arrays.files
        assert any(name.startswith("scoring_") for name in arrays.files)


def test_what_a_defense_does_in_place_is_seen_by_no_other(run: Run) -> None:
    alone = run.defend(["strip"], FEW)["strip"]
    assert run.defend([Spoiler(), "strip"], FEW, overwrite=True)["strip"] == alone


def test_any_classifier_gets_the_files_of_a_run(run: Run, tmp_path: Path) -> None:
    records = run.defend(["strip", Own()], FEW, seed=2)
    clean, test = (CleanData(*run.images(split), split=split) for split in ("defender", "test"))
    trial = Trial(test, run.backdoor)
    output = tmp_path / "examined"
    found = examine(run.suspect(), clean, trial=trial, defenses=["strip", Own()], settings=FEW, seed=2, output=output)
    assert found == {name: read_json(output / f"{name}.json") for name in records}
    # What a run's evaluation.json has stands there beside the scores.
    evaluation = run.evaluate()
    for record in found.values():
        model = record["scoring"].pop("model")
        assert {name: evaluation[name] for name in model if name != "doubts"} == {
            name: rate for name, rate in model.items() if name != "doubts"
        }
    assert found == records
    assert files(run).keys() == {path.name for path in output.iterdir()}
    for path in output.glob("*.npz"):
        assert files(run)[path.name] == path.read_bytes()


def test_a_part_of_a_trial_has_its_own_triggers(run: Run) -> None:
    class Part(Own):
        name = "part"

        def score(
            self, finding: Finding, suspect: Suspect, trial: Trial, *, progress: Progress = lambda share: None
        ) -> Score:
            """Take five images only."""
            few = CleanData(trial.clean.images[:5], trial.clean.labels[:5], "test")
            part = replace(trial, clean=few)
            assert trial.poisoned is not None
            assert part.poisoned is not None
            return Score("Done.", {"same": bool((part.poisoned.images == trial.poisoned.images[:5]).all())})

    assert run.defend(Part())["part"]["scoring"]["scores"] == {"same": True}


def test_the_same_run_gives_the_same_bytes(run: Run) -> None:
    run.defend(["strip"], FEW)
    first = files(run)
    shutil.rmtree(run.folder.defenses)
    run.defend(["strip"], FEW)
    assert first.keys() == {"strip.json", "strip.npz"}
    assert files(run) == first


def test_a_result_that_is_there_is_not_made_again(run: Run) -> None:
    first = run.defend(["strip"], FEW)
    rows = len(run.folder.timing.rows())
    heard: list[str] = []
    assert run.defend(["strip"], FEW, progress=lambda name, share: heard.append(name)) == first
    assert heard == []
    assert len(run.folder.timing.rows()) == rows


def test_a_result_with_other_settings_is_refused_and_left_alone(run: Run) -> None:
    run.defend(["strip"], FEW)
    before = files(run)
    with pytest.raises(RunFolderError) as error:
        run.defend(["image-regularization", "strip"], DefenseSettings(strip=StripSettings(overlays=6)), seed=1)
    assert str(error.value) == (
        f"{run.folder.defenses}/strip.json: expected a result with the settings that are asked for; "
        "found overlays 5 there, 6 here; seed 0 there, 1 here; "
        "replace it with --overwrite of inputaware defend or sweep, or give the options that it was made with"
    )
    assert files(run) == before


def test_a_setting_younger_than_a_result_counts_as_its_default(run: Run) -> None:
    first = run.defend(["strip"], FEW)["strip"]
    path = run.folder.defenses / "strip.json"
    record = read_json(path)
    usual = record["settings"].pop("false_rejection_rate")
    write_json(path, record)
    with run.folder.lock():  # what is there is shown whoever works in the folder
        kept = run.defend(["strip"], FEW)["strip"]
    assert kept == {**first, "settings": record["settings"]}
    with pytest.raises(RunFolderError, match=f"found false_rejection_rate {usual} there, 0.05 here; "):
        run.defend(["strip"], DefenseSettings(strip=replace(FEW.strip, false_rejection_rate=0.05)))


def test_a_result_without_an_array_that_came_later_is_known_as_the_same(run: Run) -> None:
    first = run.defend(["strip"], FEW)["strip"]
    path = run.folder.defenses / "strip.npz"
    arrays = read_arrays(path)
    assert "scoring_indices" in arrays
    del arrays["scoring_indices"]
    write_arrays(path, arrays)
    with run.folder.lock():
        assert run.defend(["strip"], FEW)["strip"] == first
    assert "scoring_indices" not in read_arrays(path)


@pytest.mark.parametrize("seed", [-1, 10**23])
def test_a_seed_that_no_generator_takes_is_refused(seed: int, run: Run) -> None:
    message = f"seed: expected a whole number from 0 to 9223372036854775807; found {seed}"
    for work in (lambda: run.defend(["strip"], FEW, seed=seed), lambda: run.inspect(seed=seed)):
        with pytest.raises(ConfigError) as error:
            work()
        assert str(error.value) == message


def test_a_setting_beyond_all_floating_point_numbers_is_refused_in_words() -> None:
    StripSettings(images=10**400).check()
    with pytest.raises(ConfigError, match=r"^strip\.images: expected a number of at least 2; found -1000"):
        StripSettings(images=-(10**400)).check()


def test_a_result_of_somebodys_own_defense_is_not_taken_for_that_of_a_built_in_one(run: Run) -> None:
    run.defend(["strip"], FEW)
    path = run.folder.defenses / "strip.json"
    write_json(path, {**read_json(path), "code": "a" * 64})
    with pytest.raises(RunFolderError) as error:
        run.defend(["strip"], FEW)
    assert str(error.value) == (
        f"{path}: expected a result of the built-in defense; found one of somebody's own that has its name; "
        "replace it with --overwrite, in Python overwrite=True"
    )
    assert "code" not in run.defend(["strip"], FEW, overwrite=True)["strip"]


def test_all_defenses_are_checked_before_the_first_runs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inputaware.defenses.detector.InputDetector.fewest_judged", 74)
    with pytest.raises(DefenseError, match="expected at least 147 images for strip; found 144"):
        run.defend(["image-regularization", "strip"])
    assert not run.folder.defenses.exists()


def test_a_result_without_its_arrays_is_made_again(run: Run) -> None:
    first = run.defend(["strip"], FEW)
    (run.folder.defenses / "strip.npz").unlink()
    assert run.defend(["strip"], FEW) == first
    assert (run.folder.defenses / "strip.npz").exists()


def test_a_result_is_replaced_where_that_is_asked_for(run: Run) -> None:
    run.defend(["strip"], FEW)
    run.defend(["strip"], DefenseSettings(strip=StripSettings(overlays=6)), overwrite=True)
    assert json.loads((run.folder.defenses / "strip.json").read_text())["settings"]["overlays"] == 6


def test_seconds_are_in_the_journal_and_no_part_of_the_training(run: Run) -> None:
    before = collect_result(run.folder.path, run.config)
    run.defend(["strip"], FEW)
    row = run.folder.timing.rows()[-1]
    assert row["part"] == "defense strip"
    assert row["seconds"] > 0
    after = collect_result(run.folder.path, run.config)
    assert after["wall_seconds"] == before["wall_seconds"]
    assert after["defenses"]["strip"]["seconds"] == row["seconds"]
    assert after["defenses"]["strip"]["verdict"] == "no-verdict"


def test_a_defense_of_ones_own_is_recorded_like_the_others(run: Run) -> None:
    records = run.defend([Own(), "strip"], FEW, seed=3)
    assert list(records) == ["own", "strip"]
    record = read_json(run.folder.defenses / "own.json")
    assert records["own"] == record
    assert (record["verdict"], record["scores"], record["seed"]) == ("flagged", {"images": 144}, 3)
    assert record["scoring"]["scores"] == {"rate": 0.0}
    with np.load(run.folder.defenses / "own.npz", allow_pickle=False) as arrays:
        assert sorted(arrays.files) == ["scoring_drawn", "seen"]
    collected = collect_result(run.folder.path, run.config)["defenses"]
    assert collected["own"]["seconds"] > 0


def test_a_result_of_ones_own_object_is_never_taken_for_the_same(run: Run) -> None:
    run.defend(Own())
    before = files(run)
    with pytest.raises(RunFolderError) as error:
        run.defend(["strip", Own()], FEW)
    assert str(error.value) == (
        f"{run.folder.defenses}/own.json: expected a result of this defense with its present code; found one that may "
        "have another; replace it with --overwrite, in Python overwrite=True"
    )
    assert files(run) == before
    changed = Own()
    changed.told = Score("All were missed.", {})
    assert run.defend(changed, overwrite=True)["own"]["scoring"]["sentence"] == "All were missed."


def test_a_result_stays_where_a_new_one_cannot_be_written(run: Run) -> None:
    run.defend(Own())
    before = files(run)
    broken = Own()
    broken.told = Score("Fine.", {"rate": np.float32(0.5)})
    with pytest.raises(
        DefenseError, match=r"^own: expected finite numbers, .*; found numpy\.float32 as scores\.rate; take "
    ):
        run.defend(broken, overwrite=True)
    assert files(run) == before


@pytest.mark.parametrize(
    "name", ["", "Own", "../own", "a b", "own-", "own_1", "own\n", "o" * 61, "2-fold", "class", None]
)
def test_a_name_that_no_file_should_have_is_refused(name: str | None, run: Run) -> None:
    defense = type("Own", (Own,), {"name": name})()
    with pytest.raises(ConfigError) as error:
        run.defend(defense)
    assert str(error.value) == (
        "Own.name: expected at most 60 small letters, digits and hyphens, a letter first, and no word of Python's, "
        f"since files and options are called by it; found {name!r}"
    )


@pytest.mark.parametrize("name", ["strip", "all"])
def test_a_name_that_is_taken_is_refused(run: Run, name: str) -> None:
    with pytest.raises(ConfigError) as error:
        run.defend(type("Mine", (Own,), {"name": name})())
    assert str(error.value) == (
        f"Mine.name: expected a name that no built-in defense has, and not all; found {name!r}; choose another"
    )
    strip = build_defense("strip")
    for twice, name in (([Own(), Own()], "own"), (["strip", strip], "strip"), ([strip, "strip"], "strip")):
        with pytest.raises(ConfigError) as error:
            run.defend(twice, FEW)
        assert str(error.value) == f"defense: expected each name once; found two of '{name}'"
    assert not run.folder.defenses.exists()
    one = Own()
    assert run.defend([one, one]).keys() == {"own"}


@pytest.mark.parametrize("chosen", [Own, [Own], None, 5, [None], len, {"own": Own()}.values, [["strip"]]])
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_defense_is_refused(chosen: Any, run: Run) -> None:
    with pytest.raises(ConfigError) as error:
        run.defend(chosen)
    found = chosen[0] if isinstance(chosen, list) else chosen
    assert str(error.value) == (
        f"defense: expected a name, or an object of a class that is derived from Defense; found {found!r}"
    )


def test_a_defense_that_was_not_made_whole_is_refused(run: Run) -> None:
    with pytest.raises(ConfigError) as error:
        run.defend(type("Mine", (Own,), {"__init__": lambda self: None})())
    assert str(error.value) == ("Mine: expected settings; found none; call super().__init__(settings) in its __init__")


def test_a_strangers_file_among_the_results_is_let_be(run: Run) -> None:
    run.defend("strip", FEW)
    (run.folder.defenses / "notes.json").write_text("{}")
    assert collect_result(run.folder.path, run.config)["defenses"].keys() == {"strip"}


def test_the_example_runs_from_the_command_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "squeezing.py"
    shutil.copy(Path(__file__).parents[1] / "examples/own_defense.py", file)
    example = f"{file}:FeatureSqueezing"
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    path = folder / "defenses/feature-squeezing.json"
    assert main(["defend", str(folder), example, "--device", "cpu"]) == 0
    assert "feature-squeezing" in capsys.readouterr().out
    record = read_json(path)
    assert record["settings"] == {"images": 2000, "false_rejection_rate": 0.01, "side": 3}
    scores = record["scoring"]["scores"]
    assert scores.keys() >= {"false_rejection_rate", "false_acceptance_rate", "auroc"}
    assert 0 <= scores["auroc"] <= 1
    # The same code with the same settings is not run again.
    made = path.stat().st_mtime_ns
    assert main(["defend", str(folder), example]) == 0
    assert path.stat().st_mtime_ns == made
    assert main(["defend", str(folder), example, "--feature-squeezing.side", "5"]) == 2
    assert "found side 3 there, 5 here; replace it with --overwrite" in capsys.readouterr().err
    assert main(["defend", str(folder), example, "--feature-squeezing.side=5", "--overwrite"]) == 0
    assert read_json(path)["settings"]["side"] == 5
    file.write_text(file.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert main(["defend", str(folder), example, "--feature-squeezing.side=5"]) == 2
    assert capsys.readouterr().err.endswith(
        f"inputaware: {path}: expected a result of this defense with its present code; found one that may have "
        "another; replace it with --overwrite, in Python overwrite=True\n"
    )
    own_code._SEEN.clear()  # as in a new process
    (name,) = (name for name in sys.modules if name.startswith("squeezing (a file, "))
    del sys.modules[name]
    assert main(["defend", str(folder), example, "--feature-squeezing.side=5"]) == 2
    assert "with its present code; found one with another; replace it" in capsys.readouterr().err
    # Nor does a lost array let other code replace it.
    path.with_suffix(".npz").unlink()
    assert main(["defend", str(folder), example, "--feature-squeezing.side=5"]) == 2


def test_a_defense_by_its_place_is_kept_from_python_too(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    shutil.copy(Path(__file__).parents[1] / "examples/own_defense.py", file)
    place = f"{file}:FeatureSqueezing"
    first = run.defend([place, "strip"], FEW)
    assert list(first) == ["feature-squeezing", "strip"]
    written = files(run)
    assert run.defend([place, "strip"], FEW) == first
    assert files(run) == written
    with pytest.raises(ConfigError, match=r"^defense: expected a file with Python code at .*none\.py; found none$"):
        run.defend(str(tmp_path / "none.py:Own"))


def test_settings_of_ones_own_defense_are_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = f"{Path(__file__).parents[1] / 'examples/own_defense.py'}:FeatureSqueezing"
    with pytest.raises(SystemExit) as ended:
        main(["defend", "run", example, "--help"])
    assert ended.value.code == 0
    assert "--feature-squeezing.false-rejection-rate FLOAT" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["defend", "run", example, "--feature-squeezing.side", "wide"])
    assert ended.value.code == 2
    assert "expected a whole number; found 'wide'" in capsys.readouterr().err
    arguments = ["--feature-squeezing.side=5", "--feature-squeezing.false-rejection-rate=2"]
    assert main(["defend", str(tmp_path), example, *arguments]) == 2
    assert capsys.readouterr().err == (
        "inputaware: false_rejection_rate: expected a number above 0 and at most 0.5; found 2.0\n"
    )
    # Of others there are none.
    with pytest.raises(SystemExit) as ended:
        main(["defend", "run", "strip", "--feature-squeezing.side=5"])
    assert ended.value.code == 2


NOISY = """
import sys
from inputaware.defenses.base import Defense, Examination, Score

class Noisy(Defense):
    name = "noisy"

    def examine(self, suspect, clean, seed, progress):
        print("hello")
        return Examination("not-flagged", "It was looked at.", {})

    def score(self, finding, suspect, trial, *, progress=lambda share: None):
        return Score("So it was.", {})

class Ending(Noisy):
    def examine(self, suspect, clean, seed, progress):
        sys.exit("enough")
"""


def test_what_ones_own_defense_prints_or_ends_stays_out_of_the_answer(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "noisy_one.py"
    path.write_text(NOISY, encoding="utf-8")
    assert main(["defend", str(run.folder.path), f"{path}:Noisy", "--json"]) == 0
    found = capsys.readouterr()
    assert json.loads(found.out)["noisy"]["sentence"] == "It was looked at."
    assert "hello" in found.err
    assert main(["defend", str(run.folder.path), f"{path}:Ending", "--overwrite"]) == 2
    assert "defense: expected one that returns; found one that ends Python (enough); mend it" in capsys.readouterr().err
    other = tmp_path / "elsewhere" / "own.py"
    assert main(["defend", str(run.folder.path), f"{path}:Noisy", f"{other}:Own"]) == 2
    assert capsys.readouterr().err == (
        "inputaware: defense: expected the files of your own defenses in one folder, since they import what lies "
        f"beside them; found {tmp_path}, {other.parent}; take one folder at a time\n"
    )


def test_a_kill_leaves_no_result_without_its_row(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path, record: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(api, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            run.defend(["strip"], FEW)
    assert run.folder.timing.rows()[-1]["part"] == "defense strip"
    assert collect_result(run.folder.path, run.config)["defenses"] == {}
    run.defend(["strip"], FEW)
    assert collect_result(run.folder.path, run.config)["defenses"].keys() == {"strip"}


def test_the_suspect_has_nothing_of_the_attacker(run: Run) -> None:
    suspect = run.suspect()
    assert suspect.classifier is run.classifier
    assert (suspect.shape, suspect.classes) == ((1, 28, 28), 10)
    owned = {id(parameter) for parameter in run.classifier.parameters()}
    assert all(id(parameter) in owned for parameter in suspect.feature_layer.parameters())  # type: ignore[union-attr]


def test_a_folder_in_use_is_refused(run: Run) -> None:
    with run.folder.lock(), pytest.raises(RunFolderError, match="no other process writes"):
        run.defend(["strip"], FEW)
    assert not run.folder.defenses.exists()


@pytest.mark.parametrize("attack", ["input-aware", "badnets", "none"])
def test_the_command_runs_the_papers_and_prints_a_table(
    attack: AttackName, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(attack, tmp_path)
    capsys.readouterr()
    arguments = ["--neural-cleanse.rounds=2", "--strip.overlays=5", "--fine-pruning.epochs=1"]
    assert main(["defend", str(folder), "--device=cpu", *arguments]) == 0
    out, err = capsys.readouterr()
    assert {path.stem for path in (folder / "defenses").glob("*.json")} == set(PAPER_DEFENSES)
    for name in PAPER_DEFENSES:
        assert f"{name}: done" in err
    assert "no-verdict" in out
    # After two epochs the attack has not taken at least, which says what all of this is worth.
    assert any(words in " ".join(out.split()) for words in ("it did not take", "mean nothing")) is (attack != "none")
    assert str(folder / "defenses") in out


def test_a_damaged_evaluation_stands_in_no_defenses_way(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.folder.evaluation.write_text("{", encoding="utf-8")
    assert main(["defend", str(run.folder), "strip", "--strip.overlays=5", "--device=cpu"]) == 0
    assert "evaluation.json: expected" in "".join(capsys.readouterr().out.split("\n")).replace("  ", "")


def test_json_goes_to_stdout_alone(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["defend", str(run.folder), "strip", "--strip.overlays=5", "--device=cpu", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"strip"}
