"""Changes of options, for tests."""

from __future__ import annotations

from typing import Any

__all__ = ["nested"]


def nested(name: str, value: object) -> dict[str, Any]:
    """Return a change of one option, by its dotted name."""
    for part in reversed(name.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value
