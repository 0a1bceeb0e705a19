"""How a table holds videos, and how one is read: as many frames as a model takes, evenly over the whole clip.

Frames are those that transformers' `load_video` takes: number `i * n // frames` of n.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from datasets.arrow_dataset import Dataset
from datasets.features import Image, List, Value, Video
from PIL import Image as PILImage

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.cells import file_bytes
from prunesearch.tasks.data.image_cells import open_picture
from prunesearch.tasks.data.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, one_line
from prunesearch.tasks.libraries import package

_WHOLE = 0.9  # of the frames that a file says it has; heads are off by one or two
VIDEO_NAMES = ("video", "frames", "clip")


def is_video(rows: Dataset, name: str) -> bool:
    """Whether a column holds videos: files, lists of images, or folders of frames under one of `VIDEO_NAMES`."""
    feature = rows.features[name]
    if isinstance(feature, Video):
        return True
    if isinstance(feature, List):
        inner = feature.feature
        if isinstance(inner, Image) or (isinstance(inner, dict) and {"bytes", "path"} <= set(inner)):
            return True
        heads = [cell[0] for cell in rows[name][:20] if cell] if isinstance(inner, Value) else []
        return bool(heads) and all(isinstance(h, str) and h.lower().endswith(IMAGE_SUFFIXES) for h in heads)
    if isinstance(feature, dict):
        cells = rows.select_columns([name])[:20][name] if {"bytes", "path"} <= set(feature) else []
        return _all_videos([cell["path"] for cell in cells if cell and cell["path"]])
    if isinstance(feature, Value) and "string" in feature.dtype:
        values = [value for value in rows[name][:20] if value]
        return _all_videos(values) or (bool(values) and name.lower() in VIDEO_NAMES)
    return False


def raw_videos(rows: Dataset, column: str) -> Dataset:
    """Return the rows with cells as stored, so that nothing is decoded yet."""
    feature = rows.features[column]
    if isinstance(feature, Video):
        rows = rows.cast_column(column, Video(decode=False))
    if isinstance(feature, List) and isinstance(feature.feature, Image):
        rows = rows.cast_column(column, List(Image(decode=False)))
    return rows


def video_bytes(cell: Any, base: Path | None) -> bytes:
    """What a cell holds, for telling rows apart: its file, or its frames one after another."""
    frames = _frame_cells(cell, base)
    if frames is None:
        return _read(cell, base)
    return b"".join(_read(frame, base) for frame in frames)


def decode_video(cell: Any, base: Path | None, frames: int, mode: str = "RGB") -> list[PILImage.Image]:
    """Decode `frames` frames of a cell: a list of images (bytes or paths), a folder of frames, or a video file.

    They are the first of as many equal parts of the clip; of one with fewer frames, some come several times.

    Raises:
        PruneSearchError: if it cannot be read, has no frame, or is a video file and the package av is missing.
    """
    given = _frame_cells(cell, base)
    if given is None:
        return _decode_file(_read(cell, base), frames, mode)
    if not given:
        raise PruneSearchError("a video must have frames, but one has none: leave that row out")
    return [open_picture(_read(given[i], base), mode) for i in _places(len(given), frames)]


def check_video(cell: Any, base: Path | None) -> None:
    """Decode every frame of a cell, whichever of them a model will take.

    Raises:
        PruneSearchError: as `decode_video`.
    """
    given = _frame_cells(cell, base)
    decode_video(cell, base, 1 if given is None else len(given))  # of a file all are decoded anyway


def _places(count: int, frames: int) -> list[int]:
    """Which of `count` frames are taken."""
    return [i * count // frames for i in range(frames)] if count else []


def _frame_cells(cell: Any, base: Path | None) -> list[Any] | None:
    """The frames of a cell, in order; None for a video file."""
    if isinstance(cell, list):
        return cell
    if isinstance(cell, str):
        folder = _path(cell, base)
        if folder.is_dir():
            return [str(f.resolve()) for f in sorted(folder.iterdir()) if f.suffix.lower() in IMAGE_SUFFIXES]
    return None


def _decode_file(encoded: bytes, frames: int, mode: str) -> list[PILImage.Image]:
    av = package(
        "av",
        "video files are decoded by the package av: pip install av, or give the frames as a list of images a row",
    )
    try:
        with av.open(io.BytesIO(encoded)) as container:
            if not container.streams.video:
                raise PruneSearchError("a video must have frames, but one is a sound alone: leave that row out")
            count, stated = sum(1 for _ in container.decode(video=0)), container.streams.video[0].frames
            wanted = _places(count, frames)
            container.seek(0)
            kept = {i: f.to_image() for i, f in enumerate(container.decode(video=0)) if i in set(wanted)}
    except (av.FFmpegError, OSError, ValueError) as error:
        raise PruneSearchError(f"a video cannot be decoded: {one_line(error)}") from error
    if not kept:
        raise PruneSearchError("a video must have frames, but one has none: leave that row out")
    if count < _WHOLE * stated:
        raise PruneSearchError(f"a video must hold its {stated} frames, but {count} can be decoded: leave that row out")
    return [kept[i].convert(mode) for i in wanted]


def _read(cell: Any, base: Path | None) -> bytes:
    return file_bytes(cell, base, "video", "frames, bytes or a path")


def _path(name: str, base: Path | None) -> Path:
    return Path(name) if base is None else base / name


def _all_videos(paths: list[Any]) -> bool:
    return bool(paths) and all(str(path).lower().endswith(VIDEO_SUFFIXES) for path in paths)
