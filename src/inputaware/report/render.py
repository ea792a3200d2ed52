"""The page: everything of one or more runs in one HTML file that fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from inputaware import __version__
from inputaware.config.record import config_to_dict
from inputaware.defenses.settings import DEFENSES, PAPER_DEFENSES
from inputaware.errors import ConfigError, RunFolderError
from inputaware.evaluation.aggregate import changes
from inputaware.evaluation.words import in_percent
from inputaware.report.collect import CollectedRun, collect_run
from inputaware.report.figures import (
    beside_badnets,
    compare_anomalies,
    cross_matrix,
    defense_plot,
    gallery,
    heat_maps,
    said,
    training_plot,
)
from inputaware.report.seeds import over_seeds
from inputaware.report.verdict import (
    DEFENSE_TITLES,
    accuracy_rows,
    cost_rows,
    flat,
    target_words,
    verdict,
)
from inputaware.runs.files import check_output_file, make_folder_for, write_text

__all__ = ["render_report", "write_report"]


def write_report(
    runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Write one page about one or more runs: it opens from disk and fetches nothing.

    It shows what is in the run folders, and names the command for what is not there yet; nothing is computed anew.

    Args:
        runs: run folders, which need not be finished; one may stand by itself.
        output: the file to make, ``.html``.
        overwrite: replace a file that is there.
        progress: told the share of the work that is done.

    Raises:
        ConfigError: no run is named, or the file has another ending.
        RunFolderError: one is no run folder, a file in it is corrupt, or the page is there or cannot be made.
        WriteError: the disk is full, or the folder is gone.
    """
    runs = [runs] if isinstance(runs, str | os.PathLike) else runs
    if not runs:
        raise ConfigError("runs: expected at least one run folder; found none")
    path = Path(output)
    if path.suffix.lower() != ".html":
        raise ConfigError(f"output: expected a file that ends in .html; found {str(path)!r}; name it so")
    check_output_file(path, overwrite=overwrite)
    # The same folder named twice is one run.
    collected = [collect_run(run) for run in {os.path.realpath(run): run for run in runs}.values()]
    page = render_report(collected, progress=progress)
    make_folder_for(path)
    write_text(path, page)


def render_report(runs: Sequence[CollectedRun], *, progress: Callable[[float], None] = lambda share: None) -> str:
    """Return the page about collected runs.

    Args:
        runs: at least one.
        progress: told the share of the work that is done.

    Raises:
        RunFolderError: a file of a run does not hold what it should.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    runs = _named_apart(runs)
    shown, environments = [], []
    for place, run in enumerate(runs):
        with _explained(run.path):
            shown.append(_shown(run, f"run{place}", place + 1))
            environments.append(_environment(run))
        progress((place + 1) / (len(runs) + 1))
    with _explained(", ".join(str(run.path) for run in runs)):
        pairs, anomalies = _pairs(runs, shown), compare_anomalies(runs)
        together = over_seeds(
            {one["key"]: run.result for one, run in zip(shown, runs, strict=True) if run.result is not None}
        )
    # Autoescape is the one thing between a run's name and markup; nothing in the templates is marked as safe.
    environment = Environment(
        loader=PackageLoader("inputaware.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_unbroken,
    )
    style, script = (_template(name) for name in ("report.css", "report.js"))
    page = environment.get_template("report.html.j2").render(
        version=__version__,
        runs=shown,
        pairs=pairs,
        filters=_filters(shown),
        together=together,
        anomalies=anomalies,
        defenses=_titles(runs),
        settings=_beside([flat(config_to_dict(run.config)) for run in runs]),
        environments=_beside(environments),
        answers={one["key"]: {"classes": one["classes"], "said": one["said"]} for one in shown},
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        # The page's own files, not text from a run; they are part of this package.
        style=_Trusted(style),
        script=_Trusted(script),
    )
    progress(1.0)
    return page


def _titles(runs: Sequence[CollectedRun]) -> dict[str, str]:
    """Return the defenses that have a place on the page, the paper's and those that a run has met, with titles."""
    met = {name for run in runs for name in run.defenses}
    built_in = [name for name in DEFENSES if name in PAPER_DEFENSES or name in met]
    return {name: DEFENSE_TITLES.get(name, name) for name in (*built_in, *sorted(met - set(DEFENSES)))}


def _named_apart(runs: Sequence[CollectedRun]) -> list[CollectedRun]:
    """Return the runs, those of one name with that of the folder above before it."""
    names = Counter(run.name for run in runs)
    return [replace(run, name="/".join(run.path.resolve().parts[-2:])) if names[run.name] > 1 else run for run in runs]


@contextmanager
def _explained(path: object) -> Iterator[None]:
    """Say of files that are not what they should be where they are, whatever it is that trips."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise RunFolderError(
            f"{path}: expected the files of a run as inputaware writes them; found {type(error).__name__}: "
            f"{error}; restore them, or make them again with inputaware evaluate, and inspect and defend --overwrite"
        ) from error


class _Trusted(str):
    """Text that is markup already: only this package's own style and script."""

    __slots__ = ()

    def __html__(self) -> str:
        return self


