"""What every defense refuses, what it may see, and that it leaves the suspect as it was."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inputaware.defenses.base import CleanData, Defense, Examination, Finding, Score, Suspect, Trial
from inputaware.defenses.settings import StripSettings
from inputaware.errors import ConfigError, DefenseError

CLASSES = 3
SHAPE = (1, 4, 4)


class Linear(nn.Module):
    """Dropout and a linear layer: the one thing it forgets in evaluation mode, the other it keeps."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.layer = nn.Linear(16, classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(self.dropout(images.flatten(1)))
        return logits


class Watcher(Defense):
    """Notes how it finds the suspect, and draws a number."""

    name = "watcher"
    minimum_images = 6

    def examine(self, suspect, clean, seed, progress) -> Examination:
        self.training = suspect.classifier.training
        self.wants_gradients = any(parameter.requires_grad for parameter in suspect.classifier.parameters())
        progress(0.5)
        return Examination("not-flagged", "Nothing.", {"draw": float(torch.rand(()))}, {"a": np.zeros(2)})

    def score(self, finding, suspect, trial, *, progress=lambda share: None) -> Score:
        return Score("Fine.", {})


def data(per_class: int = 2, *, seed: int = 0) -> CleanData:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (per_class * CLASSES, *SHAPE), generator=generator).to(torch.uint8)
    return CleanData(images, torch.arange(CLASSES).repeat(per_class))


def suspect(classifier: nn.Module | None = None, classes: int = CLASSES) -> Suspect:
    return Suspect(classifier or Linear(), SHAPE, classes)


def watcher() -> Watcher:
    return Watcher(StripSettings())


