"""What a sweep found: a row for each cell, as parquet and as CSV, and means over seeds in ``summary.json``."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inputaware.config.record import config_to_dict, flatten
from inputaware.errors import InputAwareError
from inputaware.evaluation.aggregate import aggregate, by_setting, comparisons, measures
from inputaware.evaluation.doubts import doubts, doubts_over_seeds
from inputaware.runs.environment import command_line
from inputaware.runs.files import write_atomically, write_json, write_text
from inputaware.runs.results import collect_result
from inputaware.sweeps.grid import Sweep
from inputaware.sweeps.progress import CellState

__all__ = ["summarize", "write_results"]

_MACHINE = ("device", "threads", "precision", "commit")


def write_results(sweep: Sweep, folder: Path, states: dict[str, CellState]) -> dict[str, Any]:
    """Write ``results.parquet``, ``results.csv`` and ``summary.json``, and return what the last one holds.

    A finished cell whose files cannot be read counts as broken from then on. Of a cell that its defenses broke, or
    that has not met them all, the evaluation counts.

    Args:
        sweep: what was to be run.
        folder: of the sweep.
        states: of its cells by name.

    Raises:
        WriteError: a file cannot be written.
    """
    results: dict[str, dict[str, Any]] = {}
    asked = {one.name for one in sweep.defenses}
    for cell in sweep.cells:
        state = states[cell.name]
        done = state.status in ("finished", "kept")
        try:
            result = collect_result(folder / "runs" / cell.name, cell.config)
        except InputAwareError as error:
            if done:
                state.status, state.error = "broken", str(error)
            continue
        # Others were not looked at: they may have been made with whatever settings, or by old code.
        result["defenses"] = {name: found for name, found in result["defenses"].items() if done and name in asked}
        results[cell.name] = result
    rows = [
        {
            "cell": cell.name,
            "status": states[cell.name].status,
            "error": states[cell.name].error,
            **flatten(config_to_dict(cell.config), "config."),
            **(_row(results[cell.name]) if cell.name in results else {}),
        }
        for cell in sweep.cells
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_atomically(folder / "results.parquet", lambda path: _write_parquet(path, rows, columns))
    write_text(folder / "results.csv", _csv(rows, columns))
    summary = summarize(list(results.values()), states)
    write_json(folder / "summary.json", summary)
    return summary


def summarize(results: Sequence[Mapping[str, Any]], states: Mapping[str, CellState]) -> dict[str, Any]:
    """Return means over seeds, comparisons, and what they were computed on, as plain data for JSON."""
    counts = Counter(state.status for state in states.values())
    return {
        "command": command_line(),
        "cells": {
            "finished": counts["finished"] + counts["kept"],
            "broken": counts["broken"],
            "left": counts["waiting"] + counts["running"],
        },
        "broken": {name: state.error for name, state in states.items() if state.status == "broken"},
        **{key: sorted({str(result[key]) for result in results}) for key in _MACHINE},
        "torch": sorted({result["versions"]["torch"] for result in results}),
        "seconds_of_all_trainings": round(sum(result["wall_seconds"] for result in results), 1),
        "configurations": [
            {**record, **_doubted(by_seed)}
            for record, by_seed in zip(aggregate(results), by_setting(results), strict=True)
        ],
        "comparisons": comparisons(results),
    }


def _doubted(by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Return which of a setting's runs are no example of it, and why, in words."""
    evaluations = {seed: result["evaluation"] for seed, result in by_seed.items()}
    return {
        "doubted_seeds": sorted(seed for seed, evaluation in evaluations.items() if doubts(evaluation)),
        "doubts": doubts_over_seeds(evaluations),
    }


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run found, beside its configuration."""
    return {
        "doubts": " ".join(doubts(result["evaluation"])),
        # Where no model has a verdict the column is there all the same, and empty.
        **{f"defenses.{name}.flagged": None for name in result["defenses"]},
        **measures(result),
        **{f"defenses.{name}.verdict": record["verdict"] for name, record in result["defenses"].items()},
        **{key: result[key] for key in (*_MACHINE, "resumed")},
        "torch": result["versions"]["torch"],
    }


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write a table with a column for every key that some row has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def column(key: str) -> Any:
        kind = pa.float64() if key.endswith(".flagged") else None
        return pa.array([row.get(key) for row in rows], type=kind)

    pq.write_table(pa.table({key: column(key) for key in columns}), path)


def _csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return the same table as text, without columns in which a list stands; a cell without a value is empty."""
    plain = [key for key in columns if not any(isinstance(row.get(key), list | tuple) for row in rows)]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, plain, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
