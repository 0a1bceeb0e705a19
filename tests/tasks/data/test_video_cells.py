"""Videos in files: the frames are those that transformers' `load_video` takes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.video_utils import load_video

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.video_cells import decode_video

av = pytest.importorskip("av", reason="pip install av")


def pictures(count: int) -> list[np.ndarray]:
    """Frames that differ, smooth enough for a codec."""
    ramp = np.linspace(0, 200, 48)
    return [np.stack([np.add.outer(ramp[:32], np.roll(ramp, 7 * i)) / 2] * 3, 2).astype(np.uint8) for i in range(count)]


def write(path: Path, frames: list[np.ndarray], codec: str, pixels: str, rate: int = 10) -> Path:
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mp4", "mpeg4", "yuv420p"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.mov", "png", "rgb24"),
        ("a.mp4", "libx264", "yuv420p"),
    ],
)
@pytest.mark.parametrize(("count", "taken"), [(20, 8), (17, 16), (9, 9), (5, 2), (1, 1)])
def test_the_frames_are_those_of_load_video(name: str, codec: str, pixels: str, count: int, taken: int, tmp_path: Path):
    path = write(tmp_path / name, pictures(count), codec, pixels)
    want, _ = load_video(str(path), num_frames=taken)
    found = np.stack(list(map(np.asarray, decode_video(name, tmp_path, taken))))
    assert found.dtype == want.dtype
    assert np.array_equal(found, want)


def test_pixels_come_back_from_a_file_without_loss_and_as_from_a_list_of_frames(tmp_path: Path):
    frames = pictures(7)
    path = write(tmp_path / "a.mov", frames, "png", "rgb24")
    cells = []
    for frame in frames:
        out = io.BytesIO()
        Image.fromarray(frame).save(out, "PNG")
        cells.append({"bytes": out.getvalue(), "path": None})
    for cell in ({"bytes": path.read_bytes(), "path": None}, cells):
        for taken in (1, 3, 7, 14):  # of 7 frames 14 are each of them twice
            found = decode_video(cell, None, taken)
            assert [np.array_equal(f, frames[i * 7 // taken]) for i, f in enumerate(found)] == [True] * taken


def test_a_sound_a_cut_off_file_and_an_empty_one_are_one_line(tmp_path: Path):
    whole = write(tmp_path / "a.avi", pictures(40), "mjpeg", "yuvj420p").read_bytes()
    with av.open(str(tmp_path / "b.mp4"), "w") as out:
        stream: Any = out.add_stream("aac", rate=16_000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16_000
        out.mux(stream.encode(sound))
        out.mux(stream.encode(None))
    cells = {
        "one is a sound alone": "b.mp4",
        "must hold its 40 frames, but [0-9]+ can be decoded": whole[: len(whole) // 2],
        "a video cannot be decoded": whole[:60],
        "cannot be decoded": b"junk" * 99,
        "must hold|cannot be decoded": b"",
    }
    for message, cell in cells.items():
        with pytest.raises(PruneSearchError, match=message) as caught:
            decode_video(cell, tmp_path, 4)
        assert "\n" not in str(caught.value)
