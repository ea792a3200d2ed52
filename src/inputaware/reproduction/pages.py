"""Items on disk: Markdown, CSV, PNG and SVG for each, and one page that shows them all."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from inputaware.config.datasets import DATASETS
from inputaware.data.reading import read_plain_file
from inputaware.errors import RunFolderError
from inputaware.figures.style import png_figure, svg_figure
from inputaware.reproduction.items import ITEM_NAMES, ITEMS, ItemName, Made
from inputaware.reproduction.works import Place
from inputaware.runs.files import check_place, read_json, write_bytes, write_json, write_text, writing

__all__ = ["check_index", "write_index", "write_item"]

_TITLE = "# The paper, ours beside theirs"
"""The page's first line, by which it is known again."""

_NOT_MADE = "not-made.json"
"""In a data set's folder: why items could not be made, so that the page of a later call says it too."""

_MOST_BYTES = 2**24
"""Largest page that is read; one of all data sets is far smaller."""

_ROWS_SHOWN = 12
"""Rows of a table on a page; a longer one is a curve, which the picture shows and the CSV file holds."""


def write_item(place: Place, dataset: str, name: ItemName, made: Made, seeds: Sequence[int]) -> None:
    """Write an item: ``DATASET/NAME.md`` with its numbers, picture and note, and the parts by themselves.

    Args:
        place: where the reproduction is, and how it is done.
        dataset: the data set.
        name: the item's.
        made: the item.
        seeds: those that were asked for.

    Raises:
        WriteError: a file cannot be written.
    """
    folder = place.output / dataset
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for kind, content in (("png", png_figure(made.figure)), ("svg", svg_figure(made.figure))):
        write_bytes(folder / f"{name}.{kind}", content)
    if made.rows:
        write_text(folder / f"{name}.csv", _csv(made.rows))
    write_text(folder / f"{name}.md", _markdown(place, dataset, name, made, seeds))


def _csv(rows: Sequence[Mapping[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    columns = list(rows[0])
    cells = [columns, ["---"] * len(columns), *([row[column] for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells)


def _markdown(place: Place, dataset: str, name: ItemName, made: Made, seeds: Sequence[int]) -> str:
    parts = [f"# {ITEMS[name].title}, {dataset}"]
    if made.rows and len(made.rows) <= _ROWS_SHOWN:
        parts.append(_table(made.rows))
    parts.append(f"![{ITEMS[name].title}]({name}.png)")
    if made.note:
        parts.append(made.note)
    files = ", ".join(f"[{kind}]({name}.{kind})" for kind in (["csv"] if made.rows else []) + ["png", "svg"])
    command = f"inputaware reproduce {name} --dataset {dataset}"
    if tuple(seeds) != (0,):
        command += f" --seeds {' '.join(map(str, seeds))}"
    command += "".join(
        f" --{option} {value}"
        for option, value, usual in (("preset", place.preset, "fast"), ("precision", place.precision, "auto"))
        if value != usual
    )
    parts.append(f"Made by `{command}`; as {files}.")
    return "\n\n".join(parts) + "\n"


def check_index(folder: Path) -> None:
    """Check that the page can be written, and that it would replace nothing but an earlier one.

    Args:
        folder: of the reproduction.

    Raises:
        RunFolderError: it cannot be written, something else is in its place, or a file that it is made of is corrupt.
    """
    path = folder / "README.md"
    check_place(path)
    if os.path.lexists(path):
        try:
            ours = read_plain_file(path, _MOST_BYTES).startswith(f"{_TITLE}\n".encode())
        except OSError:
            ours = False
        if not ours:
            raise RunFolderError(
                "output: expected a folder without a README.md, or with an earlier reproduction's; found another "
                f"{str(path)!r}; choose another folder"
            )
    for dataset in DATASETS:
        _reasons(folder / dataset)


def write_index(folder: Path, dataset: str, impossible: Mapping[ItemName, str]) -> Path:
    """Write ``README.md``: every item that is in the folder, of whichever call, and what could not be made and why.

    Args:
        folder: of the reproduction.
        dataset: the data set of this call.
        impossible: its items that cannot be made here, with the reason.

    Raises:
        RunFolderError: a file of reasons is corrupt.
        WriteError: a file cannot be written.
    """
    parts = [
        _TITLE,
        "Input-Aware Dynamic Backdoor Attack (Nguyen & Tran, NeurIPS 2020): the main paper's numbers of the attack, "
        "and every table and figure of its supplement that holds results.",
    ]
    place = folder / dataset
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    if impossible:
        reasons = {**_reasons(place), **impossible}
        write_json(place / _NOT_MADE, {str(item): reason for item, reason in reasons.items()})
    for name in DATASETS:
        place = folder / name
        made = [item for item in ITEM_NAMES if (place / f"{item}.md").exists()]
        missing = _reasons(place)
        if made or missing:
            parts.append(f"## {name}")
        parts += [_moved((place / f"{item}.md").read_text(encoding="utf-8"), name) for item in made]
        if missing:
            lines = [f"- {ITEMS[item].title}: {reason}" for item, reason in missing.items()]
            parts.append("Not made here:\n\n" + "\n".join(lines))
    path = folder / "README.md"
    write_text(path, "\n\n".join(parts) + "\n")
    return path


def _reasons(place: Path) -> dict[ItemName, str]:
    """Return why items of a data set could not be made so far, of those that are not made.

    Raises:
        RunFolderError: the file that says so is corrupt.
    """
    path = place / _NOT_MADE
    kept = read_json(path) if path.exists() else {}
    return {item: kept[item] for item in ITEM_NAMES if item in kept and not (place / f"{item}.md").exists()}


def _moved(text: str, dataset: str) -> str:
    """Return an item's text as a part of the page one folder above: a smaller heading, its files found from there."""
    return text.strip().replace("# ", "### ", 1).replace("](", f"]({dataset}/")
