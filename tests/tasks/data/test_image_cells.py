"""Images as stored and as seen: the judges are transformers' `load_image`, datasets, and arithmetic."""

from __future__ import annotations

import io

import numpy as np
import pytest
from datasets.features import Image as ImageFeature
from PIL import Image
from transformers.image_utils import load_image

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.image_cells import decode_image, image_size


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def picture(mode: str = "RGB") -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    return Image.fromarray(levels).convert(mode)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_images_stand_upright(kind: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    cell = stored(picture(), kind, exif=exif)
    found = decode_image(cell, None)
    assert np.array_equal(found, load_image(Image.open(io.BytesIO(cell))))
    assert np.array_equal(found, ImageFeature(mode="RGB").decode_example({"bytes": cell, "path": None}))
    assert image_size(cell, None) == found.size


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK"])
def test_every_mode_of_eight_bits_is_what_transformers_makes_of_it(mode: str):
    cell = stored(picture(mode), "TIFF" if mode == "CMYK" else "PNG")
    assert np.array_equal(decode_image(cell, None), load_image(Image.open(io.BytesIO(cell))))


def test_odd_files_are_what_transformers_and_datasets_make_of_them():
    """Alpha and palettes, print colours, and the first picture of several that move."""
    clear = np.dstack([np.asarray(picture("RGB")), np.zeros((*np.asarray(picture("L")).shape, 1), np.uint8)])
    moving = {"save_all": True, "append_images": [picture("RGB").rotate(180)], "duration": 40}
    cells = [
        stored(Image.fromarray(clear, "RGBA"), "PNG"),
        stored(picture("RGB").quantize(16), "PNG", transparency=0),
        stored(picture("RGB").quantize(16), "PNG", transparency=bytes(range(16))),
        stored(picture("CMYK"), "JPEG"),
        stored(picture("RGB"), "GIF", **moving),
        stored(picture("RGB"), "WEBP", lossless=True, **moving),
    ]
    for cell in cells:
        found = decode_image(cell, None)
        assert np.array_equal(found, load_image(Image.open(io.BytesIO(cell))))
        assert np.array_equal(found, ImageFeature(mode="RGB").decode_example({"bytes": cell, "path": None}))


def test_wide_pixels_are_brought_to_eight_bits():
    grey = np.asarray(picture("L"))
    want = np.repeat(grey[..., None], 3, axis=2)
    for kind in ("PNG", "TIFF"):
        wide = Image.fromarray(grey.astype(np.uint16) * 257)
        assert np.array_equal(decode_image(stored(wide, kind), None), want)
    assert np.array_equal(decode_image(stored(Image.fromarray(grey.astype(np.float32) / 255), "TIFF"), None), want)
    assert np.array_equal(decode_image(stored(Image.fromarray(grey.astype(np.float32)), "TIFF"), None), want)
    assert np.array_equal(decode_image(stored(Image.fromarray(grey.astype(np.uint16) * 257)), None, "L"), grey)


@pytest.mark.parametrize(
    "values",
    [
        np.full((4, 4), 200, np.uint16),
        np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4),
        np.linspace(0, 4000, 16, dtype=np.float32).reshape(4, 4),
        np.full((4, 4), np.nan, np.float32),
    ],
)
def test_values_that_pixels_cannot_have_are_refused(values: np.ndarray):
    with pytest.raises(PruneSearchError, match="an image's values must be from 0 to 65535") as caught:
        decode_image(stored(Image.fromarray(values), "TIFF"), None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [0, 4, 60, -40])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_damaged_files_are_one_line(kind: str, cut: int):
    with pytest.raises(PruneSearchError, match="an image cannot be decoded") as caught:
        decode_image(stored(picture(), kind)[:cut], None)
    assert "\n" not in str(caught.value)
