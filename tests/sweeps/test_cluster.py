"""Sweeps on a real Ray cluster: a head and two workers on loopback, one of which dies in mid-run."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import pytest

from inputaware.data.spec import dataset_spec
from inputaware.errors import ConfigError, RunFolderError
from inputaware.runs.checkpoint import load_checkpoint
from inputaware.runs.files import write_json
from inputaware.runs.folder import RunFolder
from inputaware.runs.journal import Journal
from inputaware.runs.results import _SHOWN
from inputaware.sweeps import cluster
from inputaware.sweeps.cluster import _run
from inputaware.sweeps.grid import plan_sweep
from inputaware.sweeps.progress import CellState

PATIENCE = 300
# Epochs of about a tenth of a second: a signal that is sent in mid-run arrives seconds before the end.
MASK, JOINT = 1, 40
SWEEP = {
    "base": {
        "dataset": "digits",
        "device": "cpu",
        "precision": "32",
        "seed": [0, 1],
        "train_images": 100,
        "validation_images": 20,
        "model": {"hidden_units": 16},
        "mask_stage": {"epochs": MASK, "batch_size": 50},
        "joint_stage": {"epochs": JOINT, "batch_size": 50},
    },
    # The second grid cannot train: there are fewer images than a batch holds.
    "runs": [{}, {"train_images": 10, "seed": 0}],
    "defense_settings": {"image_regularization": {"kernels": [3], "bits": [1]}, "feature-squeezing": {"side": 5}},
}
# A built-in one, and one that somebody else wrote.
DEFENSES = ["image-regularization", f"{Path(__file__).parents[2] / 'examples/own_defense.py'}:FeatureSqueezing"]
CELLS = 3
# A process that was started in the background would ignore SIGINT.
PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from inputaware.cli import main; sys.exit(main())"
)
COMMAND = [sys.executable, "-c", PROGRAM]


def until(condition: Callable[[], Any], what: str, process: subprocess.Popen[str] | None = None) -> Any:
    """Wait for something and return it."""
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        if found := condition():
            return found
        assert process is None or process.poll() is None, f"{what}: {process.communicate()}"
        time.sleep(0.1)
    raise AssertionError(f"waited {PATIENCE} s for {what}")


# Three Ray nodes with processes of their own, until stdin is closed.
NODES = """
import sys
from ray.cluster_utils import Cluster
small = {"object_store_memory": 80_000_000, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
for _ in range(2):
    cluster.add_node(num_cpus=1, **small)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


class Cluster:
    """A Ray head without processors and two workers with one each, on loopback."""

    def __init__(self) -> None:
        pytest.importorskip("ray", reason="Ray, of the extra 'cluster', is not installed")
        self.environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray's word for loopback only, on any system.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_worker_niceness": "0",
        }
        self.nodes = subprocess.Popen(
            [sys.executable, "-c", NODES],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.nodes.stdout is not None
        self.address = self.nodes.stdout.readline().strip()
        assert self.address.startswith("127.0.0.1:"), self.nodes.communicate()

    def stop(self) -> None:
        self.nodes.communicate(timeout=PATIENCE)

    def sweep(self, file: Path, output: Path, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, "sweep", str(file), "--output", str(output), "--json", "--address", self.address, *options],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Cluster]:
    running = Cluster()
    yield running
    running.stop()


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted((folder / "runs").rglob("*"))
        if path.is_file()
    }


def owner(run: Path) -> int | None:
    """Return the process that holds a run folder."""
    try:
        return int((run / ".lock").read_text())
    except (FileNotFoundError, ValueError):
        return None


def starts(run: Path) -> int:
    """Return how often a cell was begun or taken up again."""
    return [row["part"] for row in Journal(run / "timing.jsonl").rows()].count("preparation")


def in_mid_run(folder: Path, *, most: int, begun: dict[str, int]) -> tuple[Path, int] | None:
    """Return a run in the midst of its joint stage, with its process: begun since, some epochs done but not most."""
    for run in folder.glob("runs/*"):
        rows = (run / "metrics.jsonl").read_text().count("\n") if (run / "metrics.jsonl").exists() else 0
        if MASK + 2 <= rows <= MASK + most and starts(run) > begun.get(run.name, 0) and (holder := owner(run)):
            return run, holder
    return None


