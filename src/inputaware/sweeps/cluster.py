"""Cells on a Ray cluster, or on a local one: retries, interruptions, and what is done already.

Ray is imported when a sweep starts, and only where something is left to run.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from inputaware.config.checks import check_number
from inputaware.config.record import config_to_dict
from inputaware.errors import ConfigError, InputAwareError, RunFolderError
from inputaware.runs.environment import usable_processors
from inputaware.runs.files import check_place, writing
from inputaware.runs.findings import kept_finding
from inputaware.runs.folder import RunFolder
from inputaware.runs.results import read_evaluation
from inputaware.sweeps.grid import Cell, Sweep
from inputaware.sweeps.progress import CellState
from inputaware.sweeps.results import write_results
from inputaware.sweeps.worker import run_cell

__all__ = ["run_sweep"]

_POLL = 0.5
"""Seconds between two looks at the cluster."""
_ANSWER = 10.0
"""Seconds in which a cluster answers."""
_FAREWELL = 30.0
"""Seconds that interrupted cells have to stop."""
_OBJECT_STORE = 100 * 2**20
"""Bytes of shared memory of a local cluster; hardly anything passes through it."""

_Watch = Callable[[Mapping[str, CellState], int], None]
"""Is told the state of every cell and how many run at the same time."""


def run_sweep(
    sweep: Sweep,
    output: str | os.PathLike[str],
    *,
    cpus: float = 1.0,
    gpus: float = 0.0,
    address: str | None = None,
    retries: int = 3,
    allow_different_machine: bool = False,
    overwrite: bool = False,
    watch: _Watch = lambda states, slots: None,
) -> dict[str, Any]:
    """Run every cell that is not finished, and return what all of them say together.

    A cell is a run folder ``OUTPUT/runs/NAME``. One that is finished is not run again; one that was interrupted goes on
    from its checkpoint, also when its worker dies in this sweep. One that fails is noted, and the others go on. When
    all is done, or the sweep is interrupted, ``results.parquet``, ``results.csv`` and ``summary.json`` are written.

    Args:
        sweep: what to run.
        output: the folder of the sweep, new or of an earlier one; on a cluster all machines must see it.
        cpus: processors of each run; a run computes with as many threads, but at least one.
        gpus: GPUs of each run: 0, a fraction, or a whole number.
        address: of a running Ray cluster; none starts a local one on the processors that this process may use.
        retries: how often a cell is taken up again after its worker died.
        allow_different_machine: let an interrupted cell go on where library, hardware or thread count differ.
        overwrite: make defenses' results anew that are there with other settings, or of other code.
        watch: told how it goes, twice a second.

    Returns:
        What ``summary.json`` holds.

    Raises:
        ConfigError: Ray is not installed, there is no cluster at the address, or no machine has the resources of one
            run.
        RunFolderError: the folder holds something else, cannot be written, another sweep is at work in it, or a
            finished cell met a defense with other settings.
        WriteError: the disk is full, or the folder is gone.
    """
    _check_resources(cpus, gpus, retries)
    place = RunFolder(Path(output).absolute())
    folder = place.path
    _check_folder(folder)
    check_place(folder / "summary.json")
    states = {
        cell.name: CellState(
            f"{cell.config.dataset} {cell.config.attack}",
            "kept" if _is_finished(cell, sweep, folder, overwrite) else "waiting",
        )
        for cell in sweep.cells
    }
    waiting = [cell for cell in sweep.cells if states[cell.name].status == "waiting"]
    # All that can be refused comes before anything is written: what an earlier sweep says of itself stays.
    connection: AbstractContextManager[Any] = _connected(_import_ray(address), address) if waiting else nullcontext()
    with connection as ray:
        slots = _slots(ray, cpus, gpus) if waiting else 1
        with writing(folder):
            (folder / "runs").mkdir(parents=True, exist_ok=True)
        with place.lock():
            try:
                if waiting:
                    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries, max_calls=1)(_work)
                    orders = {
                        cell.name: {
                            "config": config_to_dict(cell.config),
                            "folder": str(folder / "runs" / cell.name),
                            "defenses": [
                                (one.reference, config_to_dict(one.settings), one.code) for one in sweep.defenses
                            ],
                            "overwrite": overwrite,
                            "threads": max(1, int(cpus)),
                            "allow_different_machine": allow_different_machine,
                        }
                        for cell in waiting
                    }
                    _run(ray, task, orders, states, lambda: watch(states, slots))
            finally:
                summary = write_results(sweep, folder, states)
    watch(states, 1)
    return summary


def _check_resources(cpus: float, gpus: float, retries: int) -> None:
    check_number("cpus", cpus, 0, open_low=True)
    if not (0 <= gpus <= 1 or (1 < gpus < float("inf") and gpus == int(gpus))):
        raise ConfigError(f"gpus: expected 0, a fraction of 1, or a whole number; found {gpus!r}")
    check_number("retries", retries, 0)


def _check_folder(folder: Path) -> None:
    """Refuse a folder of something else, in which a sweep's files would lie between others, or replace them."""
    with suppress(OSError):  # one that cannot be listed is refused where it cannot be written
        names = set(os.listdir(folder))
        if names and ("runs" not in names or "config.json" in names):
            raise RunFolderError(
                f"output: expected a new or empty folder, or a sweep's; found {str(folder)!r} with "
                f"{'a run' if 'config.json' in names else 'other files'} in it; choose another one"
            )


