"""What every defense refuses, what it may see, and that it leaves the suspect as it was."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inputaware.defenses.base import CleanData, Defense, Examination, Finding, Score, Suspect, Trial
from inputaware.defenses.settings import FinePruningSettings, Settings, StripSettings
from inputaware.defenses.strip import Strip
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


@dataclass(frozen=True, kw_only=True)
class PlainSettings(Settings):
    """Settings that hold whatever they are given."""

    value: Any = 0


@dataclass(frozen=True, kw_only=True)
class Typed(Settings):
    """Settings of each type that is looked at, and of one that is not."""

    count: int = 3
    share: float = 0.5
    word: str = "one"
    often: bool = False
    many: tuple[int, ...] = (1, 2)


class Undecorated(Settings):
    """Settings whose fields nobody would see."""

    value: int = 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"overlays": 3},
            "expected settings derived from inputaware.defenses.settings.Settings; found {'overlays': 3}",
        ),
        (
            Undecorated(),
            "expected settings that are a dataclass, or none would be recorded; found Undecorated, a plain class; "
            "write @dataclass(frozen=True, kw_only=True) above it",
        ),
    ],
)
def test_settings_that_nothing_would_record_are_refused(settings: Any, message: str) -> None:
    assert Watcher().run(suspect(), data()).settings == {}
    assert Watcher(PlainSettings(value=[1, "a"])).run(suspect(), data()).settings == {"value": [1, "a"]}
    with pytest.raises(ConfigError) as error:
        Watcher(settings)
    assert str(error.value) == f"Watcher: {message}"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"count": "x"}, "count, a setting, to be of type int; found 'x'"),
        ({"count": 1.5}, "count, a setting, to be of type int; found 1.5"),
        ({"count": True}, "count, a setting, to be of type int; found True"),
        ({"share": None}, "share, a setting, to be of type float; found None"),
        ({"word": 1}, "word, a setting, to be of type str; found 1"),
        ({"often": 1}, "often, a setting, to be of type bool; found 1"),
    ],
)
def test_settings_of_another_type_are_refused(wrong: dict[str, Any], found: str) -> None:
    with pytest.raises(ConfigError) as error:
        Watcher(Typed(**wrong))
    assert str(error.value) == f"Watcher: expected {found}"
    assert Watcher(Typed(share=1, many=())).settings == Typed(share=1, many=())


def test_settings_may_stand_in_the_class() -> None:
    class Set(Watcher):
        settings = PlainSettings(value=7)

    assert Set().run(suspect(), data()).settings == {"value": 7}
    assert Set(PlainSettings(value=8)).settings == PlainSettings(value=8)


TAKE = "; take float(...) of a number, .tolist() of an array"
NO_JSON: list[tuple[Any, str]] = [
    ({"rate": torch.zeros(())}, f"torch.Tensor as {{}}.rate{TAKE}"),
    ({"rate": np.float32(1)}, f"numpy.float32 as {{}}.rate{TAKE}"),
    ({"right": np.bool_(True)}, f"numpy.{np.bool_.__name__} as {{}}.right{TAKE}"),
    ({"rates": [0.5, float("nan")]}, "nan as {}.rates"),
    ({"rate": -math.inf}, "-inf as {}.rate"),
    ({"count": 10**400}, "a number above 1e308 as {}.count"),
    ({"a": {1: 2}}, "1 as name in {}.a"),
    ({"word": "\ud800"}, "'\\ud800' as {}.word, which is no text"),
    ({"\ud800": 1}, "'\\ud800' as name in {}, which is no text"),
    ({"where": Fraction(1, 2)}, f"fractions.Fraction as {{}}.where{TAKE}"),
]


@pytest.mark.parametrize(("value", "found"), NO_JSON, ids=[found for _, found in NO_JSON])
def test_what_json_cannot_hold_and_give_back_is_refused(
    value: Any, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "expected finite numbers, text, lists and dictionaries by name, as JSON has them; found"
    with pytest.raises(DefenseError) as error:
        Watcher(PlainSettings(value=value))
    assert str(error.value) == f"Watcher: {words} {found.format('settings.value')}"
    monkeypatch.setattr(Watcher, "examine", lambda *given: Examination("flagged", "Found.", value))
    with pytest.raises(DefenseError) as error:
        Watcher().run(suspect(), data())
    assert str(error.value) == f"watcher: {words} {found.format('scores')}"


def test_what_json_holds_is_given_back() -> None:
    value = {"a": [1, -2.5, None, True, "é", {"b": ()}], "c": np.float64(0.1)}
    assert Watcher(PlainSettings(value=value)).settings.value == value


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "expected {method} to return a {kind} of inputaware.defenses.base; found NoneType"),
        (("flagged", "Found."), "expected {method} to return a {kind} of inputaware.defenses.base; found tuple"),
        ({"verdict": "guilty"}, "expected a verdict, one of flagged, not-flagged, no-verdict; found 'guilty'"),
        ({"sentence": None}, "expected sentence of type str; found NoneType"),
        ({"scores": [1]}, "expected scores of type dict; found list"),
        ({"arrays": np.zeros(2)}, "expected arrays of type dict; found ndarray"),
        (
            {"arrays": {"a": [1, 2]}},
            "expected numpy arrays of numbers; found list as 'a'; of a tensor take .cpu().numpy()",
        ),
        (
            {"arrays": {"a": np.array([None])}},
            "expected numpy arrays of numbers; found ndarray as 'a'; of a tensor take .cpu().numpy()",
        ),
        *(
            (
                {"arrays": {name: np.zeros(2)}},
                "expected arrays named by letters, digits, underscores, hyphens and dots, and none 'file', "
                f"'allow_pickle', 'scoring_...' or '....npy'; found {name!r}",
            )
            for name in ("file", "allow_pickle", "scoring_a", "a.npy", "", 1)
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_answer_is_refused(answer: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Watcher().run(suspect(), data())
    fine: dict[str, Any] = {"verdict": "flagged", "sentence": "Found.", "scores": {}, "arrays": {}}
    for kind, method in ((Examination, "examine"), (Score, "score")):
        if kind is Score:
            del fine["verdict"]
            if isinstance(answer, dict) and "verdict" in answer:
                continue
        told = kind(**{**fine, **answer}) if isinstance(answer, dict) else answer
        monkeypatch.setattr(Watcher, method, lambda *given, told=told, **more: told)
        ask = partial(Watcher().run, suspect(), data())
        if kind is Score:
            ask = partial(Watcher().rate, finding, suspect(), Trial(data(), None))
        with pytest.raises(DefenseError) as error:
            ask()
        assert str(error.value) == f"watcher: {message.format(kind=kind.__name__, method=method)}"


def test_arrays_may_be_named_as_modules_are(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"block-1.weight": np.zeros(2), "conv_2": np.ones(1)}
    monkeypatch.setattr(Watcher, "examine", lambda *given: Examination("flagged", "Found.", {}, arrays))
    assert Watcher().run(suspect(), data()).arrays == arrays


class Vandal(Watcher):
    """Changes all that it is given."""

    name = "vandal"

    def spoil(self, suspect: Suspect) -> float:
        with torch.no_grad():
            suspect.classifier.layer.weight.zero_()
        suspect.classifier.train().requires_grad_(True)
        torch.set_grad_enabled(False)
        suspect.classifier.register_forward_hook(lambda *given: torch.zeros_like(given[-1]))
        return float(torch.rand(()))

    def examine(self, suspect, clean, seed, progress) -> Examination:
        clean.images.zero_()
        clean.labels.zero_()
        return Examination("flagged", "Spoiled.", {"draw": self.spoil(suspect)})

    def score(self, finding, suspect, trial, *, progress=lambda share: None) -> Score:
        finding.scores["draw"] = math.nan
        return Score("Spoiled.", {"draw": self.spoil(suspect)})


def test_what_a_defense_changes_is_its_own() -> None:
    examined, clean = suspect(Linear().train()), data()
    before = copy.deepcopy(examined.classifier.state_dict())
    random = torch.get_rng_state()
    finding = Vandal().run(examined, clean, seed=3)
    score = Vandal().rate(finding, examined, Trial(clean, None))
    assert finding.scores["draw"] == score.scores["draw"]  # both have the finding's seed
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()
    assert examined.classifier.training
    assert not examined.classifier._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in examined.classifier.state_dict().items())
    assert torch.equal(clean.images, data().images)
    assert torch.equal(clean.labels, data().labels)


def test_a_finding_says_what_it_rests_on() -> None:
    finding = watcher().run(suspect(), data(), seed=5)
    assert (finding.defense, finding.verdict, finding.seed) == ("watcher", "not-flagged", 5)
    assert finding.data == {"split": "defender", "images": 6}
    assert finding.settings["overlays"] == 100


def test_the_record_is_the_same_each_time() -> None:
    record = watcher().run(suspect(), data()).record()
    assert record == watcher().run(suspect(), data()).record()
    assert "arrays" not in record


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


def test_pixels_in_place_of_bytes_are_refused(unchecked: None) -> None:
    clean = data()
    with pytest.raises(DefenseError) as error:
        CleanData(clean.pixels, clean.labels)
    assert str(error.value) == (
        "clean data: expected images of torch.uint8; found torch.float32; give (pixels * 255).round().byte()"
    )
    with pytest.raises(DefenseError) as error:
        CleanData(clean.images, clean.labels.int())
    assert str(error.value) == "clean data: expected labels of torch.int64; found torch.int32; give labels.long()"


def test_arrays_in_place_of_tensors_are_refused(unchecked: None) -> None:
    images, labels = data().images, data().labels
    given: list[tuple[Any, Any, str, str]] = [
        (images.numpy(), labels, "images", "ndarray"),
        (images, labels.numpy(), "labels", "ndarray"),
        (images, labels.tolist(), "labels", "list"),
    ]
    for some, others, name, found in given:
        with pytest.raises(DefenseError) as error:
            CleanData(some, others)
        assert str(error.value) == (
            f"clean data: expected {name} as a tensor; found {found}; of a NumPy array take torch.from_numpy({name})"
        )


SUSPECTS: list[tuple[dict[str, Any], str]] = [
    (
        {"classifier": torch.relu},
        "expected a classifier that is a torch.nn.Module; found builtin_function_or_method; put a module around it",
    ),
    (
        {"feature_layer": "body"},
        "expected a feature layer that is a module of the classifier; found 'body'; "
        "give the module itself, of a name classifier.get_submodule(name)",
    ),
    (
        {"classes": 1},
        "expected at least 2 classes; found 1; "
        "of a single logit for two classes make two, 0 and this one, in a module around the classifier",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), SUSPECTS)
def test_a_suspect_that_no_defense_could_call_is_refused(wrong: dict[str, Any], message: str, unchecked: None) -> None:
    with pytest.raises(DefenseError) as error:
        replace(suspect(), **wrong)
    assert str(error.value) == f"suspect: {message}"


class Returns(nn.Module):
    """Returns what a function makes of one random column of numbers for each class."""

    def __init__(self, answer: Callable[[Tensor], Any], classes: int = CLASSES) -> None:
        super().__init__()
        self.network = Linear(classes)
        self.answer = answer

    def forward(self, images: Tensor) -> Any:
        return self.answer(self.network(images))


PROBABILITIES = (
    "expected a classifier that returns logits; found probabilities: no number below 0, and a sum of 1 for each image; "
    "leave its softmax out"
)
ALONE = "put a module around it that returns the logits alone"
ANSWERS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "tuple": (
        lambda logits: (logits, logits),
        f"expected a classifier that returns logits as a tensor; found tuple; {ALONE}",
    ),
    "dictionary": (
        lambda logits: {"logits": logits},
        f"expected a classifier that returns logits as a tensor; found dict; {ALONE}",
    ),
    "probabilities": (lambda logits: logits.softmax(1), PROBABILITIES),
    "rounded probabilities": (lambda logits: (10000 * logits.softmax(1)).round() / 10000, PROBABILITIES),
    "predictions": (
        lambda logits: logits.argmax(1),
        "expected a classifier with 3 classes, logits of shape (batch, 3); found (6,); "
        "give the number of classes that it was trained on",
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_a_classifier_that_returns_no_logits_is_refused_before_any_work(case: str) -> None:
    answer, message = ANSWERS[case]
    defense = watcher()
    with pytest.raises(DefenseError) as error:
        defense.run(suspect(Returns(answer)), data())
    assert str(error.value) == f"suspect: {message}"
    assert not hasattr(defense, "training")  # it was not begun


@pytest.mark.parametrize("answer", [torch.log_softmax, lambda logits, _: logits.sigmoid()], ids=["log", "sigmoid"])
def test_what_only_resembles_probabilities_is_taken(answer: Callable[[Tensor, int], Tensor]) -> None:
    watcher().run(suspect(Returns(lambda logits: answer(logits, 1))), data())


@pytest.mark.parametrize("answer", [lambda logits: logits, lambda logits: logits.squeeze(1)])
def test_a_single_logit_for_two_classes_is_refused(answer: Callable[[Tensor], Tensor]) -> None:
    classifier = Returns(answer, 1)
    clean = CleanData(data().images, torch.arange(6) % 2)
    with pytest.raises(DefenseError) as error:
        watcher().run(suspect(classifier, 2), clean)
    found = tuple(classifier(clean.pixels).shape)
    assert str(error.value) == (
        f"suspect: expected a classifier with 2 classes, logits of shape (batch, 2); found {found}; "
        "of a single logit for two classes make two, 0 and this one, in a module around the classifier"
    )
    two = Returns(lambda logit: torch.cat([0 * logit, logit], 1), 1)
    watcher().run(suspect(two, 2), clean)


def test_a_shape_may_be_a_list(unchecked: None) -> None:
    given = replace(suspect(), shape=list(SHAPE))
    assert watcher().run(given, data()).record() == watcher().run(suspect(), data()).record()


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


def test_a_score_of_the_model_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(score: Any) -> dict[str, Any]:
        answer = Examination("no-verdict", "Found.", {"model_score": score})
        monkeypatch.setattr(Watcher, "examine", lambda *given, **more: answer)
        return Watcher().run(suspect(), data()).scores

    assert [told(score)["model_score"] for score in (1, 0.5, None)] == [1, 0.5, None]
    for score in ("high", [0.5], True):
        with pytest.raises(DefenseError) as error:
            told(score)
        assert str(error.value) == (
            "watcher: expected model_score to be a number, higher for a model that looks backdoored, or None; "
            f"found {score!r}; give other scores another name"
        )


@pytest.mark.usefixtures("unchecked")
def test_settings_of_another_kind_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        Strip(FinePruningSettings())
    assert str(error.value) == (
        f"Strip: expected its settings, an object of StripSettings; found {FinePruningSettings()!r}; "
        "give StripSettings(...)"
    )
