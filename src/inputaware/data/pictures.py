"""One picture: decoded, upright, and brought to a data set's shape.

Every picture goes through the same steps: decoded with Pillow, turned upright by its EXIF orientation, laid on
black where it is transparent (of an animation the first picture counts), brought to 8 bits, and resized with
Pillow's bilinear filter.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from inputaware.data.archives import ByteArray
from inputaware.data.reading import read_plain_file
from inputaware.data.spec import DatasetSpec
from inputaware.errors import DataError

__all__ = ["decode_picture", "is_almost_grey", "is_grey", "open_image", "read_picture", "resize_image"]

# Only these are tried, quick ones for the named data sets first: some of Pillow's other readers start programs.
_FORMATS = ("WEBP", "JPEG", "PNG", "PPM", "BMP", "GIF", "TIFF")
_MOST_PIXELS = 64_000_000
_MOST_BYTES = 2**29
"""Largest file of an image: what 64 megapixels of colour and transparency take at 16 bits."""
_GREY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I;16N")


def read_picture(file: Path) -> bytes:
    """Return what a file of a picture holds, which is not looked at.

    Args:
        file: of at most 512 MiB.

    Raises:
        DataError: the file is missing, no plain file, or too large.
    """
    try:
        return read_plain_file(file, _MOST_BYTES)
    except OSError as error:
        raise DataError(f"{file}: expected an image; found: {error.strerror}; check the path") from None


def open_image(file: Path) -> Image.Image:
    """Return the picture in a file, upright.

    Args:
        file: a picture in the format WebP, JPEG, PNG, PPM (or PGM), BMP, GIF or TIFF, of at most 64 megapixels.

    Raises:
        DataError: the file is missing, is no picture, is corrupt or too large.
    """
    return decode_picture(read_picture(file), str(file))


def resize_image(image: Image.Image, spec: DatasetSpec, name: str = "image") -> ByteArray:
    """Return a picture in a data set's shape.

    Transparency is laid on black, 16 bits become 8, colour becomes grey (ITU-R 601 luma) or grey colour as the
    data set asks, and the size is changed with Pillow's bilinear filter.

    Args:
        image: a picture of any mode but 32 bits a pixel value (I, F).
        spec: whose shape to take.
        name: what to call the picture in an error.

    Returns:
        Bytes [C, H, W].

    Raises:
        DataError: the mode is I or F, whose range of values is not known.
    """
    channels, height, width = spec.shape
    flat = _flatten(image, name).convert("L" if channels == 1 else "RGB")
    if flat.size != (width, height):
        flat = flat.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(flat, np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def decode_picture(data: bytes, name: str) -> Image.Image:
    """Return a picture, fully read and upright.

    Args:
        data: the encoded picture, in one of the formats of :func:`open_image`.
        name: what to call it in an error.

    Raises:
        DataError: it is no picture, corrupt or too large.
    """
    try:
        with warnings.catch_warnings():
            # Odd metadata make Pillow warn; the picture is good all the same. Size is checked here.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            if image.width * image.height > _MOST_PIXELS:
                raise Image.DecompressionBombError
            if image.format == "PNG":
                # Loading does not look at the checksums of the pixels' parts.
                image.verify()
                image = Image.open(io.BytesIO(data), formats=("PNG",))
            image.load()
            # For a grey PGM of 16 bits Pillow takes 32.
            of_16_bits = image.format == "PPM" and image.mode == "I"
            return ImageOps.exif_transpose(image.convert("I;16") if of_16_bits else image)
    except Image.DecompressionBombError:
        raise DataError(
            f"{name}: expected an image of at most {_MOST_PIXELS // 10**6} megapixels; found a larger one; "
            "shrink or remove it"
        ) from None
    except UnidentifiedImageError:
        found = "data of another kind" if data else "an empty file"
        raise DataError(f"{name}: expected an image; found {found}; replace or remove it") from None
    except Exception as error:  # Pillow's decoders raise a dozen kinds on damaged data
        raise DataError(f"{name}: expected an image; found a damaged one ({error}); replace or remove it") from error


def is_grey(image: Image.Image) -> bool:
    """Return whether Pillow has opened a picture in a grey mode, with transparency or without."""
    return image.mode in _GREY_MODES


def is_almost_grey(image: Image.Image, name: str) -> bool:
    """Return whether the channels of a colour picture differ by 2 levels at most, as lossy formats store grey."""
    channels = np.asarray(_flatten(image, name), np.int16)
    return int(np.ptp(channels, axis=2).max()) <= 2


def _flatten(image: Image.Image, name: str) -> Image.Image:
    """Return the picture in mode L if it is grey, else RGB, laid on black."""
    if image.mode in ("I", "F"):
        raise DataError(
            f"{name}: expected 8 or 16 bits for a pixel's value; found Pillow's mode {image.mode}, 32 bits; "
            "convert the image to 8 bits"
        )
    mode = "L" if is_grey(image) else "RGB"
    if image.mode.startswith("I;16"):
        # Pillow's own conversion cuts off at 255.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        drawn = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", drawn.size, (0, 0, 0, 255)), drawn)
    return image.convert(mode)
