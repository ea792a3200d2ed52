"""What every defense is: one way in, what it may see, and how its verdict is scored from outside.

A defense gets a :class:`Suspect` and :class:`CleanData`, and returns a :class:`Finding`. It never sees the backdoor.
Whether the finding is right is asked afterwards by :meth:`Defense.score`, which has the triggered images of a
:class:`Trial` and does not change the verdict.
"""

from __future__ import annotations

import copy
import inspect
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, final, get_args, get_type_hints

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from inputaware.attacks.base import Backdoor, Poisoned
from inputaware.data.loader import in_chunks, to_pixels
from inputaware.defenses.settings import Settings
from inputaware.errors import ConfigError, DefenseError
from inputaware.evaluation.prediction import logits
from inputaware.models.precision import full_float32
from inputaware.runs.environment import seeded

__all__ = ["CleanData", "Defense", "Examination", "Finding", "Progress", "Score", "Suspect", "Trial", "Verdict"]

Verdict = Literal["flagged", "not-flagged", "no-verdict"]
"""Of a model: flagged or not-flagged. no-verdict: the defense judges inputs, or gives curves."""

Progress = Callable[[float], None]
"""Is told the share of the work that is done, in [0, 1]."""


_TWO_LOGITS = "of a single logit for two classes make two, 0 and this one, in a module around the classifier"


