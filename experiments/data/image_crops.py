"""One image file to one square of pixels, as training and as evaluation see it.

Imports NumPy and Pillow alone: worker processes read nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

Box = tuple[float, float, float, float]  # left, upper, right, lower
SCALE = (0.08, 1.0)  # share of an image that a training crop shows
RATIO = (3 / 4, 4 / 3)  # its width over its height
LOG_RATIO = (math.log(RATIO[0]), math.log(RATIO[1]))
CENTRE = 0.875  # share of the short side that evaluation shows: 224 of 256 pixels
# What Pillow raises at a file that is damaged, or no image. A broken chunk of a PNG file is a
# SyntaxError; a header of far too many pixels is no OSError either.
NO_IMAGE = (
    *(UnidentifiedImageError, OSError, ValueError, SyntaxError),
    Image.DecompressionBombError,
)


class BadImage(Exception):
    """A file that is no image; holds one line that names it."""


def random_box(width: int, height: int, draw: np.random.Generator) -> Box:
    """Draw the part of an image that training sees: any place, size and proportion.

    Source: Szegedy et al., Going deeper with convolutions, 2015 (arXiv 1409.4842), section 6; ten
    tries, then the largest crop in the middle, as is common.
    """
    for _ in range(10):
        area = width * height * draw.uniform(*SCALE)
        ratio = math.exp(draw.uniform(*LOG_RATIO))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            x, y = draw.integers(0, width - w + 1), draw.integers(0, height - h + 1)
            return (float(x), float(y), float(x + w), float(y + h))
    w, h = min(width, height * RATIO[1]), min(height, width / RATIO[0])
    return _middle(width, height, w, h)


def centre_box(width: int, height: int) -> Box:
    """Return the square in the middle that evaluation sees."""
    side = CENTRE * min(width, height)
    return _middle(width, height, side, side)


def _middle(width: int, height: int, w: float, h: float) -> Box:
    x, y = (width - w) / 2, (height - h) / 2
    return (x, y, x + w, y + h)


def read_square(path: str, side: int, draw: np.random.Generator | None) -> np.ndarray:
    """Read one image: uint8 [side, side, 3].

    Args:
      path: of a file that Pillow reads.
      side: of the square.
      draw: of the crop and of whether it is mirrored; None for the square in the middle.

    Raises:
      BadImage: the file cannot be read, or is no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            box = centre_box(width, height) if draw is None else random_box(width, height, draw)
            # A JPEG decoder halves an image for a fraction of the cost, where enough pixels stay.
            share = side / min(box[2] - box[0], box[3] - box[1])
            image.draft("RGB", (math.ceil(width * share), math.ceil(height * share)))
            x, y = image.width / width, image.height / height
            box = (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
            pixels = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR, box)
    except NO_IMAGE as error:
        raise BadImage(f"{path}: expected an image, found {error}") from error
    found = np.asarray(pixels)
    mirrored = draw is not None and draw.random() < 0.5
    return found[:, ::-1] if mirrored else found


def read_squares(
    paths: Sequence[str], side: int, seeds: Sequence[tuple[int, ...]] | None
) -> np.ndarray:
    """Read several images: uint8 [n, side, side, 3]; one seed per image, or the middles."""
    draws = [None] * len(paths) if seeds is None else map(np.random.default_rng, seeds)
    return np.stack([read_square(path, side, draw) for path, draw in zip(paths, draws)])
