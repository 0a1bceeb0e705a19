"""Views of pictures in bad weather (ImageNet-C, Hendrycks and Dietterich 2019)."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.views.blurs import along_a_line, zoomed
from prunesearch.tasks.views.pixel_views import Picture

_GREY = np.array([0.299, 0.587, 0.114])
_SMALL = 0.2  # what CIFAR-10-C makes of the width of a picture of frost
SMALL_PICTURE = 64  # pixels of the shorter side, below which constants are CIFAR-10-C's


def plasma(size: int, decay: float, random: Generator) -> NDArray[np.float64]:
    """Clouds by the diamond-square algorithm, `[size, size]`, 0 to 1; `size` is a power of two."""
    found = np.zeros((size, size))
    step, wild = size, 100.0

    def around(total: NDArray[np.float64]) -> NDArray[np.float64]:
        noise: NDArray[np.float64] = total / 4 + wild * random.uniform(-wild, wild, total.shape)
        return noise

    while step >= 2:
        half = step // 2
        corners = found[::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=0)
        found[half::step, half::step] = around(pairs + np.roll(pairs, -1, axis=1))
        centres, corners = found[half::step, half::step], found[::step, ::step]
        up_down = centres + np.roll(centres, 1, axis=0)
        found[::step, half::step] = around(up_down + corners + np.roll(corners, -1, axis=1))
        left_right = centres + np.roll(centres, 1, axis=1)
        found[half::step, ::step] = around(left_right + corners + np.roll(corners, -1, axis=0))
        step, wild = half, wild / decay
    found -= found.min()
    clouds: NDArray[np.float64] = found / found.max()
    return clouds


def fog(picture: Picture, amount: tuple[float, float], random: Generator) -> Picture:
    """Under clouds of some density and roughness."""
    density, decay = amount
    height, width = picture.shape[:2]
    clouds = plasma(1 << (max(height, width, 2) - 1).bit_length(), decay, random)[:height, :width, None]
    brightest = picture.max()
    found: Picture = (picture + density * clouds) * brightest / (brightest + density)
    return found


def snow(picture: Picture, amount: tuple[float, float, float, float, int, float, float], random: Generator) -> Picture:
    """With flakes (mean, spread, size, threshold, and how they fall), in a whiter light."""
    mean, spread, size, least, radius, sigma, light = amount
    flakes = zoomed(random.normal(mean, spread, size=picture.shape[:2]), size)
    flakes = along_a_line(np.where(flakes < least, 0, np.clip(flakes, 0, 1)), radius, sigma, random.uniform(-135, -45))
    white = np.maximum(picture, (picture @ _GREY)[..., None] * 1.5 + 0.5)
    found: Picture = light * picture + (1 - light) * white + (flakes + np.rot90(flakes, 2))[..., None]
    return found


def frost(picture: Picture, amount: tuple[float, float], random: Generator) -> Picture:
    """Seen through one of the pictures of frost that ImageNet-C has."""
    height, width = picture.shape[:2]
    textures = _frosts(min(height, width) < SMALL_PICTURE)
    texture = textures[random.integers(len(textures))]
    enlarge = max(1.0, (height + 1) / texture.height, (width + 1) / texture.width)
    if enlarge > 1:
        texture = texture.resize((int(texture.width * enlarge) + 1, int(texture.height * enlarge) + 1))
    top, left = random.integers(texture.height - height), random.integers(texture.width - width)
    cut = np.asarray(texture.crop((left, top, left + width, top + height))) / 255.0
    return amount[0] * picture + amount[1] * cut


@cache
def _frosts(small: bool) -> list[Image.Image]:
    """The textures of the package corrupt-tta, which is not imported: it needs OpenCV, and they are plain files."""
    spec = importlib.util.find_spec("corrupt_tta")
    folders = (
        [] if spec is None else [Path(place) / "assets" / "frost" for place in spec.submodule_search_locations or []]
    )
    files = sorted(file for folder in folders for file in folder.glob("frost*"))
    if not files:
        raise PruneSearchError("frost needs the pictures of the package corrupt-tta: pip install 'prunesearch[robust]'")
    found = []
    for file in files:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        found.append(image.resize((int(image.width * _SMALL), int(image.height * _SMALL))) if small else image)
    return found
