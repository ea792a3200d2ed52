"""Write a small set of images to try the package on images of one's own: python examples/shapes.py FOLDER.

Six kinds of coloured shapes on noise, 60 images of each to train and 40 to test, in the layout of
docs/guide/own-images.md. The same images each time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 40
COUNTS = {"train": 60, "test": 40}


def draw(kind: str, random: np.random.Generator) -> Image.Image:
    """Return an image of a shape with random place, size and colour."""
    image = Image.fromarray(random.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8))
    pen = ImageDraw.Draw(image)
    left, top, side = (int(random.integers(low, high)) for low, high in ((4, 14), (4, 14), (16, 22)))
    right, bottom = left + side, top + side
    box, colour = (left, top, right, bottom), tuple(int(level) for level in random.integers(120, 256, 3))
    if kind == "disc":
        pen.ellipse(box, fill=colour)
    elif kind == "ring":
        pen.ellipse(box, outline=colour, width=4)
    elif kind == "square":
        pen.rectangle(box, fill=colour)
    elif kind == "frame":
        pen.rectangle(box, outline=colour, width=4)
    elif kind == "triangle":
        pen.polygon([(left, bottom), (right, bottom), (left + side // 2, top)], fill=colour)
    else:
        pen.line(box, fill=colour, width=5)
    return image


def main() -> int:
    """Write the images into a new folder; 2: it is there, or none was named."""
    if len(sys.argv) != 2:
        print("usage: shapes.py FOLDER", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    if folder.exists():
        print(
            f"shapes: expected a folder that does not exist yet; found {str(folder)!r}; choose another one",
            file=sys.stderr,
        )
        return 2
    random = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for kind in ("disc", "frame", "line", "ring", "square", "triangle"):
            place = folder / split / kind
            place.mkdir(parents=True)
            for number in range(count):
                draw(kind, random).save(place / f"{number:02d}.png")
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
