"""Defenses on a classifier, whoever trained it: what each found, how it did, and the files of both."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from inputaware.config.checks import check_seed
from inputaware.data.loader import in_chunks
from inputaware.defenses.base import CleanData, Defense, Progress, Suspect, Trial
from inputaware.defenses.own import choose_defenses
from inputaware.defenses.settings import PAPER_DEFENSES, DefenseSettings, Settings
from inputaware.evaluation.doubts import doubts
from inputaware.evaluation.metrics import attack_rates, mean_over
from inputaware.runs.environment import keep_freed_memory, seeded
from inputaware.runs.files import check_new_folder, write_arrays, write_folder, write_json

__all__ = ["examine", "run_and_rate"]


def examine(
    suspect: Suspect,
    clean: CleanData,
    *,
    trial: Trial | None = None,
    defenses: str | Defense | Sequence[str | Defense] = PAPER_DEFENSES,
    settings: DefenseSettings | Settings | None = None,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
    progress: Callable[[str, float], None] = lambda name, share: None,
) -> dict[str, dict[str, Any]]:
    """Run defenses on any classifier, and score them where there is something to score them with.

    Everything is checked before the first defense begins, and files are written when the last one is done.

    Args:
        suspect: the classifier, and what is known of it.
        clean: clean images that no training saw.
        trial: other clean images, and the trigger that is known; none: nothing is scored.
        defenses: which ones, by name, or all; defenses of your own, or the places of their code; one may stand
            by itself.
        settings: the settings of the defenses that are named, or of the one that is; none: the defaults.
        seed: of the defenses' random choices.
        output: a folder to be made, with ``NAME.json`` and ``NAME.npz`` of each defense; none: nothing is written.
        progress: told the defense that is at work and the share of it that is done.

    Returns:
        What each ``NAME.json`` holds, by name; without a trial it has no ``scoring``. Beside what the defense found
        there, ``scoring`` has ``model``, the same for all: what the classifier says of the trial's images without and
        with triggers, and ``doubts``, sentences on rates that are no result.

    Raises:
        ConfigError: a name is unknown, taken, no name for a file or stands twice, or a setting is out of its range or
            another defense's.
        DataError: the backdoor makes no triggers of the trial's images.
        DefenseError: the classifier, the data or the trial are not such that the defense can work with them, or what
            it returns is nothing that a file can hold.
        RunFolderError: the folder exists, or cannot be made.
        TrainingError: a defense's fine-tuning did not stay finite.
        WriteError: the disk is full, or the folder cannot be written.
    """
    check_seed(seed)
    chosen = choose_defenses(defenses, settings)
    for defense in chosen:
        defense.check(suspect, clean)
    if trial is not None:
        trial.check(suspect)
    folder = None if output is None else Path(output)
    if folder is not None:
        check_new_folder(folder)
    keep_freed_memory()
    model = None if trial is None else _rates(suspect, trial, seed)
    records, arrays = {}, {}
    for defense in chosen:
        name = defense.name
        told = partial(progress, name)
        records[name], arrays[name] = run_and_rate(defense, suspect, clean, trial, seed=seed, progress=told)
        if model is not None:
            records[name]["scoring"]["model"] = copy.deepcopy(model)
        told(1.0)

    def write(partial: Path) -> None:
        for name, record in records.items():
            write_arrays(partial / f"{name}.npz", arrays[name])
            write_json(partial / f"{name}.json", record)

    if folder is not None:
        write_folder(folder, write)
    return records


def _rates(suspect: Suspect, trial: Trial, seed: int) -> dict[str, Any]:
    """Return clean accuracy and attack success on a trial's images, and what they say against the model.

    Args:
        suspect: the classifier, which stays as it is.
        trial: checked.
        seed: of what the classifier draws, if it does.

    Raises:
        DefenseError: the classifier returns no logits, or numbers that are not finite.
    """
    pixels, labels = trial.clean.pixels, trial.clean.labels
    with seeded(seed, pixels.device), torch.inference_mode(mode=False):
        lent = replace(suspect, classifier=copy.deepcopy(suspect.classifier), feature_layer=None)
        lent.check_classifier(in_chunks(pixels)[0])
        clean = mean_over(lent.logits(pixels).argmax(1) == labels)
        attack: dict[str, float | None] = {"attack_success_rate": None, "attack_success_rate_excluding_target": None}
        if (poisoned := trial.poisoned) is not None:
            found = attack_rates(lent.logits(poisoned.images).argmax(1), poisoned.targets, labels)
            attack = {name: found[name] for name in attack}
    images = torch.bincount(labels, minlength=suspect.classes).tolist()
    rates = {"clean_accuracy": clean, **attack}
    remedy = "Is the trial's backdoor the one that was trained into this classifier?"
    return {
        **rates,
        "doubts": doubts({**rates, "cross_accuracy": None, "per_class": {"images": images}}, remedy),
    }


def run_and_rate(
    defense: Defense, suspect: Suspect, clean: CleanData, trial: Trial | None, *, seed: int, progress: Progress
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Run a defense, score what it found, and return what its two files hold.

    Args:
        defense: which one.
        suspect: the classifier.
        clean: clean images that no training saw.
        trial: what the finding is scored with; none: it is not.
        seed: of the defense's random choices.
        progress: told the share of the work that is done; the examination and its scoring are half of it each.

    Raises:
        DefenseError: the classifier or the data are not such that the defense can work with them, or what it returns
            is nothing that a file can hold.
        TrainingError: a defense's fine-tuning did not stay finite.
    """

    def half(start: float) -> Progress:
        return lambda share: progress(start + min(max(share, 0.0), 1.0) / 2)

    finding = defense.run(suspect, clean, seed=seed, progress=progress if trial is None else half(0.0))
    record = {**finding.record(), **({} if defense.source_digest is None else {"code": defense.source_digest})}
    if trial is None:
        return record, finding.arrays
    score = defense.rate(finding, suspect, trial, progress=half(0.5))
    record["scoring"] = {"sentence": score.sentence, "data": trial.clean.describe(), "scores": score.scores}
    return record, {**finding.arrays, **{f"scoring_{name}": array for name, array in score.arrays.items()}}
