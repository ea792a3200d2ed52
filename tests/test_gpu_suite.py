"""The pieces of ``scripts/gpu-suite``: as a person runs them, and with a small program in place of the package."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tyro
from data.material import encoded, write_parquet, zipped

from inputaware import preset_config, train
from inputaware.arguments import parse_train
from inputaware.commands import BenchmarkCommand, DefendCommand
from inputaware.config.checks import check_config
from inputaware.defenses.settings import DefenseSettings, StripSettings
from inputaware.errors import DataError, DeviceError, UsageError, WriteError
from inputaware.runs.files import read_json, write_json
from inputaware.runs.journal import Journal

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu-suite"


@pytest.fixture(scope="module")
def script(load_script: Callable[[Path], ModuleType]) -> ModuleType:
    """Return the script as a module."""
    return load_script(SCRIPT)


def test_what_the_checkout_has_from_a_gpu_is_done(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "ROOT", tmp_path)
    (tmp_path / "results" / "benchmark").mkdir(parents=True)
    cells = script.plan()
    assert not any(script.published(cell) for cell in cells)
    whole = {"gpus": 1, "defenses": {name: {} for name in script.ORDER}}
    partly = {"gpus": 1, "defenses": {"strip": {}}}
    for name, record in {
        "cifar10-all-to-one-seed-0": whole,
        "gtsrb-badnets-seed-0": partly,
        "mnist-none-seed-0": {**whole, "gpus": 0},
    }.items():
        write_json(tmp_path / "results" / f"{name}.json", record)
    write_json(tmp_path / "results" / "benchmark" / "gpu-mnist.json", {})
    assert {cell.name for cell in cells if script.published(cell)} == {
        "cifar10-all-to-one-seed-0",
        "defend-cifar10-all-to-one-seed-0",
        "gtsrb-badnets-seed-0",
        "benchmark-mnist",
    }


def write_data(folder: Path, shape: tuple[int, ...], classes: int) -> None:
    """Write a data set in the hub's layout: as many training images as the splits ask for, one for each class."""
    random = np.random.default_rng(0)
    pictures = [encoded(random.integers(0, 256, shape, dtype=np.uint8)) for _ in range(classes)]
    for split, count in (("train", 10_100), ("test", 2 * classes)):
        labels = [number % classes for number in range(count)]
        write_parquet(folder / f"{split}.parquet", [pictures[label] for label in labels], labels)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder with small data sets, one of which is damaged."""
    write_data(tmp_path / "data/cifar10", (8, 8, 3), 10)
    write_data(tmp_path / "data/mnist", (8, 8), 10)
    (tmp_path / "data/gtsrb").mkdir()
    for split in ("train", "test"):
        (tmp_path / f"data/gtsrb/{split}.parquet").write_bytes(b"damaged")
    return tmp_path / "data"


def members(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_the_second_piece_goes_on_from_the_archive_alone(data: Path, tmp_path: Path) -> None:
    cells = ["defend-cifar10-all-to-one-seed-0", "gtsrb-none-seed-0", "mnist-paper-all-to-one-seed-0"]
    first, second, temporary = tmp_path / "first", tmp_path / "second", tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, str(SCRIPT), "--tiny", "--minutes", "20", "--data", str(data), "--only", *cells]
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}

    def begin() -> str:
        """Stop a piece in the midst of the run that may span pieces, as at a piece's end, and return what it said."""
        with subprocess.Popen(
            [*command, "--", str(first)], stdout=subprocess.PIPE, text=True, env=environment
        ) as piece:
            until = time.monotonic() + 300
            while piece.poll() is None and time.monotonic() < until:
                if any(Journal(path).rows() for path in temporary.glob("*/runs/mnist-*/metrics.jsonl")):
                    break
                time.sleep(0.05)
            piece.send_signal(signal.SIGTERM)
            said = piece.communicate(timeout=120)[0]
        assert piece.returncode == 143
        return said

    said = begin()
    if "runs/mnist-paper-all-to-one-seed-0/evaluation.json" in members(first / "gpu-suite.zip"):
        # A machine that was busy with other things let the signal come when the run's few seconds were over.
        (first / "gpu-suite.zip").unlink()
        said = begin()
    assert "defend-cifar10-all-to-one-seed-0: done\n" in said
    assert "gtsrb-none-seed-0: failed, exit code 2: inputaware: " in said
    assert list(first.iterdir()) == [first / "gpu-suite.zip"]
    assert list(temporary.glob("gpu-suite-*")) == []
    kept = members(first / "gpu-suite.zip")
    assert b"expected a Parquet file" in kept["logs/gtsrb-none-seed-0.log"]
    assert {"arrays/cifar10-all-to-one-seed-0/strip.npz", "records/cifar10-all-to-one-seed-0/metrics.jsonl"} <= set(
        kept
    )
    assert "runs/mnist-paper-all-to-one-seed-0/checkpoint/state.safetensors" in kept
    assert not any(name.startswith("runs/cifar10") for name in kept)

    archive = ["--previous", str(first / "gpu-suite.zip")]
    found = subprocess.run(
        [*command, *archive, "--", str(second)], capture_output=True, text=True, env=environment, check=False
    )
    assert (found.returncode, found.stderr) == (1, "")
    assert "defend-cifar10" not in found.stdout
    assert "mnist-paper-all-to-one-seed-0: done\n" in found.stdout
    assert "\n2 cells done, 1 failed, 0 left: " in found.stdout
    with zipfile.ZipFile(second / "gpu-suite.zip") as file:
        file.extractall(tmp_path / "kept")
    defended = read_json(tmp_path / "kept/results/cifar10-all-to-one-seed-0.json")
    assert list(defended["defenses"]) == ["strip"]
    assert defended["command"].startswith("inputaware train --dataset cifar10 --attack input-aware --target all-to-one")
    assert {"commit", "device", "wall_seconds", "seed"} <= set(defended)
    resumed = read_json(tmp_path / "kept/results/mnist-paper-all-to-one-seed-0.json")
    assert (resumed["resumed"], resumed["preset"]) == (1, "paper")
    epochs = Journal(tmp_path / "kept/records/mnist-paper-all-to-one-seed-0/metrics.jsonl").rows()
    assert [(row["stage"], row["epoch"]) for row in epochs] == [
        ("mask", 1),
        *(("joint", number) for number in range(1, 81)),
    ]
    assert not (tmp_path / "kept/runs").exists()


