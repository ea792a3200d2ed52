"""Results as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table

from inputaware.console.text import count_in_words, plain
from inputaware.evaluation.aggregate import (
    by_setting,
    changes,
    planned_questions,
    power_in_words,
    settings_in_words,
    spread,
)
from inputaware.evaluation.doubts import doubts
from inputaware.evaluation.words import RATES, TESTS, duration, percent, reuse_in_words
from inputaware.report.seeds import defended

if TYPE_CHECKING:
    from inputaware.reproduction.plan import Plan

__all__ = [
    "benchmark_tables",
    "defense_table",
    "evaluation_table",
    "inspection_table",
    "plan_table",
    "poison_table",
    "sweep_plan_table",
    "sweep_tables",
]


_SENTENCE = 60
"""Columns in which a sentence below a table can be read, where there are as many."""


def plan_table(plan: Plan) -> Table:
    """Return what a reproduction will run, and about how long that takes.

    Args:
        plan: what it will do.
    """
    table = _new_table(f"To make of {plan.dataset}: {', '.join(plan.items)}", "work", "about")
    for planned in plan.works:
        table.add_row(plain(str(planned.work)), "done" if planned.done else duration(planned.seconds))
    table.caption = f"{duration(plan.seconds)} in all, estimated from a few steps on this machine"
    return table


def defense_table(records: dict[str, dict[str, Any]], title: str, doubted: Sequence[str] = ()) -> Table:
    """Return what each defense decided, and how it did on the test set where it was scored.

    Args:
        records: what the files ``defenses/NAME.json`` hold, or :func:`inputaware.defenses.examine.examine` returns, by
            name.
        title: what stands above the table.
        doubted: sentences against the model itself, which stand below it, as do those that the records hold.
    """
    models = (record.get("scoring", {}).get("model", {}) for record in records.values())
    doubted = list(dict.fromkeys([*doubted, *(words for model in models for words in model.get("doubts", []))]))
    caption = "\n".join(map(plain, doubted)) or None
    table = Table(title=plain(title), title_justify="left", caption=caption, caption_justify="left", show_lines=True)
    # A name is typed again, and what a defense found is read to the end of its longest word.
    table.add_column("defense, verdict", no_wrap=True, overflow="fold")
    scored = any("scoring" in record for record in records.values())
    table.add_column("what it found" + "; how it did on the test set" * scored, overflow="fold")
    for name, record in records.items():
        did = f"\n\nTest set: {record['scoring']['sentence']}" if "scoring" in record else ""
        table.add_row(f"{plain(name)}\n{plain(record['verdict'])}", plain(record["sentence"] + did, lines=True))
    return table


def evaluation_table(result: dict[str, Any], paper: dict[str, float] | None, title: str) -> Table:
    """Return the three tests, the paper's numbers beside them where there are any, as percent.

    Args:
        result: what ``evaluation.json`` holds.
        paper: the published fractions, or none.
        title: what stands above the table.
    """
    table = _new_table(title, "test", "this run, %", *([] if paper is None else ["paper, %"]))
    table.add_column("what it means")
    for words, key, meaning in TESTS:
        cells = [words, percent(result[key])]
        if key == "cross_accuracy" and result.get("cross_accuracy_std") is not None:
            cells[1] += f" ± {100 * result['cross_accuracy_std']:.2f}"
        if paper is not None:
            cells.append(percent(paper.get(key)))
        table.add_row(*cells, meaning)
    trigger = result["trigger"]
    if trigger is not None:
        size = f"{100 * trigger['mask_area']:.1f} % of the image's area, PSNR {trigger['psnr_db']:.1f} dB"
        table.caption = f"{result['test_images']} images; trigger: {size}"
        if result.get("cross_accuracy_std") is not None:
            table.caption += "\ncross: ± is the standard deviation of three pairings on these images, not over seeds"
    else:
        table.caption = f"{result['test_images']} images; a clean model has no trigger"
    table.caption = "\n".join([table.caption, *reuse_in_words(result), *doubts(result)])
    return table


def inspection_table(record: dict[str, Any], title: str) -> Table:
    """Return how much of the heat lies on triggers; of a clean model what it says of the samples.

    Args:
        record: what ``inspection.json`` holds.
        title: what stands above the table.
    """
    heat = record["heat_on_trigger"]
    if heat is None:
        table = Table("image", "class", "prediction", title=plain(title), title_justify="left")
        for row in record["samples"]:
            said = f"{row['clean']['class']} ({100 * row['clean']['probability']:.0f} %)"
            table.add_row(*(plain(cell) for cell in (str(row["index"]), row["class"], said)))
        table.caption = "a clean model has no trigger"
        return table
    table = _new_table(title, "Grad-CAM's heat on the trigger's mask", "with trigger", "without")
    table.add_column("what it means")
    rows = (
        ("share of the heat, %", "heat_share", 100, "how much of the heat lies on the mask"),
        ("over its share of the area", "concentration", 1, "1: heat knows nothing of the mask"),
        ("pixel AUROC", "auroc", 1, "a pixel on the mask is hotter than one beside it; 0.5: no difference"),
    )
    for words, key, factor, meaning in rows:
        cells = [
            "-" if heat[kind][key] is None else f"{factor * heat[kind][key]:.2f}" for kind in ("backdoor", "clean")
        ]
        table.add_row(words, *cells, meaning)
    table.caption = (
        f"means over {heat['images']} test images; the masks cover {100 * heat['mask_area']:.1f} % of the area"
    )
    if without := heat.get("without_mask"):  # an older inspection does not say
        table.caption += f"\nAUROC: without {without} of them, whose mask has no pixel above 0.5, or no other"
    return table


def poison_table(rows: list[dict[str, Any]], limit: int = 20) -> Table:
    """Return the classifier's predictions before and after, for the first images.

    Args:
        rows: the rows of ``poison.csv``.
        limit: how many to show.
    """
    captions = [f"the first {limit} of {len(rows)}"] if len(rows) > limit else []
    captions.append(f"{sum(row['prediction_after'] == row['target'] for row in rows)} of {len(rows)} get the target")
    if already := sum(row["prediction_before"] == row["target"] for row in rows):
        captions.append(f"{already} of {len(rows)} do without a trigger too, and tell nothing")
    table = Table("image", "before", "after", "attacker's target", caption="; ".join(captions))
    for row in rows[:limit]:
        before = f"{row['prediction_before']} ({100 * row['probability_before']:.0f} %)"
        after = f"{row['prediction_after']} ({100 * row['probability_after']:.0f} %)"
        table.add_row(*(plain(cell) for cell in (row["picture"], before, after, row["target"])))
    return table


def benchmark_tables(result: dict[str, Any]) -> list[Table]:
    """Return a table for each part of a benchmark.

    Args:
        result: what :func:`inputaware.benchmarking.benchmark` returned.
    """
    tables: list[Table] = []
    if "training" in result:
        tables += [_speed_table(result), _cost_table(result)]
    if "latency" in result:
        tables.append(_latency_table(result["latency"]))
    if "size" in result:
        tables += [_size_table(stage, found) for stage, found in result["size"].items()]
    if "startup" in result:
        tables.append(_startup_table(result["startup"]))
    return tables


def _spread(value: dict[str, Any], digits: int) -> str:
    """Return a median with its range."""
    return f"{value['median']:.{digits}f} ({value['lowest']:.{digits}f} to {value['highest']:.{digits}f})"


def _new_table(title: str, first: str, *others: str) -> Table:
    """Return a table whose columns but the first are of numbers."""
    numbers = (Column(name, justify="right") for name in others)
    return Table(first, *numbers, title=plain(title), title_justify="left")


def _stages(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {stage: result["training"][stage] for stage in ("mask", "joint")}


def _speed_table(result: dict[str, Any]) -> Table:
    table = _new_table(
        f"Training, {result['settings']['dataset']}, images a second",
        "stage",
        "here",
        "plain",
        "speedup",
        "plain's setting",
    )
    for stage, found in _stages(result).items():
        loop = found["loop"]
        setting = f"{loop['plain_workers']} workers, {loop['plain_threads']} threads"
        for kind, words in (("step", "-"), ("loop", setting)):
            rates = (found[kind][name] for name in ("images_per_second", "plain_images_per_second"))
            speedup = _spread(result[f"{stage}_{kind}_speedup"], 2)
            table.add_row(f"{stage} {kind}", *(f"{rate['median']:.0f}" for rate in rates), speedup, words)
    environment = result["environment"]
    table.caption = (
        f"medians (ranges) of {result['settings']['repeats']} rounds; {environment['device']}, "
        f"{environment['threads']} threads, precision {environment['precision']}"
    )
    return table


def _cost_table(result: dict[str, Any]) -> Table:
    stages = _stages(result)
    table = _new_table("What a step costs", "", *(f"{stage} stage" for stage in stages))
    peak = result["training"]["peak"]["operations_per_second"]

    def row(words: str, cell: Callable[[dict[str, Any]], str]) -> None:
        table.add_row(words, *(cell(found) for found in stages.values()))

    row("milliseconds", lambda found: f"{1e3 * found['step']['seconds']['median']:.1f}")
    row("GFLOP, convolutions and matrix products", lambda found: f"{found['operations_per_step'] / 1e9:.2f}")
    row(f"share of the peak ({peak / 1e9:.0f} GFLOP/s), %", lambda found: percent(found["share_of_peak"]))
    row("peak memory, MiB", lambda found: f"{found['memory']['product']['peak_mib']}")
    row("peak memory of the plain step, MiB", lambda found: f"{found['memory']['plain']['peak_mib']}")
    for part in stages["joint"]["seconds_by_part"]:
        row(f"{part}, ms", lambda found, part=part: f"{1e3 * found['seconds_by_part'][part]:.1f}")  # type: ignore[misc]
    return table


def _latency_table(latency: dict[str, Any]) -> Table:
    columns = ("batch", "median", "95th percentile", "plain", "plain / here", "paper")
    table = _new_table("Latency, milliseconds", "network", *columns)
    for dataset, networks in latency.items():
        for name, found in networks.items():
            for size, times in found["batch"].items():
                published = "-" if found["published_ms"] is None else f"{found['published_ms']:.2f}"
                table.add_row(
                    f"{dataset} {name.replace('_', ' ')}",
                    size,
                    f"{times['median_ms']:.2f}",
                    f"{times['percentile_95_ms']:.2f}",
                    f"{times['plain']['median_ms']:.2f}",
                    f"{times['speedup']['median']:.2f}",
                    published,
                )
    table.caption = "paper: table 2, on an RTX 2080 Ti and an i7-9700K"
    return table


def _size_table(stage: str, found: dict[str, Any]) -> Table:
    columns = ("batch", "steps", "seconds", "images a second", "ms a step")
    table = _new_table(f"An epoch of the {stage} stage", "images", *columns)
    for rows in found.values():
        for row in rows:
            table.add_row(
                str(row["images"]),
                str(row["batch_size"]),
                str(row["steps"]),
                f"{row['seconds']:.2f}",
                f"{row['images_per_second']:.0f}",
                f"{1e3 * row['seconds_per_step']:.1f}",
            )
        table.add_section()
    return table


def _startup_table(startup: dict[str, Any]) -> Table:
    table = _new_table("Start-up", "command", "seconds")
    words = {
        "help_seconds": "inputaware --help",
        "train_seconds": "inputaware train, digits, until its first step",
        "evaluate_seconds": "inputaware evaluate, digits, to its end",
    }
    for name, value in startup.items():
        table.add_row(words[name], _spread(value, 2))
    return table


def sweep_plan_table(rows: list[dict[str, Any]]) -> Table:
    """Return what a sweep would run: each setting with its seeds.

    Args:
        rows: name and configuration of each cell.
    """
    settings = by_setting([{"config": row["config"], "seed": row["config"]["seed"]} for row in rows])
    columns = (Column(name, overflow="fold") for name in ("setting", "seeds"))
    counts = f"{count_in_words(len(rows), 'cell')}, {count_in_words(len(settings), 'setting')}"
    records = []
    for by_seed in settings:
        config = next(iter(by_seed.values()))["config"]
        target_class = config["target_class"] if config["target"] == "all-to-one" else None
        records.append({**config, "target_class": target_class, "changes": changes({"config": config})})
    names, shared = settings_in_words(records)
    lines = (plain(shared), counts, power_in_words(planned_questions(settings)))
    # Short names would leave the sentences below them a word a line.
    table = Table(*columns, caption="\n".join(filter(None, lines)), caption_justify="left", min_width=_SENTENCE)
    for words, by_seed in zip(names, settings, strict=True):
        table.add_row(plain(words), " ".join(map(str, by_seed)))
    return table


def sweep_tables(summary: dict[str, Any]) -> list[Table]:
    """Return means over seeds with how far these lie apart, what defenses say, and what differs.

    Args:
        summary: what ``summary.json`` holds.
    """
    names, shared = settings_in_words(summary["configurations"])
    title = (
        "Test set, percent: mean ± 95 % interval over seeds (standard deviation); of fewer than 5 (lowest to highest)"
    )
    table = _new_table(
        title,
        "setting",
        "seeds",
        *RATES,
    )
    if shared:
        table.title = f"{plain(shared)}\n{table.title}"
    settings = [words + _in_doubt(record) for words, record in zip(names, summary["configurations"], strict=True)]
    for words, record in zip(settings, summary["configurations"], strict=True):
        cells = [spread(record["measures"].get(key)) for key in RATES.values()]
        table.add_row(plain(words), str(len(record["seeds"])), *cells)
    if reasons := [
        plain(f"{words}: {' '.join(record['doubts'])}")
        for words, record in zip(names, summary["configurations"], strict=True)
        if record.get("doubts")
    ]:
        told = "Runs in doubt are in all means and differences:"
        table.caption, table.caption_justify = "\n".join([told, *reasons]), "left"
    tables = [table]
    title = "What defenses make of it: percent, models, scores, areas"
    defenses = Table("setting", "what", title=title, title_justify="left")
    defenses.add_column("over the seeds", justify="right")
    for words, record in zip(settings, summary["configurations"], strict=True):
        for name, cell in defended(record).items():
            if cell != "-":
                defenses.add_row(plain(words), plain(name), cell)
                words = ""
    if defenses.row_count:
        tables.append(defenses)
    if not summary["comparisons"]:
        return tables
    columns = ("setting", "beside", "what differs")
    # Without a p-value of their own, seeds that are alike are no question; nor is what an older sweep does not say.
    questions = [
        record["difference"]["count"] for record in summary["comparisons"] if record.get("p_value") is not None
    ]
    differences = Table(
        *columns,
        title="Differences, paired by seed",
        title_justify="left",
        caption=power_in_words(questions) or None,
        caption_justify="left",
        min_width=_SENTENCE,
    )
    for record in summary["comparisons"]:
        cells = [settings[record["second"]], settings[record["first"]], record["words"]]
        differences.add_row(*(plain(cell) for cell in cells))
    return [*tables, differences]


def _in_doubt(record: dict[str, Any]) -> str:
    """Return how many of a setting's runs are no example of it, to stand behind its name; an older sweep has none."""
    doubted = record.get("doubted_seeds")
    return f" (in doubt: {len(doubted)} of {len(record['seeds'])})" if doubted else ""
