"""Published results: one JSON file a run, with the paper's numbers beside ours. No torch here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from inputaware.config.fields import AttackName, Config
from inputaware.config.record import config_to_dict
from inputaware.errors import RunFolderError
from inputaware.runs.description import resume_command
from inputaware.runs.files import read_json
from inputaware.runs.journal import Journal, last_of_each

__all__ = [
    "collect_result",
    "device_in_words",
    "published",
    "published_filters",
    "published_latency",
    "read_evaluation",
]

_SHOWN = (
    *("clean_accuracy", "attack_success_rate", "attack_success_rate_excluding_target"),
    *("cross_accuracy", "cross_accuracy_std"),
)
"""Rates of an evaluation that are shown; none where a notion does not apply."""


def published(config: Config) -> dict[str, float] | None:
    """Return the paper's clean, attack and cross accuracy for a data set and target, as fractions; or none."""
    if config.attack != "input-aware":
        return None
    row: dict[str, float] | None = _published_table().get(config.dataset, {}).get(config.target)
    return row


def published_latency(dataset: str) -> dict[str, float] | None:
    """Return the paper's inference times in milliseconds by network (its table 2, RTX 2080 Ti); or none."""
    row: dict[str, float] | None = _published_table().get(dataset, {}).get("latency_ms")
    return row


def published_filters(dataset: str) -> dict[str, dict[str, float]] | None:
    """Return the paper's clean and attack accuracy by filter, all-to-all, as fractions (its table 4); or none."""
    rows: dict[str, dict[str, float]] | None = _published_table().get(dataset, {}).get("filters")
    return rows


def _published_table() -> dict[str, dict[str, dict[str, Any]]]:
    import json

    table: dict[str, dict[str, dict[str, Any]]] = json.loads(
        files("inputaware.runs").joinpath("published.json").read_text(encoding="utf-8")
    )
    return table


def device_in_words(environment: Mapping[str, Any]) -> str:
    """Return what a run was computed on: the GPU, or the processor where it was none.

    Args:
        environment: what ``environment.json`` holds.
    """
    return str(environment["processor"] if environment["device"] == "cpu" else environment["device"])


def collect_result(folder: Path, config: Config) -> dict[str, Any]:
    """Return what a finished run publishes: scores, settings, machine, cost, and the paper's numbers.

    Of a run that was trained elsewhere, an import of the release's, epochs and cost of training are none.

    Args:
        folder: the run folder.
        config: its configuration.

    Raises:
        RunFolderError: the run is not finished, or a file of it is missing or corrupt.
    """
    if not (folder / "evaluation.json").exists():
        raise RunFolderError(
            f"{folder}: expected a finished run with an evaluation.json; found none; "
            f"go on with: {resume_command(folder)}"
        )
    environment = read_json(folder / "environment.json")
    rows = Journal(folder / "timing.jsonl").rows()
    metrics = Journal(folder / "metrics.jsonl").rows()
    elsewhere = not metrics and "imported" in environment
    if not elsewhere:
        stages = [row.get("stage") for row in metrics]
        # Ours end with the joint stage. What others call their last one is not known.
        last = "joint" if config.attack in get_args(AttackName) or not stages else stages[-1]
        _check_last_stage(folder / "metrics.jsonl", stages, last)
        _check_last_stage(folder / "timing.jsonl", [row.get("part") for row in rows], last)
    try:
        timing = last_of_each(rows)
        defending = {row["part"]: row for row in timing if row["part"].startswith("defense ")}
        timing = [row for row in timing if row["part"] not in defending]
        return {
            "dataset": config.dataset,
            "attack": config.attack,
            "target": config.target,
            "target_class": config.target_class if config.target == "all-to-one" else None,
            "preset": config.preset,
            "seed": config.seed,
            "trained_on": _trained_on(config, elsewhere)
            + ("" if config.train_images is None else f", {config.train_images} of its images"),
            "resumed": len(environment.get("resumed", [])),
            "evaluation": read_json(folder / "evaluation.json"),
            "paper": published(config),
            "validation_by_epoch": None if elsewhere or not config.hold_out else _by_epoch(metrics, last),
            "wall_seconds": None if elsewhere else round(sum(row["seconds"] for row in timing), 1),
            "seconds_by_part": {
                part: round(sum(row["seconds"] for row in timing if row["part"] == part), 1)
                for part in dict.fromkeys(row["part"] for row in timing)
            },
            "peak_memory_mib": None if elsewhere else max(row["peak_memory_mib"] for row in timing),
            "defenses": {
                path.stem: {**read_json(path), **_cost(defending[f"defense {path.stem}"])}
                for path in sorted(folder.glob("defenses/*.json"))
                if path.with_suffix(".npz").exists()
            },
            "device": device_in_words(environment),
            "gpus": 0 if environment["device"] == "cpu" else int(environment.get("processes", 1)),
            "threads": environment["threads"],
            "precision": environment["precision"],
            "command": environment["command"],
            "commit": environment["commit"],
            "versions": {"python": environment["python"], **environment["versions"]},
            "config": config_to_dict(config),
        }
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{folder}: expected the records of a finished run; found {type(error).__name__}: {error}; "
            "restore its files or train again"
        ) from None


def _check_last_stage(file: Path, stages: Sequence[object], last: object) -> None:
    """Refuse a journal that has lost the stage every training ends with."""
    if last not in stages:
        raise RunFolderError(
            f"{file}: expected rows of the {last} stage; found {'none' if file.exists() else 'no such file'}; "
            "restore the file from a copy, or train again into another folder"
        )


def _trained_on(config: Config, elsewhere: bool) -> str:
    if elsewhere:
        return "the whole training set, by the authors' release"
    return "the train split" if config.hold_out else "the whole training set, none held out"


def _by_epoch(metrics: list[dict[str, Any]], stage: object) -> dict[str, list[Any]]:
    """Return what was watched in the last stage, a list with a place for each epoch."""
    rows = [row["validation"] for row in metrics if row["stage"] == stage]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _cost(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a defense cost."""
    return {key: row[key] for key in ("seconds", "peak_memory_mib")}


def read_evaluation(file: Path) -> dict[str, Any]:
    """Return what an ``evaluation.json`` holds, with all that is shown of it.

    Raises:
        RunFolderError: the file is missing, corrupt, or holds something else.
    """
    result = read_json(file)
    trigger = result.get("trigger")
    numbers = [result.get("test_images")]
    numbers += [result.get(name, "none") for name in _SHOWN if result.get(name, "none") is not None]
    if trigger is not None:
        numbers += [trigger.get(name) for name in ("mask_area", "psnr_db")] if isinstance(trigger, dict) else ["none"]
    if (reuse := result.get("reuse")) is not None:  # of an evaluation from before it was measured there is none
        nearest = reuse.get("nearest") if isinstance(reuse, dict) else None
        nearest = nearest if isinstance(nearest, dict) else {}
        gets_target = nearest.get("gets_target", "none")
        numbers += [nearest.get("images"), nearest.get("keeps_label"), 0 if gets_target is None else gets_target]
    classes = result.get("per_class")
    counts = classes.get("images") if isinstance(classes, dict) else None
    counts = counts if isinstance(counts, list) and counts else ["none"]
    numbers += counts
    numeric = all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
    # No image at all has no rates.
    if not numeric or min(counts) < 0 or not any(counts):
        raise RunFolderError(
            f"{file}: expected an evaluation's rates; found others; "
            f"make it again with: inputaware evaluate {shlex.quote(str(file.parent))}"
        )
    return result