def test_the_list_needs_no_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", str(SCRIPT), str(tmp_path / "out"), "--tiny", "--list"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = found.stdout.splitlines()
    assert found.returncode == 0
    assert lines[0].split() == ["cifar10-all-to-one-seed-0", "left", "9", "s"]
    assert len(lines) == 77
    assert lines[36].split() == ["mnist-paper-all-to-all-seed-0", "left", "up", "to", "9", "s"]
    assert lines[-1].split() == ["defend-mnist-none-seed-4", "left", "18", "s"]
    assert "inputaware.runs.results" in found.stderr
    assert " torch\n" not in found.stderr
    assert not (tmp_path / "out").exists()


PROGRAM = """
import pathlib, sys, time
from inputaware.runs.files import write_json
seconds, _, result, code = sys.argv[1:]
print("something was said", flush=True)
time.sleep(float(seconds))
if code == "0":
    pathlib.Path("results").mkdir(exist_ok=True)
    write_json(pathlib.Path(result), {"environment": {"commit": "that of a copy"}})
sys.exit(int(code))
"""


def cell(script: ModuleType, name: str, *, seconds: float = 0, code: int = 0) -> Any:
    """Return a cell whose command, the program above, writes a small result, or fails."""
    arguments = (str(seconds), "--output", f"results/{name}.json", str(code))
    return script.Cell(name, 0, (script.Step(name, arguments),))


