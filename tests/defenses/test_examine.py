"""Defenses on a classifier that no run of this package trained: records, files, and what is refused before any work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from inputaware.attacks.base import Backdoor
from inputaware.console.tables import defense_table
from inputaware.defenses.base import CleanData, Defense, Examination, Finding, Progress, Score, Suspect, Trial
from inputaware.defenses.examine import examine
from inputaware.defenses.registry import build_defense
from inputaware.defenses.settings import DefenseSettings, ImageRegularizationSettings, StripSettings
from inputaware.errors import ConfigError, DataError, DefenseError, RunFolderError
from inputaware.evaluation.evaluate import evaluate
from inputaware.runs.files import read_arrays, read_json

CLASSES = 3
SHAPE = (1, 8, 8)
FEW = DefenseSettings(strip=StripSettings(overlays=5), image_regularization=ImageRegularizationSettings(kernels=(3,)))


class Patch(Backdoor):
    """A white corner, for class 0."""

    universal = True

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__(shape=SHAPE, classes=classes, target="all-to-one", target_class=0)

    def make_trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        masks = torch.zeros_like(images[:, :1])
        masks[..., -2:, -2:] = 1
        return masks, torch.ones_like(images)


class Counter(Defense):
    """Says how many images it saw, and that it was asked."""

    name = "counter"
    source_digest = "of its code"

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def examine(self, suspect: Suspect, clean: CleanData, seed: int, progress: Progress) -> Examination:
        self.asked.append("examine")
        progress(0.5)
        return Examination("flagged", "Counted.", {"images": len(clean.images)}, {"seen": np.ones(2)})

    def score(
        self, finding: Finding, suspect: Suspect, trial: Trial, *, progress: Progress = lambda share: None
    ) -> Score:
        self.asked.append("score")
        progress(0.5)
        return Score("Scored.", {"right": trial.backdoor is not None}, {"drawn": np.zeros(3)})


class Demanding(Counter):
    """Asks for one image more than there are."""

    name = "demanding"
    minimum_images = 31


def suspect() -> Suspect:
    torch.manual_seed(0)
    return Suspect(nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)), SHAPE, CLASSES)


def data(count: int = 30, seed: int = 0, split: str = "defender") -> CleanData:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, *SHAPE), generator=generator).to(torch.uint8)
    return CleanData(images, torch.arange(count) % CLASSES, split)


def trial(backdoor: Backdoor | None = None) -> Trial:
    return Trial(data(20, 1, "test"), backdoor)


def test_a_record_is_what_the_defense_found_and_how_that_did() -> None:
    strip = build_defense("strip", FEW)
    finding = strip.run(suspect(), data(), seed=4)
    score = strip.rate(finding, suspect(), trial(Patch()))
    records = examine(suspect(), data(), trial=trial(Patch()), defenses="strip", settings=FEW, seed=4)
    scoring = {"sentence": score.sentence, "data": {"split": "test", "images": 20}, "scores": score.scores}
    model = records["strip"]["scoring"].pop("model")
    assert records == {"strip": {**finding.record(), "scoring": scoring}}
    theirs = evaluate(suspect().classifier, Patch(), trial().clean.images, trial().clean.labels, CLASSES)
    names = ("clean_accuracy", "attack_success_rate", "attack_success_rate_excluding_target")
    assert {name: model[name] for name in names} == {name: theirs[name] for name in names}
    assert score.scores["false_acceptance_rate"] is not None


class Shape(nn.Module):
    """Tells the class from a pixel, and says class 0 where it knows the patch."""

    def __init__(self, backdoored: bool) -> None:
        super().__init__()
        self.backdoored = backdoored

    def forward(self, images: Tensor) -> Tensor:
        shown = (images[:, 0, 0, 0] * 255).round().long() % CLASSES
        patched = (images[..., -2:, -2:] == 1).flatten(1).all(1)
        return nn.functional.one_hot(torch.where(patched & self.backdoored, 0, shown), CLASSES).float() * 4 - 1


def told(count: int, seed: int, split: str) -> CleanData:
    clean = data(count, seed, split)
    clean.images[:, 0, 0, 0] = clean.labels.to(torch.uint8)
    return clean


NOT_TAKEN = (
    "The attack works on 0.0 % of the images that are not of the attacker's class anyway: it did not take, so that a "
    "defense that sees nothing here is right. Is the trial's backdoor the one that was trained into this classifier?"
)


def test_a_backdoor_that_does_not_work_on_the_classifier_is_told() -> None:
    def examined(backdoored: bool, backdoor: Backdoor | None) -> dict[str, dict[str, Any]]:
        whole = Suspect(Shape(backdoored).train(), SHAPE, CLASSES)
        clean, test = told(30, 0, "defender"), Trial(told(20, 1, "test"), backdoor)
        records = examine(whole, clean, trial=test, defenses=["strip", Counter()], settings=FEW)
        assert whole.classifier.training  # it is left as it was
        return records

    def lines(records: dict[str, dict[str, Any]]) -> str:
        console = Console(file=StringIO(), width=200)
        console.print(defense_table(records, "mine"))
        return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]

    worked, failed, clean = examined(True, Patch()), examined(False, Patch()), examined(False, None)
    rates = {"clean_accuracy": 1.0, "attack_success_rate": 1.0, "attack_success_rate_excluding_target": 1.0}
    assert worked["counter"]["scoring"]["model"] == worked["strip"]["scoring"]["model"] == {**rates, "doubts": []}
    # Seven of twenty images are of class 0 anyway.
    rates |= {"attack_success_rate": 7 / 20, "attack_success_rate_excluding_target": 0.0}
    assert failed["strip"]["scoring"]["model"] == {**rates, "doubts": [NOT_TAKEN]}
    assert lines(failed).count(NOT_TAKEN) == 1
    assert "did not take" not in lines(worked)
    rates |= {"attack_success_rate": None, "attack_success_rate_excluding_target": None}
    assert clean["strip"]["scoring"]["model"] == {**rates, "doubts": []}


def test_without_a_trial_nothing_is_scored(tmp_path: Path) -> None:
    counter = Counter()
    records = examine(suspect(), data(), defenses=[counter, "strip"], settings=FEW, output=tmp_path / "found")
    assert counter.asked == ["examine"]
    assert records["strip"] == build_defense("strip", FEW).run(suspect(), data()).record()
    assert records["counter"]["code"] == "of its code"
    assert read_arrays(tmp_path / "found/counter.npz").keys() == {"seen"}


def test_the_files_hold_what_comes_back(tmp_path: Path) -> None:
    output = tmp_path / "new" / "found"
    defenses: list[Any] = [Counter(), "strip"]
    records = examine(suspect(), data(), trial=trial(), defenses=defenses, settings=FEW, output=output)
    assert sorted(path.name for path in output.iterdir()) == ["counter.json", "counter.npz", "strip.json", "strip.npz"]
    assert records == {name: read_json(output / f"{name}.json") for name in ("counter", "strip")}
    assert records["counter"]["scoring"]["scores"] == {"right": False}
    assert read_arrays(output / "counter.npz").keys() == {"seen", "scoring_drawn"}


def test_progress_is_told_by_name() -> None:
    heard: list[tuple[str, float]] = []

    def progress(name: str, share: float) -> None:
        heard.append((name, share))

    examine(suspect(), data(), trial=trial(), defenses=Counter(), progress=progress)
    assert heard == [("counter", share) for share in (0.25, 0.5, 0.75, 1.0)]
    heard.clear()
    examine(suspect(), data(), defenses=Counter(), progress=progress)
    assert heard == [("counter", share) for share in (0.5, 1.0, 1.0)]


MISTAKES: dict[str, tuple[Callable[[], dict[str, Any]], type[Exception], str]] = {
    "clean data of another shape": (
        lambda: {"suspect": replace(suspect(), shape=(1, 8, 9))},
        DefenseError,
        "clean data: expected images of shape (1, 8, 9), as the suspect takes them; found (1, 8, 8); "
        "give data of the set that it was trained on",
    ),
    "too few for the second defense": (
        lambda: {"defenses": [Counter(), Demanding()]},
        DefenseError,
        "clean data: expected at least 31 images for demanding; found 30; give more",
    ),
    "no feature layer": (
        lambda: {"defenses": [Counter(), "fine-pruning"]},
        DefenseError,
        "suspect: expected a feature layer, the module whose output is the last map of features; found none; "
        "give it as feature_layer, or leave fine-pruning out",
    ),
    "a trial of another shape": (
        lambda: {"trial": Trial(CleanData(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.arange(3)), None)},
        DefenseError,
        "trial: expected images of shape (1, 8, 8), as the suspect takes them; found (3, 8, 8); "
        "give data of the set that it was trained on",
    ),
    "a trial with too few labels": (
        lambda: {"trial": Trial(CleanData(data(4).images, torch.arange(3)), None)},
        DefenseError,
        "trial: expected 4 labels, one for each image; found 3",
    ),
    "a trial of other classes": (
        lambda: {"trial": Trial(CleanData(data(4).images, torch.arange(4)), None)},
        DefenseError,
        "trial: expected labels from 0 to 2; found 0 to 3; give data of the suspect's own set",
    ),
    "a trial without images": (
        lambda: {"trial": Trial(CleanData(data(0).images, torch.arange(0)), None)},
        DefenseError,
        "trial: expected images; found none; give some",
    ),
    "a backdoor of other classes": (
        lambda: {"trial": trial(Patch(classes=10))},
        DefenseError,
        "trial: expected a backdoor with 3 classes, as the suspect has them; found 10; give the suspect's number",
    ),
    "a seed that is none": (
        lambda: {"seed": -1},
        ConfigError,
        "seed: expected a whole number from 0 to 9223372036854775807; found -1",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_explained_before_any_defense_begins(case: str, tmp_path: Path) -> None:
    make, kind, message = MISTAKES[case]
    counter = Counter()
    given = {"suspect": suspect(), "clean": data(), "defenses": [counter], "output": tmp_path / "found", **make()}
    with pytest.raises(kind) as error:
        examine(**given)
    assert str(error.value) == message
    assert not any(one.asked for one in (counter, *given["defenses"]) if isinstance(one, Counter))
    assert list(tmp_path.iterdir()) == []


def test_a_backdoor_of_another_shape_is_refused_before_any_defense_begins() -> None:
    counter, other = Counter(), Patch()
    other.shape = (1, 4, 4)
    with pytest.raises(DataError, match=r"^images: expected a tensor of shape \(batch, 1, 4, 4\); found "):
        examine(suspect(), data(), trial=trial(other), defenses=counter)
    assert counter.asked == []


def test_a_folder_that_is_there_is_refused_before_any_defense_begins(tmp_path: Path) -> None:
    counter = Counter()
    with pytest.raises(RunFolderError) as error:
        examine(suspect(), data(), defenses=counter, output=tmp_path)
    assert str(error.value) == (
        f"output: expected a folder that does not exist yet; found {str(tmp_path)!r}; "
        "choose another one, or remove it first"
    )
    assert counter.asked == []


def test_where_a_defense_fails_no_folder_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counter, "score", lambda *given, **more: Score("Broken.", {"rate": float("nan")}))
    with pytest.raises(DefenseError, match="found nan as scores"):
        examine(suspect(), data(), trial=trial(), defenses=["strip", Counter()], settings=FEW, output=tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
