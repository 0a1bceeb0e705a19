"""Views of pictures that move what they show: blurs, zooms, stretching (ImageNet-C, Hendrycks and Dietterich 2019).

OpenCV and ImageMagick made the originals; here it is scipy, with the same kernels and borders.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from prunesearch.tasks.views.pixel_views import Picture

_filters: Any = ndimage  # untyped
_MIRRORED = "mirror"  # OpenCV's border


def gaussian(picture: Picture, sigma: float, truncate: float = 4.0) -> Picture:
    """Blurred by a Gaussian along height and width, as scikit-image does."""
    over = (sigma, sigma, *(0 for _ in picture.shape[2:]))
    found: Picture = _filters.gaussian_filter(picture, over, mode="nearest", truncate=truncate)
    return found


def disk(radius: float, alias_blur: float) -> NDArray[np.float64]:
    """A round kernel with softened edges."""
    reach, soft = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    around = np.arange(-reach, reach + 1)
    kernel = (np.add.outer(around**2, around**2) <= radius**2).astype(np.float64)
    kernel /= kernel.sum()
    softened: NDArray[np.float64] = _filters.gaussian_filter(kernel, alias_blur, mode=_MIRRORED, radius=soft)
    return softened


def defocus_blur(picture: Picture, amount: tuple[float, float], random: Generator) -> Picture:
    """Through a disk of some radius, which is softened."""
    kernel = disk(*amount)
    return np.stack([_filters.correlate(picture[..., c], kernel, mode=_MIRRORED) for c in range(3)], axis=2)


def glass_blur(picture: Picture, amount: tuple[float, int, int], random: Generator) -> Picture:
    """Blurred, its pixels taken from neighbours so far away, so many times, and blurred again.

    The original swaps one pixel after another, each time it is reached; here all of them move at once.
    """
    sigma, far, times = amount
    found = gaussian(picture, sigma)
    height, width = found.shape[:2]
    rows, columns = np.mgrid[far : height - far, far : width - far]
    for _ in range(times):
        by_row, by_column = random.integers(-far, far, size=(2, *rows.shape))
        moved = found.copy()
        moved[far : height - far, far : width - far] = found[rows + by_row, columns + by_column]
        found = moved
    return gaussian(found, sigma)


def along_a_line(layer: NDArray[np.float64], radius: int, sigma: float, degrees: float) -> NDArray[np.float64]:
    """ImageMagick's motion blur: half a Gaussian along a line, borders repeated; `[height, width, ...]`."""
    width = 2 * radius + 1
    weights = np.exp(-(np.arange(width) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    down, right = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    pads = [(width, width)] * 2 + [(0, 0)] * (layer.ndim - 2)
    wide = np.pad(layer, pads, mode="edge")
    found = np.zeros_like(layer)
    for i, weight in enumerate(weights):
        y, x = (width + math.ceil(i * step - 0.5) for step in (down, right))
        found += weight * wide[y : y + layer.shape[0], x : x + layer.shape[1]]
    return found


def motion_blur(picture: Picture, amount: tuple[int, float], random: Generator) -> Picture:
    """Along a line at up to 45 degrees from the horizontal."""
    return along_a_line(picture, *amount, random.uniform(-45, 45))


def zoomed(picture: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """Its middle, enlarged to its own size."""
    height, width = picture.shape[:2]
    high, wide = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - high) // 2, (width - wide) // 2
    zooms = (factor, factor, *(1 for _ in picture.shape[2:]))
    found = _filters.zoom(picture[top : top + high, left : left + wide], zooms, order=1)
    top, left = (found.shape[0] - height) // 2, (found.shape[1] - width) // 2
    middle: NDArray[np.float64] = found[top : top + height, left : left + width]
    return middle


def zoom_blur(picture: Picture, amount: tuple[float, float, float], random: Generator) -> Picture:
    """The mean of itself enlarged more and more."""
    factors = np.arange(*amount)
    total: Picture = picture + sum(zoomed(picture, factor) for factor in factors)
    return total / (len(factors) + 1)


def elastic_transform(picture: Picture, amount: tuple[float, float, float], random: Generator) -> Picture:
    """Its corners moved a little, then every pixel by a smooth field."""
    strength, smooth, corner = amount
    height, width = picture.shape[:2]
    middle, size = np.array([height, width]) // 2, min(height, width) // 3
    before = np.array([middle + size, [middle[0] + size, middle[1] - size], middle - size], dtype=np.float64)
    after = before + random.uniform(-corner, corner, size=before.shape)
    # x and y of a pixel of the result, by an affine map, are where it was before
    back = np.linalg.solve(np.column_stack([after, np.ones(3)]), before)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    was_x, was_y = (x * back[0, i] + y * back[1, i] + back[2, i] for i in (0, 1))
    moved = _at(picture, was_y, was_x, _MIRRORED)
    fields = random.uniform(-1, 1, size=(2, height, width))
    down, right = (_filters.gaussian_filter(f, smooth, mode="reflect", truncate=3) * strength for f in fields)
    return _at(moved, y + down, x + right, "reflect")


def _at(picture: Picture, y: NDArray[np.float64], x: NDArray[np.float64], border: str) -> Picture:
    channels = [_filters.map_coordinates(picture[..., c], [y, x], order=1, mode=border) for c in range(3)]
    return np.stack(channels, axis=2)