@pytest.fixture
def make(script: ModuleType, tmp_path: Path) -> Any:
    """Return what makes a piece out of cells, in a work folder of its own."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    count = iter(range(100))

    def piece(*cells: Any, seconds: float = 60, most_bytes: int = 2**20, **options: Any) -> Any:
        return script.Suite(
            cells,
            tmp_path / f"work-{next(count)}",
            tmp_path / "out" / "gpu-suite.zip",
            stop_at=time.monotonic() + seconds,
            grace=5,
            most_bytes=most_bytes,
            tiny=True,
            program=(sys.executable, str(program)),
            **options,
        )

    return piece


def states(suite: Any) -> dict[str, str]:
    return {cell.name: suite.state(cell) for cell in suite.cells}


def test_a_cell_is_stopped_at_the_end_of_a_piece_and_what_it_took_is_remembered(script, make, capsys):
    cells = [cell(script, "quick"), cell(script, "slow", seconds=60), cell(script, "next")]
    suite = make(*cells, seconds=4)
    suite.seconds = {"quick": 0.1, "slow": 0.2, "next": 5.0}
    started = time.monotonic()
    suite.run()
    assert 3 < time.monotonic() - started < 10
    assert states(suite) == {"quick": "done", "slow": "stopped", "next": "left"}
    took = float(suite.states["slow"]["why"].split(", ")[1].split()[0])
    assert took - 0.6 < suite.expected(cells[1]) / (1.1 * 1.25) < took + 0.6
    capsys.readouterr()
    assert script.report(suite, window=2) == 3
    assert "too long: slow: about " in capsys.readouterr().out
    # Another piece, from the archive: what was done stays so, and what is too slow for it is not begun again.
    suite = make(*cells, seconds=4)
    suite.restore(suite.archive)
    suite.seconds |= {"slow": 4.0, "next": 0.1}
    suite.run()
    assert states(suite) == {"quick": "done", "slow": "stopped", "next": "done"}
    assert suite.tried == {"next"}


def test_what_is_stopped_soon_keeps_its_guess_and_no_step_is_begun_in_the_grace(script, make):
    steps = [script.Step(name, ("60", "--output", "results/a.json", "0")) for name in ("train", "defend")]
    suite = make(seconds=1)
    suite.do(script.Cell("first", 0, tuple(steps)))
    assert suite.states["first"]["why"].startswith("at the end of a piece, ")
    assert suite.seconds == {"train": script.TINY_SECONDS}
    suite.do(script.Cell("second", 0, (steps[1],)))
    assert suite.states["second"] == {"state": "stopped", "why": "at the end of a piece, before defend"}
    assert not (suite.work / "logs/second.log").exists()


def test_of_a_cell_that_is_stopped_or_fails_the_defenses_that_were_done_are_kept(script, make, capsys):
    defend = script.Step("defend", ("60", "--output", "results/a.json", "0"))
    suite = make(seconds=60)
    config = preset_config(
        "fast", dataset="digits", attack="badnets", train_images=60, joint_stage={"epochs": 1, "batch_size": 30}
    )
    train(config, suite.work / "runs/a").defend(["strip"], DefenseSettings(strip=StripSettings(overlays=2)))
    one = script.Cell("defend-a", 0, (script.Step("train", ("train",)), defend), "a")
    suite.stop_at = time.monotonic() + 1
    suite.do(one)
    assert suite.states["defend-a"]["state"] == "stopped"
    result = suite.work / "results/a.json"
    assert list(read_json(result)["defenses"]) == ["strip"]
    assert (suite.work / "arrays/a/strip.npz").exists()
    # Trained once more to the same bits, and stopped before a defense had ended: what was kept stays.
    shutil.rmtree(suite.work / "runs/a/defenses")
    suite.stop_at = time.monotonic() + 60
    suite.do(replace(one, steps=(replace(defend, arguments=("0", "--output", "results/a.json", "7")),)))
    assert suite.states["defend-a"]["state"] == "failed"
    assert list(read_json(result)["defenses"]) == ["strip"]
    (suite.work / "runs/a/evaluation.json").write_text("{")
    capsys.readouterr()
    suite.do(replace(one, steps=(replace(defend, arguments=("0", "--output", "results/a.json", "7")),)))
    assert "defend-a: nothing of it is kept: " in capsys.readouterr().out


LONG = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: print("told to end", flush=True))
print(os.getpid(), flush=True)
while True:
    time.sleep(60)
"""

PIECE = """
import pathlib, signal, sys, time
import gpu_suite as script
folder = pathlib.Path(__file__).parent
for number in script.ENDING:
    signal.signal(number, signal.SIG_DFL)  # whatever the tests were started to ignore
script.heed_signals()
script.Suite(
    [script.Cell("long", 0, (script.Step("long", ("defend",)),))],
    folder / "work",
    folder / "out/gpu-suite.zip",
    stop_at=time.monotonic() + 60,
    grace=1.5,
    most_bytes=2**20,
    tiny=True,
    program=(sys.executable, str(folder / "long.py")),
).run()
"""


