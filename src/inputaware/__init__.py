"""Input-aware dynamic backdoors: trained in minutes, measured correctly, for people who build defenses.

The names below are imported when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inputaware.api import Run, import_official, train
    from inputaware.config.fields import Config
    from inputaware.config.presets import preset_config
    from inputaware.report import write_report

__all__ = ["Config", "Run", "__version__", "import_official", "preset_config", "train", "write_report"]

__version__ = "0.1.0"

_HOMES = {
    "Config": "config.fields",
    "Run": "api",
    "import_official": "api",
    "preset_config": "config.presets",
    "train": "api",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
