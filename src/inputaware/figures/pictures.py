"""Images as bytes that can be looked at: pixels as they are, residuals and heat on fixed scales, grids, PNG."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

__all__ = ["enlarge", "grid", "png", "show_heat", "show_pixels", "show_residuals"]

_WHITE = 255


def show_pixels(images: Float[np.ndarray, "batch channel height width"]) -> UInt8[np.ndarray, "batch height width 3"]:
    """Return pixels in [0, 1] as bytes with three channels: 0 is black and 1 white, nothing is stretched."""
    batch, channels, height, width = images.shape
    colour = np.broadcast_to(images, (batch, 3, height, width)) if channels == 1 else images
    shown: NDArray[np.uint8] = np.rint(colour.clip(0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return shown


def show_residuals(
    residuals: Float[np.ndarray, "batch channel height width"],
) -> UInt8[np.ndarray, "batch height width 3"]:
    """Return residuals in [-1, 1] as bytes, ``1/2 + r/2``.

    Grey is unchanged; white is brighter by one, black darker by one.
    """
    return show_pixels(0.5 + residuals / 2)


def show_heat(
    heat: Float[np.ndarray, "batch height width"], shown: UInt8[np.ndarray, "batch height width 3"]
) -> UInt8[np.ndarray, "batch height width 3"]:
    """Return heat as colours over the images, half and half; each map is scaled to its own maximum.

    Args:
        heat: heat maps, 0 or more.
        shown: the images as bytes.
    """
    from matplotlib import colormaps

    highest = heat.max(axis=(1, 2), keepdims=True).clip(min=np.finfo(heat.dtype).tiny)
    colours = np.asarray(colormaps["inferno"](heat / highest))[..., :3]
    blended: NDArray[np.uint8] = np.rint(0.5 * shown + 0.5 * 255 * colours).astype(np.uint8)
    return blended


def enlarge(cells: UInt8[np.ndarray, "batch height width 3"], factor: int) -> UInt8[np.ndarray, "batch high wide 3"]:
    """Return pictures with each pixel as a square of ``factor`` pixels."""
    larger: NDArray[np.uint8] = cells.repeat(factor, axis=1).repeat(factor, axis=2)
    return larger


def grid(columns: list[UInt8[np.ndarray, "rows height width 3"]], gap: int) -> UInt8[np.ndarray, "high wide 3"]:
    """Return pictures side by side, one row for each image, on white.

    Args:
        columns: for each column its pictures, as many in each.
        gap: pixels around each picture.
    """
    rows, height, width = columns[0].shape[:3]
    canvas = np.full((gap + rows * (height + gap), gap + len(columns) * (width + gap), 3), _WHITE, dtype=np.uint8)
    for column, pictures in enumerate(columns):
        left = gap + column * (width + gap)
        for row, picture in enumerate(pictures):
            top = gap + row * (height + gap)
            canvas[top : top + height, left : left + width] = picture
    return canvas


def png(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Return a picture as a PNG file, with one channel where it is grey; the same picture gives the same bytes."""
    from PIL import Image

    grey = bool((picture == picture[..., :1]).all())
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture[..., 0] if grey else picture)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