def wait_for(log: Path, words: str) -> str:
    until = time.monotonic() + 30
    while words not in (text := log.read_text() if log.exists() else ""):
        assert time.monotonic() < until, text
        time.sleep(0.02)
    return text


@pytest.mark.parametrize(("sent", "code"), [("SIGHUP", 129), ("SIGINT", 130), ("SIGTERM", 143), ("SIGKILL", -9)])
def test_a_signal_ends_the_command_too_and_a_second_one_changes_nothing(sent, code, tmp_path):
    (tmp_path / "long.py").write_text(LONG)
    (tmp_path / "piece.py").write_text(PIECE)
    (tmp_path / "gpu_suite.py").write_bytes(SCRIPT.read_bytes())
    log = tmp_path / "work/logs/long.log"
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "piece.py")], stdout=writing, stderr=subprocess.PIPE, text=True
    ) as piece:
        os.close(writing)
        child = int(wait_for(log, "\n"))
        os.close(reading)  # the connection is lost
        piece.send_signal(getattr(signal, sent))
        wait_for(log, "told to end\n")
        if sent == "SIGKILL":  # which leaves the command to itself; this one does not end when it is told to
            os.kill(child, signal.SIGKILL)
        else:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                piece.send_signal(number)
        assert piece.communicate(timeout=60)[1] == ""
    assert piece.returncode == code
    kept = members(tmp_path / "out/gpu-suite.zip")
    if sent == "SIGKILL":
        assert set(kept) == {"state.json"}
    else:
        assert kept["logs/long.log"] == f"{child}\ntold to end\n".encode()
        assert b'"why": "by a signal"' in kept["state.json"]
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_a_signal_while_the_archive_is_written_loses_nothing(script, make, monkeypatch):
    suite = make(cell(script, "quick"))
    saved = []

    def save() -> None:
        saved.append(suite.state(suite.cells[0]))
        if len(saved) == 2:
            sys.exit(143)

    monkeypatch.setattr(suite, "save", save)
    with pytest.raises(SystemExit):
        suite.run()
    assert saved == ["left", "done", "done"]


def test_a_place_that_cannot_be_written_is_told_before_the_first_cell(script, make, tmp_path):
    (tmp_path / "out").write_text("a file")
    suite = make(cell(script, "quick"))
    with pytest.raises(WriteError, match=r"out: expected to write this; found: File exists; choose another place, and"):
        suite.run()
    assert suite.tried == set()


def test_what_failed_is_reported_and_comes_last(script, make, capsys):
    cells = [cell(script, "broken", code=7), cell(script, "whole")]
    suite = make(*cells, commit="0123")
    suite.run()
    assert states(suite) == {"broken": "failed", "whole": "done"}
    assert script.report(suite, window=60) == 1
    shown = capsys.readouterr().out
    assert "broken: failed, exit code 7: something was said\n" in shown
    assert "failed: broken: exit code 7: something was said; its log is in the archive\n" in shown
    kept = members(suite.archive)
    assert kept["logs/broken.log"] == b"something was said\n"
    assert read_json(suite.work / "results/whole.json") == {"environment": {"commit": "0123"}}
    suite = make(cells[0], cell(script, "new"))
    suite.restore(suite.archive)
    assert suite.next().name == "new"


def test_defenses_come_early_where_their_run_is_at_hand_and_fail_with_its_training(script, make):
    cells = script.plan(tiny=True)
    suite = make(*cells)
    assert suite.next().name == "cifar10-all-to-one-seed-0"
    suite.tried = {cell.name for cell in cells if cell.priority == script.FIRST}
    assert suite.next().name == "cifar10-badnets-seed-0"
    run = suite.work / "runs/gtsrb-all-to-one-seed-0"
    run.mkdir()
    write_json(run / "evaluation.json", {})
    assert suite.next().name == "defend-gtsrb-all-to-one-seed-0"
    assert [step.kind for step in suite.steps(suite.next())] == ["defend gtsrb"]
    training = next(cell for cell in cells if cell.name == "cifar10-none-seed-0")
    suite.give_up(training, training.steps[0])
    assert suite.states == {
        name: {"state": "failed", "why": "its training did"}
        for name in ("cifar10-none-seed-0", "defend-cifar10-none-seed-0")
    }


