"""The audit of the locked list, by calling the script as a person does."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "audit-dependencies"
PINS = SCRIPT.parents[1] / "constraints.txt"


def audit(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=60, check=False
    )


def test_what_is_installed_is_what_was_locked() -> None:
    found = audit()
    assert found.stderr == ""
    assert found.returncode == 0
    assert "needed and installed as pinned, none older than the fix of" in found.stdout


def test_a_version_with_a_known_weakness_is_named(tmp_path: Path) -> None:
    torch = version("torch").partition("+")[0]
    advisories = tmp_path / "advisories.json"
    row = {"package": "Torch", "version": "99.0", "advisory": "CVE-0000-0000"}
    advisories.write_text(json.dumps({"written": "today", "fixed": [row]}))
    found = audit("--advisories", str(advisories))
    assert found.returncode == 1
    assert found.stderr == (
        f"audit-dependencies: Torch: expected 99.0 or newer, for CVE-0000-0000; found {torch} in constraints.txt; "
        "raise it\n"
    )


@pytest.mark.parametrize("kind", ["absent", "other"])
def test_a_package_that_is_not_locked_is_named(kind: str, tmp_path: Path) -> None:
    lines = [line for line in PINS.read_text().splitlines() if not line.startswith("numpy==")]
    pins = tmp_path / "constraints.txt"
    pins.write_text("\n".join([*lines, *(["numpy==1.0"] if kind == "other" else [])]))
    found = audit("--constraints", str(pins))
    assert found.returncode == 1
    assert found.stderr == (
        f"audit-dependencies: numpy: expected what is installed in constraints.txt; found {version('numpy')} installed "
        f"and {'1.0' if kind == 'other' else 'no entry'} there; pin it, or install the pinned one\n"
    )


def test_a_line_that_pins_nothing_is_named(tmp_path: Path) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text("# a list\nnumpy>=1\n")
    found = audit("--constraints", str(pins))
    assert found.returncode == 1
    assert found.stderr == f"{pins}, line 2: expected NAME==VERSION; found 'numpy>=1'; pin the version\n"
