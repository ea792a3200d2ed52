"""Descriptions of data sets, grey and colour."""

from __future__ import annotations

import pytest

from inputaware.data.spec import DatasetSpec


@pytest.fixture
def grey() -> DatasetSpec:
    return DatasetSpec(
        name="digits", shape=(1, 28, 28), classes=10, mean=(0.5,), std=(0.5,), class_names=tuple("0123456789")
    )


@pytest.fixture
def colour() -> DatasetSpec:
    return DatasetSpec(
        name="gtsrb",
        shape=(3, 32, 32),
        classes=43,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        class_names=tuple(map(str, range(43))),
    )
