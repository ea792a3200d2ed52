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
from inputaware.runs.files import check_place, write_bytes, write_text, writing

__all__ = ["check_index", "write_index", "write_item"]

_TITLE = "# The paper, ours beside theirs"
"""The page's first line, by which it is known again."""

_MOST_BYTES = 2**24
"""Largest page that is read; one of all data sets is far smaller."""

_ROWS_SHOWN = 12
"""Rows of a table on a page; a longer one is a curve, which the picture shows and the CSV file holds."""


def write_item(folder: Path, dataset: str, name: ItemName, made: Made, seeds: Sequence[int]) -> None:
    """Write an item: ``DATASET/NAME.md`` with its numbers, picture and note, and the parts by themselves.

    Args:
        folder: of the reproduction.
        dataset: the data set.
        name: the item's.
        made: the item.
        seeds: those that were asked for.

    Raises:
        WriteError: a file cannot be written.
    """
    place = folder / dataset
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    for kind, content in (("png", png_figure(made.figure)), ("svg", svg_figure(made.figure))):
        write_bytes(place / f"{name}.{kind}", content)
    if made.rows:
        write_text(place / f"{name}.csv", _csv(made.rows))
    write_text(place / f"{name}.md", _markdown(dataset, name, made, seeds))


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


def _markdown(dataset: str, name: ItemName, made: Made, seeds: Sequence[int]) -> str:
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
    parts.append(f"Made by `{command}`; as {files}.")
    return "\n\n".join(parts) + "\n"


def check_index(folder: Path) -> None:
    """Check that the page can be written, and that it would replace nothing but an earlier one.

    Args:
        folder: of the reproduction.

    Raises:
        RunFolderError: it cannot be written, or something else is in its place.
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
                f"output: expected a folder without a README.md, or with an earlier reproduction's; found another "
                f"{str(path)!r}; choose another folder"
            )


def write_index(folder: Path, impossible: Mapping[str, Mapping[ItemName, str]]) -> Path:
    """Write ``README.md``: every item that is in the folder, of whichever call, and what could not be made and why.

    Args:
        folder: of the reproduction.
        impossible: for each data set the items that cannot be made here, with the reason.

    Raises:
        WriteError: it cannot be written.
    """
    parts = [
        _TITLE,
        "Input-Aware Dynamic Backdoor Attack (Nguyen & Tran, NeurIPS 2020): the main paper's numbers of the attack, "
        "and every table and figure of its supplement that holds results.",
    ]
    for dataset in DATASETS:
        made = [name for name in ITEM_NAMES if (folder / dataset / f"{name}.md").exists()]
        missing = {name: reason for name, reason in impossible.get(dataset, {}).items() if name not in made}
        if made or missing:
            parts.append(f"## {dataset}")
        parts += [_moved((folder / dataset / f"{name}.md").read_text(encoding="utf-8"), dataset) for name in made]
        if missing:
            lines = [f"- {ITEMS[name].title}: {reason}" for name, reason in missing.items()]
            parts.append("Not made here:\n\n" + "\n".join(lines))
    path = folder / "README.md"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n\n".join(parts) + "\n")
    return path


def _moved(text: str, dataset: str) -> str:
    """Return an item's text as a part of the page one folder above: a smaller heading, its files found from there."""
    return text.strip().replace("# ", "### ", 1).replace("](", f"]({dataset}/")
