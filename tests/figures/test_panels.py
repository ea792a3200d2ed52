"""Rows of images with their names: every pixel is where it belongs."""

from __future__ import annotations

import numpy as np

from inputaware.figures.panels import image_rows
from inputaware.figures.style import png_figure


def test_each_row_shows_its_images_crisply() -> None:
    random = np.random.RandomState(0)
    rows = {name: random.randint(0, 256, (3, 4, 5, 3)).astype(np.uint8) for name in ("clean", "$\\frac{$")}
    figure = image_rows(rows)
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == list(rows)
    canvas = axis.images[0].get_array()
    factor = round(7.2 * 150 / 15)
    for row, pictures in enumerate(rows.values()):
        for column, picture in enumerate(pictures):
            top, left = factor + row * 5 * factor, factor + column * 6 * factor
            shown = canvas[top : top + 4 * factor, left : left + 5 * factor]
            np.testing.assert_array_equal(shown, np.kron(picture, np.ones((factor, factor, 1), dtype=np.uint8)))
    assert png_figure(figure)[:4] == b"\x89PNG"
