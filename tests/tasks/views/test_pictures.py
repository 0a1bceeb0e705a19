"""The fifteen corruptions, against slow versions of ImageNet-C's own code, and against corrupt-tta where that runs."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
from PIL import Image

from prunesearch.core.tables.names import load_target
from prunesearch.tasks.views import blurs, pixel_views, weather
from prunesearch.tasks.views.view_table import VIEWS

CORRUPT = "pip install corrupt-tta opencv-python-headless scikit-image"
PICTURES = [name for name, row in VIEWS.entries().items() if row.reads == "image"]


def picture(height: int = 48, width: int = 40) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    layers = [np.sin(x / 5), np.cos(y / 4), np.sin((x + y) / 7)]
    return np.round((np.stack(layers, axis=2) + 1) / 2 * 255) / 255


def test_there_are_fifteen_and_each_has_five_amounts_of_both_kinds() -> None:
    assert len(PICTURES) == 15
    for name in PICTURES:
        row = VIEWS.entry(name)
        assert row.small is not None
        assert len(row.amounts) == len(row.small) == 5


@pytest.mark.parametrize("name", PICTURES)
def test_a_view_changes_a_picture_in_the_same_way_each_time_and_more_when_it_is_severer(name: str) -> None:
    if name == "frost" and importlib.util.find_spec("corrupt_tta") is None:
        pytest.skip(CORRUPT)
    row, before = VIEWS.entry(name), picture(80, 72)
    alter = load_target(row.target)
    made = [np.clip(alter(before.copy(), amount, np.random.default_rng(3)), 0, 1) for amount in row.amounts]
    again = np.clip(alter(before.copy(), row.amounts[2], np.random.default_rng(3)), 0, 1)
    assert all(found.shape == before.shape and np.isfinite(found).all() for found in made)
    assert np.array_equal(made[2], again)
    away = [np.abs(found - before).mean() for found in made]
    assert away[0] > 0.002
    assert away[4] > away[0] or name == "elastic_transform"  # whose published amounts do not grow


def test_the_disk_is_correlated_as_a_loop_does() -> None:
    before, kernel = picture(24, 22), blurs.disk(3, 0.1)
    padded = np.pad(before, [(8, 8), (8, 8), (0, 0)], mode="reflect")  # OpenCV's BORDER_REFLECT_101
    slow = np.zeros_like(before)
    for y in range(24):
        for x in range(22):
            slow[y, x] = (padded[y : y + 17, x : x + 17] * kernel[..., None]).sum(axis=(0, 1))
    assert kernel.sum() == pytest.approx(1)
    assert np.allclose(blurs.defocus_blur(before, (3, 0.1), np.random.default_rng(0)), slow)


def test_motion_is_half_a_gaussian_along_a_line_as_imagemagick_has_it() -> None:
    before = picture(12, 14)
    radius, sigma, angle = 4, 2.0, 30.0
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
    slow = np.zeros_like(before)
    for y in range(12):
        for x in range(14):
            for i, weight in enumerate(weights):
                down = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
                right = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
                slow[y, x] += weight / sum(weights) * before[min(11, y + down), min(13, x + right)]
    assert np.allclose(blurs.along_a_line(before, radius, sigma, angle), slow)


def test_light_and_noise_are_as_defined() -> None:
    before, random = picture(), np.random.default_rng(1)
    import colorsys

    brighter = np.clip(pixel_views.brightness(before, 0.3, random), 0, 1)
    for y, x in ((0, 0), (5, 7), (30, 20)):
        h, s, v = colorsys.rgb_to_hsv(*before[y, x])
        assert brighter[y, x] == pytest.approx(colorsys.hsv_to_rgb(h, s, min(1, v + 0.3)), abs=1e-9)
    flat = np.full((200, 200, 3), 0.5)
    assert np.std(pixel_views.gaussian_noise(flat, 0.18, random) - flat) == pytest.approx(0.18, rel=0.02)
    assert np.std(pixel_views.shot_noise(flat, 12, random)) == pytest.approx(math.sqrt(0.5 / 12), rel=0.02)
    hit = pixel_views.impulse_noise(flat, 0.09, random) != 0.5
    assert hit.mean() == pytest.approx(0.09, rel=0.05)
    less = pixel_views.contrast(before, 0.2, random)
    assert less.mean(axis=(0, 1)) == pytest.approx(before.mean(axis=(0, 1)))
    assert less.std() == pytest.approx(0.2 * before.std(), rel=0.3)


def test_fog_lightens_and_clouds_fill_their_range() -> None:
    clouds = weather.plasma(32, 3, np.random.default_rng(0))
    assert (clouds.min(), clouds.max()) == (0, 1)
    dark = np.full((32, 32, 3), 0.1)
    dark[0, 0] = 1
    assert weather.fog(dark, (1.5, 2), np.random.default_rng(0)).mean() > dark.mean() * 2


@pytest.mark.parametrize(
    "name", ["defocus_blur", "zoom_blur", "contrast", "brightness", "pixelate", "jpeg_compression"]
)
def test_what_draws_nothing_is_what_corrupt_tta_makes_of_it(name: str) -> None:
    """Its constants are ImageNet-C's; it needs OpenCV and scikit-image, which prunesearch does not."""
    pytest.importorskip("cv2", reason=CORRUPT)
    pytest.importorskip("skimage", reason=CORRUPT)
    theirs = pytest.importorskip("corrupt_tta", reason=CORRUPT)
    before = picture(96, 96)
    eight = np.asarray(Image.fromarray(pixel_views.as_eight_bits(before)))
    for severity in (1, 3, 5):
        amount = VIEWS.entry(name).amounts[severity - 1]
        mine = load_target(VIEWS.entry(name).target)(eight / 255.0, amount, np.random.default_rng(0))
        assert np.abs(np.clip(mine, 0, 1) * 255 - theirs.corrupt(eight, severity, name)).max() < 1.0
