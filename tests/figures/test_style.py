"""Colours that can be told apart, figures that are the same each time, and ink that turns with the page."""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from inputaware.figures.panels import image_rows
from inputaware.figures.plots import anomaly_by_run, pruning_curve
from inputaware.figures.style import COLOURS, adaptive_svg, png_figure, svg_figure

# Machado, Oliveira & Fernandes 2009, severity 1.0: what somebody without one kind of cone sees, in linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """Return CIE L*a*b* of linear sRGB, white D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = to_xyz @ rgb.clip(0, 1) / [0.9505, 1.0, 1.089]
    curve = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    x, y, z = curve
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colours_can_be_told_apart(kind: str) -> None:
    seen = {colour: lab(np.asarray(BLINDNESS[kind]) @ linear(colour)) for colour in COLOURS}
    for one, other in itertools.combinations(COLOURS, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 10, (one, other)


def figure():
    return pruning_curve(np.linspace(1, 0.1, 5), np.linspace(0.9, 0.2, 5), 2)


def test_the_same_numbers_give_the_same_bytes() -> None:
    for save in (png_figure, svg_figure, adaptive_svg):
        assert save(figure()) == save(figure())


def test_files_are_what_they_say() -> None:
    with Image.open(io.BytesIO(png_figure(figure()))) as file:
        assert file.format == "PNG"
        assert file.size[0] == 5.6 * 150
    for save in (svg_figure, adaptive_svg):
        assert ElementTree.fromstring(save(figure())).tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize("save", [png_figure, svg_figure, adaptive_svg])
def test_names_in_letters_that_the_font_lacks_are_drawn_without_a_warning(save: Callable[[Any], bytes]) -> None:
    names = ["\N{CJK UNIFIED IDEOGRAPH-732B}", "\N{BENGALI LETTER BA}", "\N{SUSHI}"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert save(anomaly_by_run(dict.fromkeys(names, 1.0), dict.fromkeys(names, 2.0)))
        assert save(image_rows({name: np.zeros((2, 4, 4, 3), np.uint8) for name in names}))


def test_the_ink_turns_with_the_page() -> None:
    plain, adaptive = svg_figure(figure()).decode(), adaptive_svg(figure()).decode()
    assert "#1b1f24" in plain
    assert "var(" not in plain
    drawn = adaptive.split("</style>", 1)[1]
    assert "var(--ink)" in drawn
    assert "#1b1f24" not in drawn
    assert "prefers-color-scheme:dark" in adaptive