def test_an_interruption_and_a_killed_worker_lose_nothing_and_run_nothing_twice(
    ray_cluster: Cluster, tmp_path: Path
) -> None:
    file, output = tmp_path / "sweep.yaml", tmp_path / "sweep"
    file.write_text(json.dumps(SWEEP), encoding="utf-8")
    process = ray_cluster.sweep(file, output, "--defenses", *DEFENSES)
    interrupted, _ = until(lambda: in_mid_run(output, most=JOINT // 4, begun={}), "a cell in mid-run", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    words = ["inputaware", "sweep", str(file), "--output", str(output), "--json", "--address", ray_cluster.address]
    command = shlex.join([*words, "--defenses", *DEFENSES])
    assert err.endswith(f"inputaware: stopped; go on with: {command}\n")
    rows = pq.read_table(output / "results.parquet").to_pylist()
    states = {row["cell"]: row["status"] for row in rows}
    assert states[interrupted.name] in ("waiting", "running")  # whichever the sweep knew last
    assert "broken" not in list(states.values())[: CELLS - 1]
    # It was not cut off: it has saved the step that was under way.
    assert load_checkpoint(RunFolder(interrupted).checkpoint).rows == len(RunFolder(interrupted).metrics.rows())
    begun = {run.name: starts(run) for run in output.glob("runs/*")}

    process = ray_cluster.sweep(file, output, "--defenses", *DEFENSES)
    killed, victim = until(
        lambda: in_mid_run(output, most=JOINT * 3 // 4, begun=begun), "a cell that was taken up again", process
    )
    os.kill(victim, signal.SIGKILL)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, err  # for the broken cell
    summary = json.loads(out)
    assert summary["cells"] == {"finished": CELLS - 1, "broken": 1, "left": 0}
    (reason,) = summary["broken"].values()
    assert reason.startswith("joint_stage.batch_size: expected at most 10, the images of the training split; found 50")

    for run in sorted(output.glob("runs/*")):
        rows = [(row["stage"], row["epoch"]) for row in Journal(run / "metrics.jsonl").rows()]
        assert rows == [("mask", epoch + 1) for epoch in range(MASK)] + [("joint", epoch + 1) for epoch in range(JOINT)]
        assert {path.stem for path in (run / "defenses").glob("*.json")} == {
            "image-regularization",
            "feature-squeezing",
        }
        assert json.loads((run / "defenses" / "feature-squeezing.json").read_text())["settings"]["side"] == 5
        assert not (run / ".lock").exists()
        environment = json.loads((run / "environment.json").read_text())
        assert environment["threads"] == "1"
        # The mask stage is done once: whoever came later went on from its checkpoint.
        parts = [row["part"] for row in Journal(run / "timing.jsonl").rows()]
        assert parts.count("mask") == MASK
        assert parts.count("evaluation") == parts.count("defense image-regularization") == 1
        # Not as many as records of machines: a process that is stopped before its first step leaves but one of them.
        assert 1 <= starts(run) <= 3  # at first, after the interruption, after the kill
    # Begun in this sweep, and once more after the kill.
    assert starts(killed) >= begun.get(killed.name, 0) + 2

    (record,) = summary["configurations"]
    assert record["seeds"] == [0, 1]
    assert record["measures"]["clean_accuracy"]["count"] == 2
    table = pq.read_table(output / "results.parquet").to_pylist()
    assert [row["status"] for row in table] == ["finished"] * (CELLS - 1) + ["broken"]
    assert [row["config.seed"] for row in table] == [0, 1, 0]
    assert [row["clean_accuracy"] is None for row in table] == [False] * (CELLS - 1) + [True]
    assert table[-1]["error"] == reason

    # The same command again: what is finished stays as it is, and what is broken is tried once more.
    before = files(output)
    process = ray_cluster.sweep(file, output, "--defenses", *DEFENSES)
    # What was killed ended as if nothing had happened.
    whole = [*COMMAND, "train", "--config", str(killed / "config.json"), "--output", str(tmp_path / "whole")]
    subprocess.run(whole, env=ray_cluster.environment, check=True, capture_output=True, timeout=PATIENCE)
    for name in ("classifier.safetensors", "pattern_generator.safetensors", "evaluation.json", "metrics.jsonl"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, err
    assert files(output) == before
    assert json.loads(out)["cells"] == summary["cells"]


def refused(output: Path, **options: Any) -> str:
    """Return why a sweep is refused, into a finished sweep's folder, in which nothing changes, and into a new one."""
    summary = output / "finished/summary.json"
    summary.parent.joinpath("runs").mkdir(parents=True)
    summary.write_text("{}")
    with pytest.raises(ConfigError) as error:
        cluster.run_sweep(plan_sweep({"base": {"dataset": "digits"}}, {}), output / "finished", **options)
    with pytest.raises(ConfigError, match=re.escape(str(error.value))):
        cluster.run_sweep(plan_sweep({"base": {"dataset": "digits"}}, {}), output / "new", **options)
    assert {str(path.relative_to(output)) for path in output.rglob("*")} == {
        "finished",
        "finished/runs",
        "finished/summary.json",
    }
    assert summary.read_text() == "{}"
    return str(error.value)


def test_without_a_cluster_at_the_address(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray, of the extra 'cluster', is not installed")
    assert refused(tmp_path, address="127.0.0.1:1") == (
        "address: expected a Ray cluster at '127.0.0.1:1'; found: [Errno 111] Connection refused; "
        "start one with: ray start --head"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpus": 0}, "cpus: expected a number above 0; found 0"),
        ({"gpus": 1.5}, "gpus: expected 0, a fraction of 1, or a whole number; found 1.5"),
        ({"gpus": -1}, "gpus: expected 0, a fraction of 1, or a whole number; found -1"),
        ({"retries": -1}, "retries: expected a number of at least 0; found -1"),
    ],
)
def test_resources_that_make_no_sense(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        cluster.run_sweep(plan_sweep({"base": {"dataset": "digits"}}, {}), tmp_path / "sweep", **options)
    assert str(error.value) == message
    assert not (tmp_path / "sweep").exists()


class FakeRay:
    """Machines, as Ray tells of them."""

    def __init__(self, *machines: dict[str, float]) -> None:
        self.machines = machines

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": machine} for machine in self.machines] + [
            {"Alive": False, "Resources": {"CPU": 100.0, "GPU": 100.0}}
        ]


def test_how_many_cells_run_at_the_same_time() -> None:
    machines = FakeRay({"CPU": 4.0, "GPU": 1.0}, {"CPU": 3.0}, {})
    assert cluster._slots(machines, 1, 0) == 7
    assert cluster._slots(machines, 2, 0) == 3
    assert cluster._slots(machines, 0.5, 0) == 14
    assert cluster._slots(machines, 1, 0.25) == 4
    with pytest.raises(ConfigError) as error:
        cluster._slots(machines, 5, 1)
    assert str(error.value) == (
        "cpus, gpus: expected what one machine has, at most 4 processors and 1 GPUs; found 5 and 1"
    )


def test_more_processors_than_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_import_ray", lambda address: None)
    monkeypatch.setattr(cluster, "_connected", lambda ray, address: nullcontext(FakeRay({"CPU": 4.0})))
    assert refused(tmp_path, cpus=999.0).endswith("at most 4 processors and 0 GPUs; found 999 and 0")


def test_ray_is_not_needed_where_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_is_finished", lambda *_: True)
    monkeypatch.setattr(cluster, "_import_ray", lambda address: pytest.fail("Ray was asked for"))
    seen: list[dict[str, CellState]] = []
    sweep = plan_sweep({"base": {"dataset": "digits"}}, {})
    summary = cluster.run_sweep(sweep, tmp_path / "sweep", watch=lambda states, slots: seen.append(dict(states)))
    # There is no run folder, in truth: that is said, and the sweep ends.
    (reason,) = summary["broken"].values()
    assert "expected a finished run with an evaluation.json" in reason
    assert seen[0][sweep.cells[0].name].status == "broken"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_result_of_other_settings_is_refused_before_any_work(
    overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_import_ray", lambda address: pytest.fail("Ray was asked for"))
    # The first defense has no result yet, the second one another's.
    sweep = plan_sweep({"base": {"dataset": "digits"}, "defenses": ["image-regularization", "strip"]}, {})
    folder = tmp_path / "runs" / sweep.cells[0].name
    (folder / "defenses").mkdir(parents=True)
    write_json(folder / "evaluation.json", {})
    scoring = {"sentence": "", "scores": {}}
    record = {"verdict": "", "sentence": "", "scoring": scoring, "settings": {"overlays": 3}, "seed": 0}
    write_json(folder / "defenses" / "strip.json", record)
    (folder / "defenses" / "strip.npz").touch()
    if overwrite:
        assert not cluster._is_finished(sweep.cells[0], sweep, tmp_path, overwrite=True)
        return
    with pytest.raises(RunFolderError, match="found overlays 3 there, 100 here"):
        cluster.run_sweep(sweep, tmp_path)


@pytest.mark.parametrize("spoiled", [None, "config.json", "evaluation.json", "another run"])
def test_a_cell_is_finished_where_its_own_files_are_whole(spoiled: str | None, tmp_path: Path) -> None:
    sweep = plan_sweep({"base": {"dataset": "digits", "seed": 3 if spoiled == "another run" else 0}}, {})
    (cell,) = plan_sweep({"base": {"dataset": "digits"}}, {}).cells
    folder = tmp_path / "runs" / cell.name
    RunFolder.create(folder, sweep.cells[0].config, dataset_spec("digits"))
    rates = dict.fromkeys(_SHOWN, 0.5)
    write_json(folder / "evaluation.json", {**rates, "test_images": 2, "per_class": {"images": [1, 1]}})
    if spoiled in ("config.json", "evaluation.json"):
        (folder / spoiled).write_bytes((folder / spoiled).read_bytes()[:30])
    assert cluster._is_finished(cell, sweep, tmp_path, overwrite=False) is (spoiled is None)


def test_what_breaks_a_cell_is_told_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**order: Any) -> None:
        raise AssertionError("no")

    monkeypatch.setattr(cluster, "run_cell", fail)
    reason = cluster._work("name", {}, mock.MagicMock())
    assert re.fullmatch(rf"AssertionError: no \({re.escape(__file__)}, line \d+\)", reason)


def test_a_signal_that_ray_wraps_comes_out_as_itself() -> None:
    class Stop(BaseException):
        pass

    ray = mock.MagicMock()
    ray.exceptions.RayError = OSError
    wrapped = SystemError("wait returned a result with an exception set")
    wrapped.__cause__ = Stop()
    ray.wait.side_effect = [wrapped, ([], [])]
    with pytest.raises(Stop):
        _run(ray, mock.MagicMock(), {"cell": {}}, {}, lambda: None)
    assert ray.cancel.called
