import numpy as np
import pytest
import torch
from PIL import Image

from inputaware.config.fields import AugmentationConfig
from inputaware.data.augment import augment, crop_at, flip_where, rotate_by

SHAPES = [(1, 28, 28), (3, 32, 32), (2, 7, 12)]
TYPES = [torch.uint8, torch.float32]


def images_of(shape, dtype, count=6, seed=0):
    pixels = torch.randint(1, 256, (count, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return pixels if dtype == torch.uint8 else pixels.to(dtype) / 255


def memory_formats(images):
    return [images, images.contiguous(memory_format=torch.channels_last), images.flip(-1).flip(-1)[:, :]]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_crop_agrees_with_a_loop(shape, dtype):
    images = images_of(shape, dtype)
    offsets = torch.tensor([[0, 0], [10, 10], [5, 5], [0, 10], [3, 7], [9, 1]])
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (5, 5), (5, 5)))
    expected = [
        each[:, row : row + shape[1], column : column + shape[2]]
        for each, (row, column) in zip(padded, offsets.tolist(), strict=True)
    ]
    for form in memory_formats(images):
        found = crop_at(form, 5, offsets)
        assert found.dtype == dtype
        assert np.array_equal(found.numpy(), np.stack(expected))


def rotated_by_formula(image, degrees):
    """Take each pixel from where its centre comes from, in float64; None where that is a matter of rounding."""
    _, height, width = image.shape
    result, doubtful = np.zeros_like(image), np.zeros((height, width), bool)
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5 - width / 2, row + 0.5 - height / 2
            source_x = cosine * x - sine * y + width / 2
            source_y = sine * x + cosine * y + height / 2
            doubtful[row, column] = min(abs(source - round(source)) for source in (source_x, source_y)) < 1e-4
            i, j = int(np.floor(source_y)), int(np.floor(source_x))
            if 0 <= i < height and 0 <= j < width:
                result[:, row, column] = image[:, i, j]
    return result, doubtful


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_rotation_agrees_with_the_formula(shape, dtype):
    angles = torch.tensor([0.0, 10.0, -10.0, 3.3, 47.0, -179.0])
    images = images_of(shape, dtype)
    for form in memory_formats(images):
        found = rotate_by(form, angles)
        assert found.dtype == dtype
        for image, rotated, degrees in zip(images.numpy(), found.numpy(), angles.tolist(), strict=True):
            expected, doubtful = rotated_by_formula(image, degrees)
            assert doubtful.mean() < 0.02
            assert np.array_equal(rotated[:, ~doubtful], expected[:, ~doubtful])


@pytest.mark.parametrize("degrees", [10.0, -10.0, 7.25, -1.5])
def test_rotation_agrees_with_pillow(degrees):
    images = images_of((3, 32, 32), torch.uint8, count=1)
    found = rotate_by(images, torch.tensor([degrees]))[0].numpy()
    picture = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    expected = np.asarray(picture.rotate(degrees, Image.Resampling.NEAREST)).transpose(2, 0, 1)
    # Pillow computes with 16 binary places: a pixel or two on an edge may come from next door.
    assert (found != expected).any(0).mean() < 0.005


def test_quarter_turns_are_exact_and_counter_clockwise():
    images = images_of((3, 8, 8), torch.uint8, count=4)
    found = rotate_by(images, torch.tensor([0.0, 90.0, 180.0, -90.0]))
    expected = [np.rot90(image, turns, (1, 2)) for turns, image in enumerate(images.numpy())]
    assert np.array_equal(found.numpy(), np.stack(expected))


@pytest.mark.parametrize("dtype", TYPES)
def test_flip_agrees_with_a_loop(dtype):
    images = images_of((3, 5, 6), dtype)
    mask = torch.tensor([True, False, True, True, False, False])
    expected = [
        image[:, :, ::-1] if flipped else image for image, flipped in zip(images.numpy(), mask.tolist(), strict=True)
    ]
    for form in memory_formats(images):
        assert np.array_equal(flip_where(form, mask).numpy(), np.stack(expected))


def column_images(count, side):
    """Images that tell how they were moved: every pixel holds its own number, from 1."""
    return torch.arange(1.0, side * side + 1).view(1, 1, side, side).repeat(count, 1, 1, 1)


def test_random_crops_reach_every_offset_equally_often():
    found = augment(column_images(9000, 5), AugmentationConfig(crop_padding=1), torch.Generator().manual_seed(0))
    # The middle pixel came from one of nine places.
    counts = np.bincount(found[:, 0, 2, 2].long().numpy(), minlength=26)
    reached = [7, 8, 9, 12, 13, 14, 17, 18, 19]
    assert np.flatnonzero(counts).tolist() == reached
    expected = len(found) / 9
    chi_square = ((counts[reached] - expected) ** 2 / expected).sum()
    assert chi_square < 26.1  # one in a thousand, 8 degrees of freedom


def test_random_rotations_stay_within_the_limit_and_reach_it():
    images = column_images(600, 101)
    config = AugmentationConfig(crop_padding=0, rotation_degrees=10.0)
    found = augment(images, config, torch.Generator().manual_seed(0))[:, 0, 50, 95]
    # 45 pixels right of the centre, the row that the pixel comes from tells the angle.
    rows = (found.long() - 1).div(101, rounding_mode="floor") - 50
    angles = torch.rad2deg(torch.asin((rows / 45).clamp(-1, 1)))
    assert angles.abs().max() < 10 + 0.7
    assert angles.max() > 9
    assert angles.min() < -9
    assert abs(angles.mean()) < 0.9
    assert abs(angles.std() - 20 / 12**0.5) < 0.4


def test_random_flips_are_even():
    images = column_images(4000, 2)
    config = AugmentationConfig(crop_padding=0, horizontal_flip=True)
    flipped = augment(images, config, torch.Generator().manual_seed(0))[:, 0, 0, 0] == 2
    assert abs(flipped.float().mean() - 0.5) < 0.03


def test_augment_is_crop_then_rotation_then_flip():
    images = images_of((3, 32, 32), torch.float32, count=20)
    config = AugmentationConfig(crop_padding=5, rotation_degrees=10.0, horizontal_flip=True)
    generator = torch.Generator().manual_seed(3)
    expected = images
    for change in ({"crop_padding": 5}, {"rotation_degrees": 10.0}, {"horizontal_flip": True}):
        expected = augment(expected, AugmentationConfig(**{"crop_padding": 0, **change}), generator)
    assert torch.equal(augment(images, config, torch.Generator().manual_seed(3)), expected)
    assert not torch.equal(expected, images)


def test_nothing_is_changed_or_drawn_where_nothing_is_asked_for():
    images = images_of((1, 28, 28), torch.float32)
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    found = augment(images, AugmentationConfig(crop_padding=0, rotation_degrees=0.0), generator)
    assert torch.equal(found, images)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("rotation", [0.0, 10.0])
def test_bytes_and_floats_come_out_the_same(rotation):
    config = AugmentationConfig(rotation_degrees=rotation, horizontal_flip=True)
    pixels = images_of((3, 32, 32), torch.uint8)
    as_bytes = augment(pixels, config, torch.Generator().manual_seed(1)).float() / 255
    as_floats = augment(pixels.float() / 255, config, torch.Generator().manual_seed(1))
    assert torch.equal(as_bytes, as_floats)
