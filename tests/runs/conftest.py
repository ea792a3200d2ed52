"""Small configurations, a data set's description, and children that run a program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from inputaware.config.fields import AttackName, Config
from inputaware.config.presets import preset_config
from inputaware.data.spec import DatasetSpec


@pytest.fixture
def spec() -> DatasetSpec:
    return DatasetSpec(
        name="digits", shape=(1, 28, 28), classes=10, mean=(0.5,), std=(0.5,), class_names=tuple("012345678é")
    )


@pytest.fixture
def make_config() -> Callable[[AttackName], Config]:
    def make(attack: AttackName) -> Config:
        return preset_config("fast", dataset="digits", attack=attack, model={"hidden_units": 8})

    return make


@pytest.fixture
def start_child() -> Callable[..., subprocess.Popen[str]]:
    """Return what starts a program in another process, with arguments and pipes."""

    def start(program: str, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