@dataclass(frozen=True)
class Suspect:
    """A classifier that a defender was handed, and nothing of who trained it.

    Attributes:
        classifier: maps pixels in [0, 1] to logits.
        shape: channels, height and width of its images.
        classes: how many classes it has.
        feature_layer: the module whose output is its last map of features; none where the defender does not
            know it. Fine-Pruning needs it, and Beatrix in networks of other packages.

    Raises:
        DefenseError: classifier or feature layer are no modules, or there are fewer than two classes.
    """

    classifier: nn.Module
    shape: tuple[int, int, int]
    classes: int
    feature_layer: nn.Module | None = None

    def __post_init__(self) -> None:
        """Refuse what no defense could call."""
        if not isinstance(self.classifier, nn.Module):
            raise DefenseError(
                f"suspect: expected a classifier that is a torch.nn.Module; found {type(self.classifier).__name__}; "
                "put a module around it"
            )
        if not isinstance(self.feature_layer, nn.Module | None):
            raise DefenseError(
                f"suspect: expected a feature layer that is a module of the classifier; found {self.feature_layer!r}; "
                "give the module itself, of a name classifier.get_submodule(name)"
            )
        if self.classes < 2:
            raise DefenseError(f"suspect: expected at least 2 classes; found {self.classes}; {_TWO_LOGITS}")

    def logits(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits of pixels in [0, 1], in evaluation mode and without gradients.

        Raises:
            DefenseError: they are not finite, or not one for each class.
        """
        found = logits(self.classifier, images)
        self.check(found)
        return found

    def check_classifier(self, images: Float[Tensor, "batch channel height width"]) -> None:
        """Check what the classifier returns of a few images, before any defense relies on it.

        Args:
            images: pixels in [0, 1], no more than go through the classifier at once.

        Raises:
            DefenseError: it returns no tensor, not one logit for each class, probabilities, or no finite numbers.
        """
        self.classifier.eval()
        with torch.no_grad(), full_float32():
            found = self.classifier(images)
        if not isinstance(found, Tensor):
            raise DefenseError(
                f"suspect: expected a classifier that returns logits as a tensor; found {type(found).__name__}; "
                "put a module around it that returns the logits alone"
            )
        self.check(found)
        # One row may look like that by chance.
        if len(found) > 1 and bool((found >= 0).all() and ((found.sum(1) - 1).abs() <= 1e-3).all()):
            raise DefenseError(
                "suspect: expected a classifier that returns logits; found probabilities: no number below 0, "
                "and a sum of 1 for each image; leave its softmax out"
            )

    def check(self, logits: Tensor) -> None:
        """Check logits that the classifier returned.

        Raises:
            DefenseError: they are not finite, or not one for each class.
        """
        self.check_classes(logits)
        self.check_finite(torch.isfinite(logits).all())

    def check_classes(self, logits: Tensor) -> None:
        """Check the shape of logits, without a look at their values, for which a GPU would have to be waited for.

        Raises:
            DefenseError: they are not one for each class.
        """
        if logits.ndim != 2 or logits.shape[1] != self.classes:
            single = self.classes == 2 and (logits.ndim == 1 or (logits.ndim == 2 and logits.shape[1] == 1))
            raise DefenseError(
                f"suspect: expected a classifier with {self.classes} classes, logits of shape (batch, {self.classes}); "
                f"found {tuple(logits.shape)}; "
                f"{_TWO_LOGITS if single else 'give the number of classes that it was trained on'}"
            )

    def check_finite(self, finite: Tensor) -> None:
        """Check what a look at logits said.

        Args:
            finite: whether all were finite.

        Raises:
            DefenseError: they were not.
        """
        if not finite:
            raise DefenseError(
                "suspect: expected a classifier with finite logits; found NaN or infinity; "
                "its weights are broken: train it again"
            )


@dataclass(frozen=True)
class CleanData:
    """Clean images that the defender has, which no training saw.

    Attributes:
        images: 8-bit images.
        labels: their true labels.
        split: what they are called in the record.

    Raises:
        DefenseError: images or labels are no tensor, images no bytes, or labels no whole numbers of 64 bits.
    """

    images: UInt8[Tensor, "batch channel height width"]
    labels: Int64[Tensor, " labels"]
    split: str = "defender"

    def __post_init__(self) -> None:
        """Refuse other types."""
        for name, found, expected in (("images", self.images, torch.uint8), ("labels", self.labels, torch.int64)):
            if not isinstance(found, Tensor):
                raise DefenseError(
                    f"clean data: expected {name} as a tensor; found {type(found).__name__}; "
                    f"of a NumPy array take torch.from_numpy({name})"
                )
            # Pixels in [0, 1] would be divided by 255 once more, and examined as black.
            if found.dtype != expected:
                remedy = "(pixels * 255).round().byte()" if name == "images" else "labels.long()"
                raise DefenseError(f"clean data: expected {name} of {expected}; found {found.dtype}; give {remedy}")

    @cached_property
    def pixels(self) -> Float[Tensor, "batch channel height width"]:
        """The images as pixels in [0, 1]."""
        return to_pixels(self.images)

    def describe(self) -> dict[str, Any]:
        """Return how many images of which split these are, for the record."""
        return {"split": self.split, "images": len(self.images)}

    def check(self, suspect: Suspect, place: str) -> None:
        """Check that these are images as a suspect takes them, each with a label of one of its classes.

        Args:
            suspect: the classifier that is to see them.
            place: what they are called in an error.

        Raises:
            DefenseError: there are none, or they are not.
        """
        images, labels = self.images, self.labels
        if tuple(images.shape[1:]) != tuple(suspect.shape):
            raise DefenseError(
                f"{place}: expected images of shape {tuple(suspect.shape)}, as the suspect takes them; "
                f"found {tuple(images.shape[1:])}; give data of the set that it was trained on"
            )
        if len(labels) != len(images):
            raise DefenseError(f"{place}: expected {len(images)} labels, one for each image; found {len(labels)}")
        if not len(images):
            raise DefenseError(f"{place}: expected images; found none; give some")
        if int(labels.min()) < 0 or int(labels.max()) >= suspect.classes:
            raise DefenseError(
                f"{place}: expected labels from 0 to {suspect.classes - 1}; "
                f"found {int(labels.min())} to {int(labels.max())}; give data of the suspect's own set"
            )


@dataclass(frozen=True)
class Trial:
    """Images on which a finding is scored: none that the defense saw, and the backdoor that it never sees.

    Attributes:
        clean: clean images, of the test set where a result is reported.
        backdoor: how to apply the trigger; none for a clean model.
    """

    clean: CleanData
    backdoor: Backdoor | None

    @cached_property
    def poisoned(self) -> Poisoned | None:
        """The images with their own triggers; none for a clean model."""
        if self.backdoor is None:
            return None
        return self.backdoor.poison(self.clean.pixels, self.clean.labels)

    def check(self, suspect: Suspect) -> None:
        """Check that images and backdoor are such as a suspect's findings can be scored with; makes the triggers.

        Args:
            suspect: the classifier that was examined.

        Raises:
            DefenseError: images, labels or backdoor are made for another classifier.
            DataError: the backdoor makes no triggers of these images.
        """
        self.clean.check(suspect, "trial")
        if self.backdoor is not None and self.backdoor.classes != suspect.classes:
            raise DefenseError(
                f"trial: expected a backdoor with {suspect.classes} classes, as the suspect has them; "
                f"found {self.backdoor.classes}; give the suspect's number"
            )
        _ = self.poisoned  # its images and triggers are checked when they are made


class _LentTrial(Trial):
    """A trial whose images are one defense's own; those with triggers are made once for all, and copied when asked for.

    A trial that a defense makes of this one has other images, and no lender.
    """

    lender: Trial | None = None

    @classmethod
    def of(cls, trial: Trial) -> _LentTrial:
        """Return a trial that a defense may change in place."""
        clean = CleanData(trial.clean.images.clone(), trial.clean.labels.clone(), trial.clean.split)
        lent = cls(clean, copy.deepcopy(trial.backdoor))
        vars(lent)["lender"] = trial  # it is frozen
        return lent

    @cached_property
    def poisoned(self) -> Poisoned | None:
        """The images with their own triggers; none for a clean model."""
        return super().poisoned if self.lender is None else copy.deepcopy(self.lender.poisoned)


@dataclass(frozen=True)
class Finding:
    """What a defense says of a suspect.

    Attributes:
        defense: its name.
        verdict: what it decides.
        sentence: what that means, in plain words.
        settings: its settings by name.
        seed: what its random choices were drawn from.
        data: how many images of which split it was given.
        scores: numbers, lists and text for a JSON file; none where a notion does not apply.
        arrays: what is needed to draw it.
    """

    defense: str
    verdict: Verdict
    sentence: str
    settings: dict[str, Any]
    seed: int
    data: dict[str, Any]
    scores: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    def record(self) -> dict[str, Any]:
        """Return what the result file holds: all but the arrays."""
        return {name: value for name, value in vars(self).items() if name != "arrays"}


@dataclass(frozen=True)
class Score:
    """How a finding did, asked from outside.

    Attributes:
        sentence: what came out, in plain words.
        scores: numbers, lists and text for a JSON file.
        arrays: what is needed to draw it.
    """

    sentence: str
    scores: dict[str, Any]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Examination:
    """What a defense's own part returns; :meth:`Defense.run` makes a :class:`Finding` of it.

    Attributes:
        verdict: what it decides.
        sentence: what that means, in plain words.
        scores: numbers, lists and text for a JSON file; none where a notion does not apply.
        arrays: what is needed to draw it, or to score it later.
    """

    verdict: Verdict
    sentence: str
    scores: dict[str, Any]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


@contextmanager
def _lent(suspect: Suspect, seed: int, device: torch.device) -> Iterator[Suspect]:
    """Lend a defense a copy of the suspect, in evaluation mode and without gradients, and random numbers of its own.

    What it switches, gradients for one, is as before for the next one.
    """
    with seeded(seed, device), torch.inference_mode(mode=False), torch.enable_grad():
        # With its layer of features, which is a part of the classifier.
        lent = copy.deepcopy(suspect)
        lent.classifier.eval().requires_grad_(False)
        yield lent


_ARRAY_NAME = re.compile(r"(?!(file|allow_pickle|scoring_.*|.*\.npy)\Z)[A-Za-z0-9_.-]+")
"""What an array may be called: numpy has two names for itself, and those of a score stand beside those of a finding."""


def _unfit(value: object, place: str) -> Iterator[str]:
    """Yield what in a value is nothing that a JSON file can hold and give back."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, str):
                yield from _unfit(key, f"name in {place}")
                yield from _unfit(item, f"{place}.{key}")
            else:
                yield f"{key!r} as name in {place}"
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _unfit(item, place)
    elif isinstance(value, str):
        if value != value.encode(errors="ignore").decode():
            yield f"{value!r} as {place}, which is no text"
    elif isinstance(value, int | float):
        if not abs(value) < 1e308:
            yield f"{value if isinstance(value, float) else 'a number above 1e308'} as {place}"
    elif value is not None:
        # numpy's bool and float are none of Python's.
        kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
        yield f"{kind} as {place}; take float(...) of a number, .tolist() of an array"


def _check_answer(name: str, expected: type[Examination] | type[Score], found: object) -> None:
    """Refuse what is no answer, or what no file can hold, before an older result gives way to it."""
    if not isinstance(found, expected):
        method = "examine" if expected is Examination else "score"
        raise DefenseError(
            f"{name}: expected {method} to return a {expected.__name__} of inputaware.defenses.base; found "
            f"{type(found).__name__}"
        )
    if isinstance(found, Examination) and found.verdict not in get_args(Verdict):
        raise DefenseError(
            f"{name}: expected a verdict, one of {', '.join(get_args(Verdict))}; found {found.verdict!r}"
        )
    for part, kind in (("sentence", str), ("scores", dict), ("arrays", dict)):
        if not isinstance(value := getattr(found, part), kind):
            raise DefenseError(f"{name}: expected {part} of type {kind.__name__}; found {type(value).__name__}")
    _check_plain(name, found.sentence, "sentence")
    _check_plain(name, found.scores, "scores")
    score = found.scores.get("model_score")
    if isinstance(found, Examination) and (isinstance(score, bool) or not isinstance(score, int | float | None)):
        raise DefenseError(
            f"{name}: expected model_score to be a number, higher for a model that looks backdoored, or None; found "
            f"{score!r}; give other scores another name"
        )
    for key, array in found.arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise DefenseError(
                f"{name}: expected numpy arrays of numbers; found {type(array).__name__} as {key!r}; of a tensor take "
                ".cpu().numpy()"
            )
        if not isinstance(key, str) or not _ARRAY_NAME.fullmatch(key):
            raise DefenseError(
                f"{name}: expected arrays named by letters, digits, underscores, hyphens and dots, and none "
                f"'file', 'allow_pickle', 'scoring_...' or '....npy'; found {key!r}"
            )


def _annotated_settings(kind: type) -> type[Settings]:
    """Return the class that a defense's ``settings`` are annotated with; that without settings where they are not."""
    for base in kind.__mro__:
        annotation = inspect.get_annotations(base).get("settings")
        if annotation is None:
            continue
        if isinstance(annotation, str):
            # Only this one: what others name may be there for the type checker alone.
            alone = SimpleNamespace(__annotations__={"settings": annotation})
            try:
                annotation = get_type_hints(alone, vars(sys.modules[base.__module__]))["settings"]
            except Exception as error:
                raise ConfigError(
                    f"{kind.__name__}.settings: expected the annotation of a class that is there when the code runs; "
                    f"found {annotation!r} ({error}); import the class, or hand the settings over"
                ) from None
        if not (isinstance(annotation, type) and issubclass(annotation, Settings)):
            raise ConfigError(
                f"{kind.__name__}.settings: expected the annotation of a class derived from Settings; found "
                f"{annotation!r}; annotate it, or hand the settings over"
            )
        return annotation
    return Settings


def _check_types(name: str, settings: Settings) -> None:
    """Refuse a number, a text or a truth value where another of them is asked for; other types are not looked at."""
    try:
        hints = get_type_hints(type(settings))
    except Exception:
        return  # a name that is there for the type checker alone
    for key, hint in hints.items():
        value = getattr(settings, key, None)
        # As everywhere in Python a whole number may stand for any number; a truth value is none.
        fits = isinstance(value, (int, float) if hint is float else hint) if hint in (bool, int, float, str) else True
        if not fits or (hint in (int, float) and isinstance(value, bool)):
            raise ConfigError(f"{name}: expected {key}, a setting, to be of type {hint.__name__}; found {value!r}")


def _check_plain(name: str, value: object, place: str) -> None:
    for fault in _unfit(value, place):
        raise DefenseError(
            f"{name}: expected finite numbers, text, lists and dictionaries by name, as JSON has them; found {fault}"
        )


class Defense(ABC):
    """A defense with its settings.

    Args:
        settings: a frozen dataclass derived from :class:`~inputaware.defenses.settings.Settings`, checked when the
            defense is made; none: those that the class has as its ``settings``, or the defaults of the class that
            ``settings`` is annotated with, if it is.

    Raises:
        ConfigError: a setting is out of its range or of another type, or the settings are something else.
    """

    name: ClassVar[str]
    """What it is called in files and options: small letters, digits and hyphens, a letter first."""
    source_digest: str | None = None
    """Of the code of a defense that was imported by its place: with it its result is known again."""
    minimum_images: ClassVar[int] = 2
    """Fewer clean images than this are refused."""

    def __init__(self, settings: Any = None) -> None:
        if settings is None:
            settings = getattr(type(self), "settings", None)
        if settings is None:
            settings = _annotated_settings(type(self))()
        if not isinstance(settings, Settings):
            raise ConfigError(
                f"{type(self).__name__}: expected settings derived from inputaware.defenses.settings.Settings; "
                f"found {settings!r}"
            )
        kind, wrong = type(settings), None
        with suppress(ConfigError):  # annotated with what cannot be found, so that nothing is known of them
            if not issubclass(kind, expected := _annotated_settings(type(self))):
                wrong = expected
        if wrong is not None:
            raise ConfigError(
                f"{type(self).__name__}: expected its settings, an object of {wrong.__name__}; found {settings!r}; "
                f"give {wrong.__name__}(...)"
            )
        if "__dataclass_fields__" not in vars(kind):
            raise ConfigError(
                f"{type(self).__name__}: expected settings that are a dataclass, or none would be recorded; "
                f"found {kind.__name__}, a plain class; write @dataclass(frozen=True, kw_only=True) above it"
            )
        _check_types(type(self).__name__, settings)
        settings.check()
        _check_plain(type(self).__name__, asdict(settings), "settings")
        self.settings = settings

    @final
    def run(
        self,
        suspect: Suspect,
        clean: CleanData,
        *,
        seed: int = 0,
        progress: Progress = lambda share: None,
    ) -> Finding:
        """Examine a suspect with clean data.

        Args:
            suspect: the classifier that was handed over.
            clean: clean images that no training saw.
            seed: of every random choice.
            progress: told the share of the work that is done.

        Raises:
            DefenseError: the data are too few, constant, of another shape, or lack a class; the classifier has
                another number of classes, or returns no logits or numbers that are not finite; the defense returns
                what no file can hold.
        """
        self.check(suspect, clean)
        device = clean.images.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        own = CleanData(clean.images.clone(), clean.labels.clone(), clean.split)
        with _lent(suspect, seed, device) as lent:
            lent.check_classifier(in_chunks(own.pixels)[0])
            found = self.examine(lent, own, seed, progress)
        progress(1.0)
        _check_answer(self.name, Examination, found)
        return Finding(
            defense=self.name,
            verdict=found.verdict,
            sentence=found.sentence,
            settings=asdict(self.settings),
            seed=seed,
            data=clean.describe(),
            scores=found.scores,
            arrays=found.arrays,
        )

    @final
    def rate(
        self, finding: Finding, suspect: Suspect, trial: Trial, *, progress: Progress = lambda share: None
    ) -> Score:
        """Score a finding as :meth:`score` does, which gets copies of all three and the finding's seed.

        Args:
            finding: what :meth:`run` returned.
            suspect: the same suspect.
            trial: test images, and the backdoor.
            progress: told the share of the work that is done.

        Raises:
            DefenseError: the defense returns what no file can hold; the classifier returns numbers that are not finite.
        """
        with _lent(suspect, finding.seed, trial.clean.images.device) as lent:
            score = self.score(copy.deepcopy(finding), lent, _LentTrial.of(trial), progress=progress)
        _check_answer(self.name, Score, score)
        return score

    @abstractmethod
    def examine(self, suspect: Suspect, clean: CleanData, seed: int, progress: Progress) -> Examination:
        """Return verdict and scores; the data and the classifier are checked, and its weights need no gradients.

        Both are copies, which no other defense sees.
        """

    @abstractmethod
    def score(
        self, finding: Finding, suspect: Suspect, trial: Trial, *, progress: Progress = lambda share: None
    ) -> Score:
        """Return how the finding does on images that the defense did not see, with and without triggers.

        All three are copies, which no other defense sees.

        Args:
            finding: what :meth:`run` returned.
            suspect: the same suspect.
            trial: test images, and the backdoor.
            progress: told the share of the work that is done.
        """

    def check(self, suspect: Suspect, clean: CleanData) -> None:
        """Check what can be known of suspect and clean data without running the classifier.

        Raises:
            DefenseError: the data are too few, constant, of another shape, or lack a class.
        """
        clean.check(suspect, "clean data")
        images, labels = clean.images, clean.labels
        if len(images) < self.minimum_images:
            raise DefenseError(
                f"clean data: expected at least {self.minimum_images} images for {self.name}; "
                f"found {len(images)}; give more"
            )
        counts = torch.bincount(labels, minlength=suspect.classes)
        if not counts.all():
            absent = [index for index, count in enumerate(counts.tolist()) if count == 0]
            raise DefenseError(
                f"clean data: expected images of all {suspect.classes} classes; "
                f"found none of class {', '.join(map(str, absent))}; give some of each"
            )
        flat = images.flatten(1)
        if bool((flat == flat[:1]).all()) or bool((flat == flat[:, :1]).all()):
            raise DefenseError(
                "clean data: expected images that show something; found constant ones; give natural images"
            )