def test_a_run_that_was_trained_twice_keeps_its_earlier_results(script, make, monkeypatch):
    suite = make()
    run = next(cell for cell in script.plan(tiny=True) if cell.run == "gtsrb-none-seed-0")
    folder = suite.work / "runs" / run.run
    folder.mkdir()
    monkeypatch.setattr(script, "read_description", lambda folder: (None, None))
    monkeypatch.setattr(
        script,
        "collect_result",
        lambda folder, _: {"commit": "1", "evaluation": read_json(folder / "evaluation.json"), "defenses": {}},
    )
    for rate in (0.5, 0.5, 0.25, 0.125):
        write_json(folder / "evaluation.json", {"rate": rate})
        (folder / "metrics.jsonl").write_text(str(rate))
        suite.publish(run)
    for name, rate in (("{}", 0.125), ("earlier/{}-1", 0.5), ("earlier/{}-2", 0.25)):
        name = name.format("gtsrb-none-seed-0")
        assert read_json(suite.work / f"results/{name}.json")["evaluation"] == {"rate": rate}
        assert (suite.work / f"records/{name}/metrics.jsonl").read_text() == str(rate)
    assert len(list(suite.work.glob("re*/earlier/*"))) == 4


def test_what_makes_the_archive_too_large_is_left_out_in_order_and_said(make, capsys):
    suite = make()
    random = np.random.default_rng(0)
    sizes = {
        "arrays/a/small.npz": 1000,
        "arrays/a/large.npz": 2000,
        "logs/cell.log": 3000,
        "runs/mnist/checkpoint/state.safetensors": 4000,
        "results/a.json": 5000,
    }
    suite.unfinished = {"mnist"}
    for name, size in sizes.items():
        (suite.work / name).parent.mkdir(parents=True, exist_ok=True)
        (suite.work / name).write_bytes(random.bytes(size))
    kept = {"state.json", *sizes}
    for most, left_out in (
        (20_000, []),
        (14_500, ["arrays/a/large.npz"]),
        (12_900, ["arrays/a/small.npz"]),
        (6_000, ["logs/cell.log", "runs/mnist/checkpoint/state.safetensors"]),
    ):
        suite.most_bytes = most
        suite.save()
        kept -= set(left_out)
        assert set(members(suite.archive)) == kept
        assert suite.archive.stat().st_size <= most
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition("MiB: ")[2] for line in lines] == left_out
    before = suite.archive.read_bytes()
    suite.most_bytes = 5000
    with pytest.raises(WriteError, match=r"expected at most 5000 bytes; found 5\d\d\d without arrays, logs and check"):
        suite.save()
    assert suite.archive.read_bytes() == before


