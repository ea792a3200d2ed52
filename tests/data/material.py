"""What tests of data make and compare: random pictures, a resize in float64, a message."""

import numpy as np
import pytest

from inputaware.errors import DataError

RANDOM = np.random.default_rng(0)
NO_IMAGE = "expected an image; found data of another kind; replace or remove it"


def grey(count=1, side=28):
    return list(RANDOM.integers(0, 256, (count, side, side), np.uint8))


def colour(count=1, side=32):
    return list(RANDOM.integers(0, 256, (count, side, side, 3), np.uint8))


def bilinear(image, size):
    """Pillow's bilinear filter (a triangle, widened where the image shrinks) in float64."""

    def weights(old, new):
        scale = old / new
        reach = max(scale, 1.0)
        centres = (np.arange(new) + 0.5) * scale
        table = np.maximum(1 - np.abs(np.arange(old) + 0.5 - centres[:, None]) / reach, 0)
        return table / table.sum(1, keepdims=True)

    rows, columns = weights(image.shape[0], size), weights(image.shape[1], size)
    return np.einsum("ir,rc...,jc->ij...", rows, image.astype(np.float64), columns)


def message_of(call):
    with pytest.raises(DataError) as error:
        call()
    return str(error.value)