def _is_finished(cell: Cell, sweep: Sweep, output: Path, overwrite: bool) -> bool:
    """Return whether a cell is trained, evaluated, and has met all defenses as they are asked for.

    Of one whose files are damaged, or another run's, its worker says so.
    """
    from inputaware.api import check_attack_code, recorded_config

    folder = output / "runs" / cell.name
    if not (folder / "evaluation.json").exists():
        return False
    try:
        # All are looked at, so that one that was made otherwise is refused before any work.
        kept = [
            kept_finding(folder / "defenses", one.name, one.settings, cell.config.seed, own=one.own, code=one.code)
            for one in sweep.defenses
        ]
    except RunFolderError:
        if overwrite:
            return False
        raise
    try:
        recorded_config(RunFolder(folder), cell.config)
        check_attack_code(RunFolder(folder), cell.config)
        read_evaluation(folder / "evaluation.json")
    except (ConfigError, RunFolderError):
        return False
    return None not in kept


def _import_ray(address: str | None) -> Any:
    # Nothing about this machine is sent to anybody, whatever Ray's own default.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        # Ray's word for a cluster that listens on loopback only, on any system.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # Its workers would give way to whatever else runs here, where `inputaware train` takes its turn.
        os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "sweep: expected Ray, of the extra 'cluster'; found none; "
            "in the checkout: pip install -c constraints.txt -e '.[cluster]'"
        ) from None
    return ray


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[Any]:
    """Connect to a cluster, or start a local one that ends with this process."""
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        options |= {
            "address": "local",
            "num_cpus": usable_processors(),
            "object_store_memory": _OBJECT_STORE,
            "include_dashboard": False,
        }
    else:
        _check_address(address)
        options["address"] = address
    # Ray takes SIGTERM for itself and ends the process with it, in place of our own way out.
    before = signal.getsignal(signal.SIGTERM)
    # Ray tells of workers that died on stdout, where only the result belongs.
    with redirect_stdout(sys.stderr):
        try:
            ray.init(**options)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"address: expected a Ray cluster at {address!r}; found: {reason}; start one with: ray start --head"
                if address
                else f"sweep: expected Ray to start on this machine; found: {reason}"
            ) from None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
        try:
            yield ray
        finally:
            ray.shutdown()


