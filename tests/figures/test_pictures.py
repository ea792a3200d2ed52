"""Pictures whose bytes say what the pixels are."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from inputaware.figures.pictures import enlarge, grid, png, show_heat, show_pixels, show_residuals


def test_pixels_are_shown_as_they_are() -> None:
    grey = np.array([0.2, 0.4, 100 / 255]).reshape(1, 1, 1, 3)
    np.testing.assert_array_equal(show_pixels(grey)[0, 0], [[51] * 3, [102] * 3, [100] * 3])
    colour = np.array([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1)
    assert show_pixels(colour)[0, 0, 0].tolist() == [0, 128, 255]


def test_residuals_have_a_fixed_scale() -> None:
    residuals = np.array([-1.0, -0.2, 0.0, 0.2, 1.0]).reshape(1, 1, 1, 5)
    assert show_residuals(residuals)[0, 0, :, 0].tolist() == [0, 102, 128, 153, 255]


def test_enlarged_pixels_are_crisp_squares() -> None:
    cells = np.random.RandomState(0).randint(0, 256, (2, 3, 4, 3)).astype(np.uint8)
    large = enlarge(cells, 3)
    assert large.shape == (2, 9, 12, 3)
    np.testing.assert_array_equal(large, np.kron(cells, np.ones((1, 3, 3, 1), dtype=np.uint8)))


def test_a_grid_has_a_row_for_each_image() -> None:
    left, right = (np.full((2, 3, 4, 3), value, dtype=np.uint8) for value in (10, 20))
    right[1] = 30
    found = grid([left, right], 2)
    assert found.shape == (2 + 2 * 5, 2 + 2 * 6, 3)
    assert (found[2:5, 2:6] == 10).all()
    assert (found[7:10, 8:12] == 30).all()
    outside = np.ones(found.shape[:2], dtype=bool)
    for top in (2, 7):
        for start in (2, 8):
            outside[top : top + 3, start : start + 4] = False
    assert (found[outside] == 255).all()


def test_heat_is_shown_over_the_image_up_to_its_own_maximum() -> None:
    heat = np.array([[[0.0, 4.0]], [[0.0, 0.0]]])
    shown = np.full((2, 1, 2, 3), 200, dtype=np.uint8)
    found = show_heat(heat, shown)
    # The ends of the colour map inferno.
    cold, hot = np.array([0.001462, 0.000466, 0.013866]), np.array([0.988362, 0.998364, 0.644924])
    np.testing.assert_allclose(found[0, 0, 0], 100 + 127.5 * cold, atol=0.51)
    np.testing.assert_allclose(found[0, 0, 1], 100 + 127.5 * hot, atol=0.51)
    assert (found[1] == found[0, 0, 0]).all()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_png_holds_the_pixels(channels: int, mode: str) -> None:
    pixels = np.random.RandomState(0).rand(1, channels, 5, 7)
    shown = show_pixels(pixels)[0]
    found = png(shown)
    with Image.open(io.BytesIO(found)) as file:
        assert file.mode == mode
        np.testing.assert_array_equal(np.asarray(file.convert("RGB")), shown)
    assert png(shown) == found