def test_no_archive_is_written_that_would_not_be_read(script, make, monkeypatch, capsys):
    monkeypatch.setattr(script, "MOST_UNPACKED", 2**20)
    suite = make()
    for name in ("arrays/a/zeros.npz", "results/zeros.json"):
        (suite.work / name).parent.mkdir(parents=True)
        (suite.work / name).write_bytes(bytes(2**19))
    suite.save()
    assert capsys.readouterr().out == "left out of an archive of 1 MiB, unpacked 1 MiB: arrays/a/zeros.npz\n"
    make().restore(suite.archive)
    (suite.work / "results/zeros.json").write_bytes(bytes(2**20))
    with pytest.raises(WriteError, match=r"at most 1048576 bytes when unpacked; found 1048\d\d\d without .*; begin"):
        suite.save()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"../state.json": b"{}"}, "expected names inside the archive's own folder; found '../state.json'"),
        ({"state.json": b"{}", "/etc/x": b""}, "expected names inside the archive's own folder; found '/etc/x'"),
        ({"state.json": b"{}", "runs/a/../../../x": b""}, "expected names inside the archive's own folder"),
        ({"state.json": b"{}", "program.pkl": b""}, "expected an archive that gpu-suite has written; found a file"),
        ({"results/a.json": b"{}"}, "expected an archive that gpu-suite has written; found no state.json"),
        ({"state.json": b"{}"}, "expected the state of each cell in state.json; found another layout"),
        ({"state.json": b'{"tiny": true, "cells": {"a": 1}, "seconds": {}}'}, "expected the state of each cell"),
        (
            {"state.json": b'{"tiny": true, "cells": {"a": {"state": "new", "why": ""}}, "seconds": {}}'},
            "expected the state of each cell",
        ),
        ({"state.json": b'{"tiny": true, "cells": {}, "seconds": {"a": -1}}'}, "expected the state of each cell"),
        ({"state.json": b'{"tiny": true, "cells": {}, "seconds": {"a": 1e999}}'}, "expected the state of each cell"),
        (
            {"state.json": b'{"tiny": true, "cells": {}, "seconds": {"a": 1' + 400 * b"0" + b"}}"},
            "expected the state of each cell",
        ),
        ({"state.json": b"{"}, "bad.zip: expected the state of each cell"),
        ({"state.json": b'{"sha256": "0"}'}, "bad.zip: expected the state of each cell"),
        ({"state.json": b"{}", "runs/a": b"", "runs/a/b": b""}, "found 'runs/a/b': File exists; take another one"),
        ({"state.json": b"{}", "runs/./.": b""}, "found 'runs/./.': Is a directory; take another one"),
        ({"state.json": b"{}", "runs/" + 300 * "a": b""}, "aaa': File name too long; take another one"),
        ({"state.json": b'{"tiny": false, "cells": {}, "seconds": {}}'}, "expected cells that were made with --tiny"),
        ({"state.json": bytes(2**21)}, "expected at most 1048576 bytes when unpacked; found 2097152"),
    ],
)
def test_an_archive_that_is_none_of_ours_is_refused(files, words, script, make, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "MOST_UNPACKED", 2**20)
    suite = make()
    (tmp_path / "bad.zip").write_bytes(zipped(files))
    with pytest.raises(DataError) as found:
        suite.restore(tmp_path / "bad.zip")
    assert words in str(found.value)
    assert not (tmp_path / "x").exists()


def test_the_package_takes_every_command(script):
    """Parsed as the command line does it; that the small ones run is seen above."""
    names = set()
    for planned in script.plan():
        for step in planned.steps:
            name, *arguments = step.arguments
            names.add(name)
            if name == "train":
                _, config = parse_train(arguments)
                assert config is not None
                check_config(config)
                assert planned.run == str(arguments[-1]).removeprefix("runs/")
            else:
                tyro.cli({"defend": DefendCommand, "benchmark": BenchmarkCommand}[name], args=arguments)
    assert names == {"train", "defend", "benchmark"}


def test_a_machine_without_gpu_or_packages_is_refused(script, tmp_path):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with pytest.raises(DeviceError, match="expected a GPU; found none; run this on a machine with one, or try it out"):
        script.check_machine(environment, tiny=False)
    (tmp_path / "cattrs.py").write_text("raise ImportError('no such package')")
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with pytest.raises(
        UsageError, match=r"expected all packages .*; found: ImportError: no such package; install what"
    ):
        script.check_machine(environment, tiny=True)


def test_mistakes_are_told(tmp_path: Path) -> None:
    def call(*options: str) -> tuple[int, str]:
        command = [sys.executable, str(SCRIPT), str(tmp_path / "out"), *options]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        return found.returncode, found.stderr.splitlines()[-1]

    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(b"\x80\x04.")  # a pickle
    assert call("--previous", str(damaged)) == (
        2,
        f"gpu-suite: damaged.zip: expected a whole archive; found a damaged one (File is not a zip file); "
        f"remove {damaged}",
    )
    assert call("--data", str(tmp_path)) == (
        2,
        f"gpu-suite: {tmp_path}/cifar10/train.parquet: expected the images of this split; found no file; see --data",
    )
    code, words = call("--only", "benchmark-mnist", "nothing")
    assert code == 2
    assert words.endswith("; found nothing")
    for number in ("nan", "inf", "0"):
        code, words = call("--mib", number)
        assert (code, words.partition("error: ")[2]) == (
            2,
            f"--minutes, --mib: expected finite numbers above 0; found 9, {number}",
        )
    code, words = call("--minutes", "inf")
    assert (code, words.partition("; ")[2]) == (2, "found inf, 16")
    code, words = call("--previous", str(tmp_path / "none.zip"))
    assert (code, words.partition("error: ")[2]) == (
        2,
        f"--previous: expected an archive; found no file '{tmp_path / 'none.zip'}'",
    )
