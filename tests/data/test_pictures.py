import io
import warnings

import numpy as np
import pytest
from data.material import RANDOM, bilinear, colour, encoded, grey, message_of, png_of
from PIL import Image

from inputaware.config.datasets import IMAGE_SUFFIXES
from inputaware.data.pictures import is_grey, open_image, resize_image
from inputaware.data.spec import dataset_spec

MNIST, CIFAR10 = dataset_spec("mnist"), dataset_spec("cifar10")


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (61, 40), (33, 90, 3)])
def test_resizing_agrees_with_a_triangle_filter(shape):
    pixels = RANDOM.integers(0, 256, shape, np.uint8)
    spec = CIFAR10 if len(shape) == 3 else MNIST
    found = resize_image(Image.fromarray(pixels), spec)
    expected = bilinear(pixels, spec.shape[1])
    expected = expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1)
    assert found.shape == spec.shape
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1.01  # two passes, each rounded to 8 bits


def test_pictures_of_the_right_size_are_not_touched():
    (pixels,) = colour()
    assert np.array_equal(resize_image(Image.fromarray(pixels), CIFAR10), pixels.transpose(2, 0, 1))


def test_colour_becomes_grey_by_luma_and_grey_becomes_equal_channels():
    (pixels,) = colour(side=28)
    found = resize_image(Image.fromarray(pixels), MNIST)
    assert np.abs(found[0] - pixels @ np.array([0.299, 0.587, 0.114])).max() <= 0.6
    (pixels,) = grey(side=32)
    assert np.array_equal(resize_image(Image.fromarray(pixels), CIFAR10), np.stack([pixels] * 3))


def test_transparency_is_laid_on_black():
    (pixels,) = colour()
    alpha = RANDOM.integers(0, 256, (32, 32), np.uint8)
    found = resize_image(Image.fromarray(np.dstack([pixels, alpha])), CIFAR10)
    expected = pixels.astype(np.float64) * alpha[..., None] / 255
    assert np.abs(found.transpose(1, 2, 0) - expected).max() <= 1
    (pixels,) = grey()
    picture = Image.merge("LA", [Image.fromarray(pixels), Image.fromarray(alpha[:28, :28])])
    assert np.abs(resize_image(picture, MNIST)[0] - pixels.astype(np.float64) * alpha[:28, :28] / 255).max() <= 1


def test_a_palette_keeps_its_colours():
    picture = Image.new("P", (32, 32), 1)
    picture.putpalette([0, 0, 0, 200, 100, 50])
    found = resize_image(picture, CIFAR10)
    assert found[:, 0, 0].tolist() == [200, 100, 50]
    picture.info["transparency"] = 1
    assert found.any()
    assert not resize_image(picture, CIFAR10).any()


def test_sixteen_bits_become_eight():
    pixels = np.linspace(0, 65535, 28 * 28).astype(np.uint16).reshape(28, 28)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    found = resize_image(Image.open(buffer), MNIST)
    assert np.array_equal(found[0], (pixels // 256).astype(np.uint8))


def test_a_pgm_of_sixteen_bits_is_grey(tmp_path):
    pixels = np.linspace(0, 65535, 28 * 28).astype(np.uint16).reshape(28, 28)
    file = tmp_path / "a.pgm"
    file.write_bytes(b"P5 28 28 65535\n" + pixels.astype(">u2").tobytes())
    picture = open_image(file)
    assert is_grey(picture)
    assert np.array_equal(resize_image(picture, MNIST)[0], (pixels // 256).astype(np.uint8))


def test_black_and_white_becomes_0_and_255():
    picture = Image.fromarray(RANDOM.integers(0, 2, (28, 28)).astype(bool))
    assert picture.mode == "1"
    assert np.unique(resize_image(picture, MNIST)).tolist() == [0, 255]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_known_range_are_refused(mode):
    assert message_of(lambda: resize_image(Image.new(mode, (28, 28)), MNIST)) == (
        f"image: expected 8 or 16 bits for a pixel's value; found Pillow's mode {mode}, 32 bits; "
        "convert the image to 8 bits"
    )


def test_exif_orientation_is_honoured(tmp_path):
    (pixels,) = grey()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    found = resize_image(open_image(tmp_path / "turned.png"), MNIST)
    assert np.array_equal(found[0], np.rot90(pixels, -1))


@pytest.mark.parametrize("suffix", sorted(set(IMAGE_SUFFIXES) - {".ppm"}))
def test_every_kind_of_picture_in_the_list_opens(tmp_path, suffix):
    file = tmp_path / f"picture{suffix}"
    Image.new("L", (28, 28), 130).save(file)
    assert np.abs(resize_image(open_image(file), MNIST).astype(int) - 130).max() <= 1


def test_a_damaged_picture_is_refused(tmp_path):
    file = tmp_path / "file.png"
    file.write_bytes(encoded(colour()[0])[:1500])
    found = message_of(lambda: open_image(file))
    assert found.startswith(f"{file}: expected an image; found a damaged one (")
    assert found.endswith("); replace or remove it")


def test_a_missing_picture_is_refused(tmp_path):
    file = tmp_path / "missing.png"
    assert message_of(lambda: open_image(file)) == (
        f"{file}: expected an image; found: No such file or directory; check the path"
    )


def test_pillows_warnings_do_not_escape(tmp_path):
    file = tmp_path / "file.png"
    file.write_bytes(png_of(9_500, 9_500))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        message_of(lambda: open_image(file))
    assert caught == []
