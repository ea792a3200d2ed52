"""Rows of small images with their names beside them: samples, heat maps, triggers on one another's images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from inputaware.figures.pictures import enlarge, grid
from inputaware.figures.style import DPI, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["image_rows"]

_WIDTH = 7.2
"""Inches."""


def image_rows(rows: Mapping[str, UInt8[np.ndarray, "batch height width 3"]]) -> Figure:
    """Return pictures in named rows, one column for each image; every pixel is a square.

    Args:
        rows: for each row its pictures, as many in each.
    """
    from matplotlib.figure import Figure

    pictures = list(rows.values())
    height, width = pictures[0].shape[1:3]
    factor = max(1, round(_WIDTH * DPI / (len(pictures[0]) * width)))
    gap = max(2, factor)
    columns = [np.stack(column) for column in zip(*pictures, strict=True)]
    canvas = grid([enlarge(column, factor) for column in columns], gap)
    with style():
        figure = Figure(figsize=(_WIDTH, _WIDTH * 0.86 * canvas.shape[0] / canvas.shape[1]))
        axis = figure.subplots()
        axis.imshow(canvas, interpolation="nearest")
        step = height * factor + gap
        axis.set_yticks(
            [gap + place * step + height * factor / 2 for place in range(len(rows))], list(rows), parse_math=False
        )
        axis.set_xticks([])
        axis.tick_params(length=0)
        axis.grid(visible=False)
        for spine in axis.spines.values():
            spine.set_visible(False)
        # Once more than saving does: the first layout takes the names for narrower than they are, and cuts them.
        figure.draw_without_rendering()
    return figure