def test_settings_are_those_of_a_defense_or_none() -> None:
    assert Watcher().run(suspect(), data()).settings == {}
    with pytest.raises(ConfigError) as error:
        Watcher({"overlays": 3})
    assert str(error.value) == (
        "Watcher: expected settings derived from inputaware.defenses.settings.Settings; found {'overlays': 3}"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verdict": "guilty"}, "expected a verdict, one of flagged, not-flagged, no-verdict; found 'guilty'"),
        ({"sentence": None}, "expected a sentence; found None"),
        ({"scores": {"rate": torch.zeros(())}}, "Object of type Tensor is not JSON serializable"),
        ({"scores": {"rate": float("nan")}}, "Out of range float values are not JSON compliant"),
        ({"arrays": {"a": [1, 2]}}, "expected numpy arrays of numbers; found list as 'a'"),
        ({"arrays": {"a": np.array([None])}}, "expected numpy arrays of numbers; found ndarray as 'a'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_no_file_can_hold_is_refused(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine: dict[str, Any] = {"verdict": "flagged", "sentence": "Found.", "scores": {}, "arrays": {}}
    answers: list[Any] = [Examination(**{**fine, **changes})]
    if "verdict" not in changes:
        del fine["verdict"]
        answers.append(Score(**{**fine, **changes}))
    if "scores" in changes:
        message = f"expected scores of finite numbers, text, lists and dictionaries, as JSON has them; found: {message}"
    for answer in answers:
        with pytest.raises(DefenseError) as error:
            answer.check("watcher")
        assert str(error.value).startswith(f"watcher: {message}")  # newer versions of Python add the number
    monkeypatch.setattr(Watcher, "examine", lambda *given: answers[0])
    with pytest.raises(DefenseError):
        Watcher().run(suspect(), data())


def test_a_finding_says_what_it_rests_on() -> None:
    finding = watcher().run(suspect(), data(), seed=5)
    assert (finding.defense, finding.verdict, finding.seed) == ("watcher", "not-flagged", 5)
    assert finding.data == {"split": "defender", "images": 6}
    assert finding.settings["overlays"] == 100
    assert finding.seconds > 0
    assert finding.peak_memory_mib > 0


def test_the_record_leaves_out_what_differs_between_executions() -> None:
    record = watcher().run(suspect(), data()).record()
    assert record == watcher().run(suspect(), data()).record()
    assert not {"seconds", "peak_memory_mib", "arrays"} & record.keys()


def test_the_seed_decides_and_the_callers_randomness_is_left_alone() -> None:
    examined = suspect()
    before = torch.get_rng_state()
    one, same, other = (watcher().run(examined, data(), seed=seed).scores["draw"] for seed in (1, 1, 2))
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", [True, False])
def test_the_suspect_is_examined_in_evaluation_mode_and_given_back_as_it_was(mode: bool) -> None:
    classifier = Linear().train(mode)
    classifier.layer.bias.requires_grad_(False)
    defense = watcher()
    defense.run(suspect(classifier), data())
    assert not defense.training
    assert not defense.wants_gradients
    assert classifier.training is mode
    assert classifier.dropout.training is mode
    assert classifier.layer.weight.requires_grad
    assert not classifier.layer.bias.requires_grad


def test_the_suspect_is_given_back_after_an_error_too() -> None:
    classifier = Linear().train()
    with pytest.raises(DefenseError):
        watcher().run(suspect(classifier, classes=4), data())
    broken = Linear().train()
    broken.layer.weight.data.fill_(float("nan"))
    with pytest.raises(DefenseError):
        watcher().run(suspect(broken), data())
    for network in (classifier, broken):
        assert network.training
        assert network.layer.weight.requires_grad


def test_nothing_of_the_attacker_enters_a_defense() -> None:
    for function in (Defense.run, Defense.examine):
        assert not {"trial", "backdoor", "poisoned"} & set(inspect.signature(function).parameters)
    assert {"classifier", "shape", "classes", "feature_layer"} == set(Suspect.__dataclass_fields__)
    assert {"images", "labels", "split"} == set(CleanData.__dataclass_fields__)


def test_pixels_are_bytes_over_255() -> None:
    clean = data()
    assert torch.equal(clean.pixels, clean.images.float() / 255)


def test_a_trial_of_a_clean_model_has_no_triggered_images() -> None:
    assert Trial(data(), None).poisoned is None


def test_progress_ends_at_one() -> None:
    heard: list[float] = []
    watcher().run(suspect(), data(), progress=heard.append)
    assert heard == [0.5, 1.0]


def broken_classifier() -> nn.Module:
    classifier = Linear()
    classifier.layer.weight.data[0, 0] = float("inf")
    return classifier


def replaced(**changes: Tensor) -> CleanData:
    clean = data()
    return CleanData(changes.get("images", clean.images), changes.get("labels", clean.labels))


MISTAKES = {
    "other shape": (
        lambda: (suspect(), replaced(images=torch.zeros(6, 3, 4, 4, dtype=torch.uint8))),
        "clean data: expected images of shape (1, 4, 4), as the suspect takes them; found (3, 4, 4); "
        "give data of the set that it was trained on",
    ),
    "too few labels": (
        lambda: (suspect(), replaced(labels=torch.tensor([0, 1, 2]))),
        "clean data: expected 6 labels, one for each image; found 3",
    ),
    "too few images": (
        lambda: (suspect(), data(1)),
        "clean data: expected at least 6 images for watcher; found 3; give more",
    ),
    "label out of range": (
        lambda: (suspect(), replaced(labels=torch.tensor([0, 1, 2, 0, 1, 7]))),
        "clean data: expected labels from 0 to 2; found 0 to 7; give data of the suspect's own set",
    ),
    "absent class": (
        lambda: (suspect(), replaced(labels=torch.tensor([1, 1, 1, 1, 1, 1]))),
        "clean data: expected images of all 3 classes; found none of class 0, 2; give some of each",
    ),
    "one image again and again": (
        lambda: (suspect(), replaced(images=data().images[:1].repeat(6, 1, 1, 1))),
        "clean data: expected images that show something; found constant ones; give natural images",
    ),
    "images of one brightness": (
        lambda: (suspect(), replaced(images=data().images[:, :, :1, :1].expand(-1, -1, 4, 4).contiguous())),
        "clean data: expected images that show something; found constant ones; give natural images",
    ),
    "other number of classes": (
        lambda: (suspect(Linear(5)), data()),
        "suspect: expected a classifier with 3 classes, logits of shape (batch, 3); found (6, 5); "
        "give the number of classes that it was trained on",
    ),
    "logits that are not finite": (
        lambda: (suspect(broken_classifier()), data()),
        "suspect: expected a classifier with finite logits; found NaN or infinity; "
        "its weights are broken: train it again",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_explained(case: str) -> None:
    make, message = MISTAKES[case]
    with pytest.raises(DefenseError) as error:
        watcher().run(*make())
    assert str(error.value) == message


def test_settings_are_checked_when_a_defense_is_made() -> None:
    with pytest.raises(ConfigError, match=r"^strip.overlays: expected a number of at least 1; found 0$"):
        Watcher(StripSettings(overlays=0))


def test_findings_and_scores_hold_what_is_drawn() -> None:
    finding = watcher().run(suspect(), data())
    assert isinstance(finding, Finding)
    assert np.array_equal(finding.arrays["a"], np.zeros(2))
