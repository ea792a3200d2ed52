"""What holds for every test: shapes are enforced, caches are temporary, nothing that can run is skipped in silence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import jaxtyping
import pytest
from jaxtyping import install_import_hook

# Tests side by side share out the machine: torch reads this when it is imported, here and in what the tests start.
if (side_by_side := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // side_by_side)))

# Before anything imports the package: from here on the shapes and types in annotations are checked at each call.
# Only where tensors are: tyro fills dataclasses of the command line with marks of its own.
ROOMS_WITH_TENSORS = (
    "api",
    "attacks",
    "benchmarking",
    "data",
    "defenses",
    "evaluation",
    "figures",
    "inspection",
    "models",
    "poisoning",
    "runs",
    "training",
)
install_import_hook([f"inputaware.{room}" for room in ROOMS_WITH_TENSORS], "beartype.beartype")


REAL_DATA = os.environ.get("INPUTAWARE_DATA")


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell leaves it to what runs in the background; tests and what they start are to be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def temporary_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep decoded data sets for this session only, not in the home folder, and the user's own data out of reach."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INPUTAWARE_CACHE", str(folder))
        patch.delenv("INPUTAWARE_DATA", raising=False)
        yield folder


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch off the type checks of the tests, which users do not have."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def real_data(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give one test the real data sets that INPUTAWARE_DATA names, or skip it."""
    if not REAL_DATA:
        pytest.skip("INPUTAWARE_DATA names no folder with the real data sets")
    folder = Path(REAL_DATA).resolve()
    monkeypatch.setenv("INPUTAWARE_DATA", str(folder))
    return folder


def load(path: Path) -> ModuleType:
    """Return a script as a module, which imports would not find."""
    name = path.name.replace("-", "_")
    loader = SourceFileLoader(name, str(path))
    spec = spec_from_loader(name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # where its dataclasses look for it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.dont_write_bytecode", True)
        loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_script() -> Callable[[Path], ModuleType]:
    """Return what loads a script as a module."""
    return load


@pytest.fixture
def run_script(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return what runs a script as a person does, but in this process: a new one takes seconds to import torch."""

    def run(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        script = load(path)
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr("sys.argv", [str(path), *arguments])
            try:
                code = script.main()
            except SystemExit as error:
                code = error.code
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


SLOWEST = (
    "training/test_processes.py",
    "robustness/test_storage.py",
    "training/test_loop.py",
    "sweeps/test_cluster.py",
    "test_gpu_suite.py",
    "defenses/test_neural_cleanse.py",
    "robustness/test_kills.py",
    "reproduction/test_plan.py",
    "robustness/test_numbers.py",
    "test_cli.py",
)
"""Files of half a minute and more, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slowest files, so that at the end none keeps one processor at work while the others are idle."""
    folder = Path(__file__).parent
    order = {folder / name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


NEEDED = {"parity": "INPUTAWARE_GOLDEN", "browser": "INPUTAWARE_BROWSER"}
"""For each mark the variable that says that what its tests need is there: the release's files, a browser."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Let a skipped test fail where what it needs is said to be there."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        for mark, variable in NEEDED.items():
            if item.get_closest_marker(mark) and os.environ.get(variable):
                report.outcome = "failed"
                reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
                report.longrepr = f"{variable} is set, so a {mark} test must not be skipped; it was: {reason}"
    return report
