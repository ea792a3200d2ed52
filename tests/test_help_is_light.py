"""Asking for help loads no torch, nor anything else that takes its time."""

import re
import subprocess
import sys

import pytest

HEAVY = {"PIL", "captum", "jinja2", "matplotlib", "numpy", "pyarrow", "safetensors", "scipy", "sklearn", "torch"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "poison"),
        (["--version"], "inputaware 0."),
        (["train", "--help"], "images. (required)"),
        (["train", "--dataset", "digits", "--preset", "paper", "--help"], "--joint-stage.classifier.learning-rate"),
        (["evaluate", "--help"], "--split"),
        (["poison", "--help"], "--input"),
        (["inspect", "--help"], "--images"),
        (["sweep", "--help"], "--retries"),
        (["report", "--help"], "--overwrite"),
        (["reproduce", "--help"], "--seeds"),
        (["benchmark", "--help"], "--quick"),
        (["import-official", "--help"], "--output"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_loads_nothing_heavy(arguments: list[str], expected: str) -> None:
    found = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "inputaware", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert expected in found.stdout
    modules = re.findall(r"^import time:[^|]*\|[^|]*\|\s*([\w.]+)$", found.stderr, re.MULTILINE)
    assert "inputaware.cli" in modules
    assert HEAVY & {module.partition(".")[0] for module in modules} == set()
