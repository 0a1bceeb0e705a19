"""How a table holds images, and how one is read: upright, in 8 bits, as transformers' `load_image` and datasets do."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from datasets.arrow_dataset import Dataset
from datasets.features import Image, Value
from PIL import ExifTags, ImageOps
from PIL import Image as PILImage

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.cells import file_bytes
from prunesearch.tasks.data.sources import IMAGE_SUFFIXES, one_line

_WIDE = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # PIL's modes of 16 bits a pixel, and of the 32 it may read them into
_BROKEN = (OSError, SyntaxError, ValueError, PILImage.DecompressionBombError)  # what PIL raises for damaged files
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def is_image(rows: Dataset, name: str) -> bool:
    """Whether a column holds images: by its feature, as bytes, or by the endings of its paths."""
    feature = rows.features[name]
    if isinstance(feature, Image):
        return True
    if isinstance(feature, dict):
        return "bytes" in feature
    if not isinstance(feature, Value):
        return False
    if "binary" in feature.dtype:
        return True
    head = [value for value in rows[name][:20] if value] if "string" in feature.dtype else []
    return bool(head) and all(str(value).lower().endswith(IMAGE_SUFFIXES) for value in head)


def raw_images(rows: Dataset, column: str) -> Dataset:
    """Return the rows with image cells as encoded bytes or paths, so that nothing is decoded yet."""
    if isinstance(rows.features[column], Image):
        rows = rows.cast_column(column, Image(decode=False))
    return rows


def image_bytes(cell: Any, base: Path | None) -> bytes:
    """Return the encoded bytes of an image cell: bytes, `{"bytes", "path"}`, or a path from `base`."""
    return file_bytes(cell, base, "image")


def decode_image(cell: Any, base: Path | None, mode: str = "RGB") -> PILImage.Image:
    """Decode an image cell into a PIL image of `mode` ("RGB", or "L" for one channel), turned as its EXIF says.

    Pixels of 16 bits are brought to 8 by their high byte, and floating ones from 0 to 1 (or 0 to 255) to 0 to 255; PIL
    by itself cuts both off at 255.

    Raises:
        PruneSearchError: if it cannot be decoded, or its values are in no range that pixels have.
    """
    return open_picture(image_bytes(cell, base), mode)


def open_picture(encoded: bytes, mode: str = "RGB") -> PILImage.Image:
    """Decode the bytes of an image file; see `decode_image`."""
    try:
        with PILImage.open(io.BytesIO(encoded)) as image:
            return _eight_bits(ImageOps.exif_transpose(image)).convert(mode)
    except _BROKEN as error:
        raise PruneSearchError(f"an image cannot be decoded: {one_line(error)}") from error


def image_size(cell: Any, base: Path | None) -> tuple[int, int]:
    """Width and height of an image cell as `decode_image` gives it, read from the head of the file alone.

    Raises:
        PruneSearchError: if it is no image.
    """
    try:
        with PILImage.open(io.BytesIO(image_bytes(cell, base))) as image:
            # PIL turns a TIFF by itself, and its size says so before that
            turned = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED
            return (image.height, image.width) if turned else (image.width, image.height)
    except _BROKEN as error:
        raise PruneSearchError(f"an image cannot be decoded: {one_line(error)}") from error


def _eight_bits(image: PILImage.Image) -> PILImage.Image:
    """The image with 8 bits a pixel where it has more."""
    if image.mode not in (*_WIDE, "F"):
        return image
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    most = 1.0 if image.mode == "F" and high <= 1 else 255.0 if image.mode == "F" else 65535.0
    narrow = image.mode != "F" and 0 < high < 256  # 8 bits in a file of 16 would be nearly black
    if not 0 <= low <= high <= most or narrow:
        raise PruneSearchError(
            f"an image's values must be from 0 to 65535 (16 bits) or 0 to 1 (floating), but are from {low:g} to "
            f"{high:g}: save it in 8 bits"
        )
    scaled = np.floor(values / 256) if image.mode != "F" else np.rint(values * (255 / most))
    return PILImage.fromarray(scaled.astype(np.uint8))