def _check_address(address: str) -> None:
    """Refuse an address where nobody answers: Ray would ask there again for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"address: expected a Ray cluster at {address!r}; found: {error}; start one with: ray start --head"
        ) from None


def _slots(ray: Any, cpus: float, gpus: float) -> int:
    """Return how many cells run at the same time.

    Raises:
        ConfigError: no machine has what one of them needs.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = {kind: max((machine.get(kind, 0.0) for machine in machines), default=0.0) for kind in ("CPU", "GPU")}
    slots = sum(
        int(min(machine.get(kind, 0.0) / wanted + 1e-9 for kind, wanted in (("CPU", cpus), ("GPU", gpus)) if wanted))
        for machine in machines
    )
    if slots < 1:
        raise ConfigError(
            f"cpus, gpus: expected what one machine has, at most {most['CPU']:g} processors and {most['GPU']:g} GPUs; "
            f"found {cpus:g} and {gpus:g}"
        )
    return slots


class _Board:
    """Where workers note what they are at; an actor, which lives on the cluster."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    def begin(self, name: str, worker: str) -> None:
        """Note that a worker takes up a cell."""
        attempts = self.rows.get(name, {"attempts": 0})["attempts"] + 1
        row = {"attempts": attempts, "worker": worker, "stage": "start", "share": 0.0}
        self.rows[name] = {**row, "began": time.monotonic()}

    def tell(self, name: str, stage: str, share: float) -> None:
        """Note what a worker is at."""
        if name in self.rows:
            self.rows[name] |= {"stage": stage, "share": share}

    def read(self) -> dict[str, dict[str, Any]]:
        """Return every cell's last note, with the seconds since its attempt began."""
        now = time.monotonic()
        return {name: {**row, "seconds": now - row["began"]} for name, row in self.rows.items()}


def _work(name: str, order: dict[str, Any], board: Any) -> str:
    """Do a cell in a worker process, and return what went wrong; nothing: an empty text.

    A worker serves one cell and ends, as ``inputaware train`` does: its peak memory is the cell's own.
    """
    board.begin.remote(name, f"{socket.gethostname()}:{os.getpid()}")
    try:
        run_cell(**order, tell=lambda stage, share: board.tell.remote(name, stage, share))
    except InputAwareError as error:
        return str(error)
    except Exception as error:  # a broken cell must not break the others, whatever it is
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
    return ""


def _run(
    ray: Any, task: Any, orders: Mapping[str, dict[str, Any]], states: dict[str, CellState], watch: Callable[[], None]
) -> None:
    """Give all cells to the cluster and wait for them; on the way out those at work are stopped."""
    board = ray.remote(_Board).options(num_cpus=0, max_restarts=-1).remote()
    pending = {task.remote(name, order, board): name for name, order in orders.items()}
    try:
        while pending:
            watch()
            done, _ = ray.wait(list(pending), num_returns=len(pending), timeout=_POLL)
            _read_board(ray, board, states)
            for reference in done:
                state = states[pending.pop(reference)]
                try:
                    state.error = ray.get(reference)
                except ray.exceptions.RayError as error:
                    reason = str(error).strip().partition("\n")[0]
                    state.error = f"its worker died {state.attempts} times, the last time with: {reason}"
                state.status, state.share = ("broken" if state.error else "finished"), 1.0
    except BaseException as error:
        _stop(ray, list(pending))
        if isinstance(error, SystemError) and error.__cause__ is not None:
            # What a signal raises within Ray's own code comes out of it wrapped.
            raise error.__cause__ from None
        raise


def _read_board(ray: Any, board: Any, states: dict[str, CellState]) -> None:
    """Take over what workers have noted; without an answer the last notes stand."""
    with suppress(ray.exceptions.RayError):
        for name, row in ray.get(board.read.remote(), timeout=10 * _POLL).items():
            state = states[name]
            if state.status in ("waiting", "running"):
                state.status = "running"
                state.attempts, state.worker = row["attempts"], row["worker"]
                state.stage, state.share, state.seconds = row["stage"], row["share"], row["seconds"]


def _stop(ray: Any, references: list[Any]) -> None:
    """Interrupt the cells at work, as Ctrl-C would, and give them a moment to stop."""
    with suppress(ray.exceptions.RayError, KeyboardInterrupt):
        for reference in reversed(references):  # those that wait first, lest one of them starts now
            ray.cancel(reference)
        ray.wait(references, num_returns=len(references), timeout=_FAREWELL)