def _unbroken(value: object) -> object:
    """Keep a number and its percent sign in one line; markup stays as it is."""
    return re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", value) if type(value) is str else value


def _template(name: str) -> str:
    return files("inputaware.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """Return how the page's policy names a style or script: no other one is applied or run."""
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _shown(run: CollectedRun, key: str, number: int) -> dict[str, Any]:
    """Return what the page says of a run."""
    trigger = None if run.result is None else run.result["evaluation"]["trigger"]
    inspected = run.inspected
    return {
        "key": key,
        "number": number,
        "name": run.name,
        "path": str(run.path),
        "dataset": run.spec.name,
        "attack": run.config.attack,
        "target": target_words(run.config, run.spec.class_names),
        "preset": run.config.preset
        + (", with other settings" if changes({"config": config_to_dict(run.config)}) else ""),
        "seed": run.config.seed,
        "classes": run.spec.class_names,
        "side": run.spec.shape[2],
        "missing": run.missing,
        "held_out": run.config.hold_out,
        "verdict": verdict(run),
        "finished": run.result is not None,
        "test_images": None if run.result is None else run.result["evaluation"]["test_images"],
        "accuracies": accuracy_rows(run),
        "paper": run.result is not None and run.result["paper"] is not None,
        "trigger": None
        if trigger is None
        else {
            "mask area": in_percent(trigger["mask_area"]),
            "PSNR": f"{trigger['psnr_db']:.1f} dB",
            "SSIM": "-" if trigger["ssim"] is None else f"{trigger['ssim']:.3f}",
        },
        "gallery": None if inspected is None else gallery(run),
        "matrix": None if inspected is None else cross_matrix(run),
        "crossed": None if inspected is None else _crossed(inspected.record["cross_trigger"]),
        "heat_maps": None if inspected is None else heat_maps(run),
        "heat": None if inspected is None else _heat(inspected.record["heat_on_trigger"]),
        "said": said(run),
        "training": training_plot(run),
        "defenses": {
            name: {
                "verdict": defended.record["verdict"],
                "sentence": defended.record["sentence"],
                "scoring": defended.record["scoring"]["sentence"],
                "plot": defense_plot(name, defended),
                "settings": flat(defended.record["settings"]),
            }
            for name, defended in run.defenses.items()
        },
        "costs": cost_rows(run),
        "seconds": None if run.result is None else run.result["wall_seconds"],
    }


def _crossed(record: dict[str, Any] | None) -> str:
    """Return how often own and other triggers work, in a sentence; nothing for a clean model."""
    if record is None:
        return ""
    own, other, kept = (
        in_percent(record[name], 0)
        for name in ("own_trigger_gets_target", "other_trigger_gets_target", "other_trigger_keeps_label")
    )
    return (
        f"Of {record['images']} images, {own} get the attacker's label from their own trigger and {other} from another "
        f"image's (those of that class are left out); {kept} keep their true label "
        "under another image's trigger."
    )


def _heat(record: dict[str, Any] | None) -> str:
    """Return how much of the heat lies on triggers, in a sentence; nothing for a clean model."""
    if record is None:
        return ""
    own, clean = (in_percent(record[kind]["heat_share"], 1) for kind in ("backdoor", "clean"))
    return (
        f"Over {record['images']} test images, {own} of the heat of an image with its trigger lies on its mask, and "
        f"{clean} of the heat of the clean image; the masks cover {in_percent(record['mask_area'], 1)} of the area."
    )


def _pairs(runs: Sequence[CollectedRun], shown: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return figure 1 for each run of the paper's attack and the BadNets run that shows the same images."""
    found = []
    for place, ours in enumerate(runs):
        for other, badnets in enumerate(runs):
            if (ours.config.attack, badnets.config.attack) != ("input-aware", "badnets"):
                continue
            if ours.inspected is None or badnets.inspected is None or ours.spec.shape != badnets.spec.shape:
                continue
            rows = beside_badnets(ours, badnets)
            if rows is not None:
                found.append({"ours": shown[place], "badnets": shown[other], "rows": rows})
                break
    return found


def _filters(shown: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Return what the runs can be filtered by: only what differs between them."""
    choices = {
        label: sorted({run[name] for run in shown})
        for label, name in (("data set", "dataset"), ("target", "target"), ("attack", "attack"))
    }
    return {label: values for label, values in choices.items() if len(values) > 1}


def _environment(run: CollectedRun) -> dict[str, str]:
    """Return what a run ran on; of a resumed one, the first time."""
    if run.environment is None:
        return {}
    known = {name: value for name, value in run.environment.items() if name != "resumed"}
    return flat(known) | {"resumed": str(len(run.environment.get("resumed", [])))}


def _beside(columns: Sequence[dict[str, str]]) -> list[tuple[str, list[str], bool]]:
    """Return a row for each name with each run's value, and whether they differ."""
    names = dict.fromkeys(name for column in columns for name in column)
    rows = []
    for name in names:
        values = [column.get(name, "-") for column in columns]
        rows.append((name, values, len(set(values)) > 1))
    return rows
