"""Views of pictures pixel by pixel: noise, light, compression (ImageNet-C, Hendrycks and Dietterich 2019).

A picture is float64 `[height, width, 3]`, 0 to 1; what is returned need not be clipped.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.float64]


def as_eight_bits(picture: Picture) -> NDArray[np.uint8]:
    """Values of 0 to 255, cut off as ImageNet-C does."""
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8)


def gaussian_noise(picture: Picture, amount: float, random: Generator) -> Picture:
    """With normal noise of the standard deviation `amount`."""
    return picture + random.normal(scale=amount, size=picture.shape)


def shot_noise(picture: Picture, amount: float, random: Generator) -> Picture:
    """Of `amount` photons where it is white."""
    found: Picture = random.poisson(picture * amount) / amount
    return found


def impulse_noise(picture: Picture, amount: float, random: Generator) -> Picture:
    """A share of its values black or white."""
    hit, white = random.random(picture.shape) < amount, random.random(picture.shape) < 0.5
    return np.where(hit, white.astype(np.float64), picture)


def brightness(picture: Picture, amount: float, random: Generator) -> Picture:
    """Its value, as of hue, saturation and value, greater by `amount`; the two others stay."""
    value = picture.max(axis=2, keepdims=True)
    brighter = np.clip(value + amount, 0, 1)
    found: Picture = np.where(value > 0, picture * (brighter / np.where(value > 0, value, 1)), brighter)
    return found


def contrast(picture: Picture, amount: float, random: Generator) -> Picture:
    """Each channel nearer to its mean."""
    means = picture.mean(axis=(0, 1), keepdims=True)
    found: Picture = (picture - means) * amount + means
    return found


def pixelate(picture: Picture, amount: float, random: Generator) -> Picture:
    """Of a share of its width and height."""
    image = Image.fromarray(as_eight_bits(picture))
    few = max(1, int(image.width * amount)), max(1, int(image.height * amount))
    return np.asarray(image.resize(few, Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)) / 255.0


def jpeg_compression(picture: Picture, amount: int, random: Generator) -> Picture:
    """Written as a JPEG of quality `amount`."""
    file = io.BytesIO()
    Image.fromarray(as_eight_bits(picture)).save(file, "JPEG", quality=amount)
    with Image.open(file) as read:
        return np.asarray(read) / 255.0
