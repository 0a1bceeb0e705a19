"""How a table holds sounds, and how one is read: as transformers' `load_audio` does, mono, at the rate of the model."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from datasets.arrow_dataset import Dataset
from datasets.features import Audio, Value
from numpy.typing import NDArray

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.cells import file_bytes
from prunesearch.tasks.data.sources import AUDIO_SUFFIXES, one_line
from prunesearch.tasks.libraries import package

AUDIO_NAMES = ("audio", "speech", "sound", "recording", "clip", "wav")
_FORMS = "bytes, a path or an array"
_LOUDEST = 8.0  # of full scale, 18 dB over what a file of whole numbers can hold
_EXTRA = "pip install 'prunesearch[audio]'"
Samples = NDArray[np.float32]


def is_audio(rows: Dataset, name: str) -> bool:
    """Whether a column holds sounds: by its feature, as numbers with a rate, or by the endings of its paths."""
    feature = rows.features[name]
    if isinstance(feature, Audio):
        return True
    if isinstance(feature, dict):
        if {"array", "sampling_rate"} <= set(feature):
            return True
        cells = rows.select_columns([name])[:20][name] if {"bytes", "path"} <= set(feature) else []
        paths = [cell["path"] for cell in cells if cell and cell["path"]]
        return name.lower() in AUDIO_NAMES or _all_sounds(paths)
    if isinstance(feature, Value) and "string" in feature.dtype:
        return _all_sounds([value for value in rows[name][:20] if value])
    return isinstance(feature, Value) and "binary" in feature.dtype and name.lower() in AUDIO_NAMES


def raw_sounds(rows: Dataset, column: str) -> Dataset:
    """Return the rows with cells as stored, so that nothing is decoded yet."""
    if isinstance(rows.features[column], Audio):
        rows = rows.cast_column(column, Audio(decode=False))
    return rows


def sound_bytes(cell: Any, base: Path | None) -> bytes:
    """What a cell holds, for telling rows apart: the encoded file, or its samples' bytes."""
    if isinstance(cell, dict) and cell.get("array") is not None:
        return np.asarray(cell["array"], dtype=np.float32).tobytes()
    return file_bytes(cell, base, "audio", _FORMS)


def decode_sound(cell: Any, base: Path | None, rate: int | None) -> Samples:
    """Decode a cell: encoded bytes, `{"bytes", "path"}`, a path from `base`, or `{"array", "sampling_rate"}`.

    Args:
        cell: as `raw_sounds` gives it.
        base: folder that relative paths start from.
        rate: samples a second that are wanted; None: those that it has.

    Returns:
        Samples `[n]` in about [-1, 1]: the mean of the channels, resampled by soxr (band-limited), `ceil(n * rate /
        given)` of them, as `load_audio` and librosa do.

    Raises:
        PruneSearchError: if it cannot be read, is empty, holds values that no sound has, or a library is missing.
    """
    samples, given = read_sound(cell, base)
    return samples if rate is None or rate == given else _resample(samples, given, rate)


def read_sound(cell: Any, base: Path | None) -> tuple[Samples, int]:
    """The samples of a cell at the rate that it has, and that rate; see `decode_sound`."""
    if isinstance(cell, dict) and cell.get("array") is not None:
        samples, given = np.asarray(cell["array"], dtype=np.float32), cell.get("sampling_rate")
        if samples.ndim == 2:
            samples = samples.mean(axis=int(np.argmin(samples.shape)))  # channels are fewer than samples
    else:
        samples, given = _decode(file_bytes(cell, base, "audio", _FORMS))
    if isinstance(given, float) and given.is_integer():  # of a table with gaps
        given = int(given)
    if not isinstance(given, int) or given < 1:
        raise PruneSearchError(f"a sound must say its sampling rate, but got {given!r:.40}: give a whole number of Hz")
    if samples.ndim != 1 or len(samples) == 0:
        raise PruneSearchError(f"a sound must have samples, but got shape {samples.shape}: leave that row out")
    _check_range(samples)
    return samples, given


def _check_range(samples: Samples) -> None:
    """Raise `PruneSearchError` for values that cannot be a sound's: no numbers, or whole ones as a file stores them."""
    high = float(np.abs(samples).max())  # not a number, if any is none
    if not high <= _LOUDEST or (high > 1 and bool((samples == np.rint(samples)).all())):
        raise PruneSearchError(
            f"a sound's values must be from -1 to 1, but the largest is {high:g}: divide whole numbers by what their "
            "width holds (32768 for 16 bits), or leave that row out"
        )


def _decode(encoded: bytes) -> tuple[Samples, int]:
    soundfile = package("soundfile", f"sounds are decoded by the package soundfile: {_EXTRA}")
    try:
        samples, rate = soundfile.read(io.BytesIO(encoded), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise PruneSearchError(f"a sound cannot be decoded: {one_line(error)}") from error
    mono: Samples = samples.mean(axis=1)
    return mono, int(rate)


def _resample(samples: Samples, given: int, rate: int) -> Samples:
    soxr = package("soxr", f"{given} Hz are turned into {rate} Hz by the package soxr: {_EXTRA}")
    wanted = math.ceil(len(samples) * rate / given)
    found: Samples = soxr.resample(samples, given, rate, quality="HQ")
    return np.pad(found, (0, max(0, wanted - len(found))))[:wanted]


def _all_sounds(paths: list[Any]) -> bool:
    return bool(paths) and all(str(path).lower().endswith(AUDIO_SUFFIXES) for path in paths)
