"""The one style of every figure: colours that survive colour blindness, few lines, the same bytes each time."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ATTACK", "CLEAN", "COLOURS", "CROSS", "DPI", "adaptive_svg", "png_figure", "style", "svg_figure"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito, *Color Universal Design* (2008), without black and yellow, which vanish on one of two backgrounds."""

CLEAN = COLOURS[0]
"""The colour of the clean test, in every figure."""

ATTACK = COLOURS[1]
"""The colour of the attack test."""

CROSS = COLOURS[2]
"""The colour of the cross-trigger test."""

DPI = 150
"""Pixels an inch of PNG files."""

_INK, _RULE = "#1b1f24", "#c9ced6"
_INK_ON_DARK, _RULE_ON_DARK = "#e6e8eb", "#4a525c"


@contextmanager
def style() -> Iterator[None]:
    """Draw in the one style; whatever is drawn or saved within has it."""
    import matplotlib as mpl
    from cycler import cycler

    settings: Any = {
        "figure.figsize": (5.6, 3.3),
        "figure.constrained_layout.use": True,
        "figure.dpi": 100,
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": _RULE,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.8,
        "lines.markersize": 4,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "axes.prop_cycle": cycler(color=COLOURS),
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
        # Text as outlines: it looks the same everywhere, and nothing has to be fetched.
        "svg.fonttype": "path",
        "svg.hashsalt": "inputaware",
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        # Of a name in letters that the font lacks boxes are drawn.
        warnings.filterwarnings("ignore", r"Glyph .* missing from|Matplotlib currently does not support", UserWarning)
        yield


def png_figure(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    return _saved(figure, "png", dpi=DPI, metadata={"Software": None})


def svg_figure(figure: Figure) -> bytes:
    """Return a figure as an SVG file on white."""
    return _saved(figure, "svg", metadata={"Date": None})


def adaptive_svg(figure: Figure) -> bytes:
    """Return a figure as an SVG file for a page: without a background, its ink light where the page is dark."""
    drawn = _saved(figure, "svg", transparent=True, metadata={"Date": None}).decode()
    for name, colour in (("ink", _INK), ("rule", _RULE)):
        drawn = drawn.replace(colour, f"var(--{name})")
    rules = (
        f":root{{--ink:{_INK};--rule:{_RULE}}}"
        f"@media(prefers-color-scheme:dark){{:root{{--ink:{_INK_ON_DARK};--rule:{_RULE_ON_DARK}}}}}"
    )
    head, mark, rest = drawn.partition("<defs>")
    return f"{head}<style>{rules}</style>{mark}{rest}".encode()


def _saved(figure: Figure, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()
