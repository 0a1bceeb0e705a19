"""Sounds in tables: found, decoded, and resampled without a change of pitch."""

import io
import wave
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, Dataset

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.audio_cells import decode_sound, is_audio
from prunesearch.tasks.data.columns import content_kind, find_columns
from prunesearch.tasks.data.sources import load_source
from tests.support.tiny_media import RATE, encoded, tone


def pitch(samples: np.ndarray, rate: int) -> float:
    """Frequency of the largest peak, Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.fft.rfftfreq(len(samples), 1 / rate)[spectrum.argmax()])


@pytest.mark.parametrize("given", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_a_sine_keeps_its_frequency_and_height(given: int):
    found = decode_sound({"bytes": encoded(tone(440, 1.0, given), given), "path": None}, None, RATE)
    assert len(found) == pytest.approx(RATE, abs=2)
    assert pitch(found, RATE) == pytest.approx(440, abs=1)
    middle = found[RATE // 4 : -RATE // 4]
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.01)


def test_what_is_above_half_the_new_rate_is_gone_and_not_folded_down():
    found = decode_sound({"array": tone(11_000, 1.0, 44_100), "sampling_rate": 44_100}, None, RATE)
    assert np.abs(found[1_000:-1_000]).max() < 0.005


def test_a_wave_file_is_read_as_the_standard_library_reads_it(tmp_path: Path):
    whole = np.random.default_rng(0).integers(-(2**15), 2**15, 500, dtype=np.int16)
    with wave.open(str(tmp_path / "a.wav"), "wb") as out:
        out.setparams((1, 2, RATE, 0, "NONE", ""))
        out.writeframes(whole.tobytes())
    for cell, base in (("a.wav", tmp_path), ((tmp_path / "a.wav").read_bytes(), None)):
        assert np.array_equal(decode_sound(cell, base, RATE), whole / np.float32(2**15))


def test_channels_are_averaged_and_flac_is_the_same_sound():
    left, right = tone(300, 0.1), tone(700, 0.1)
    both = decode_sound({"bytes": encoded(np.stack([left, right], 1)), "path": None}, None, RATE)
    assert np.allclose(both, (left + right) / 2, atol=1e-6)
    array = decode_sound({"array": np.stack([left, right]).tolist(), "sampling_rate": RATE}, None, RATE)
    assert np.allclose(array, both, atol=1e-6)
    flac = decode_sound({"bytes": encoded(left, kind="FLAC"), "path": None}, None, RATE)
    assert np.allclose(flac, left, atol=2**-15)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"bytes": b"RIFFjunk", "path": None}, "cannot be decoded"),
        ({"bytes": None, "path": "gone.wav"}, "gone.wav' cannot be read"),
        ({"array": [0.1, 0.2], "sampling_rate": None}, "sampling rate"),
        ({"array": [], "sampling_rate": RATE}, "must have samples"),
        (3, "must hold bytes"),
    ],
)
def test_what_is_no_sound_is_one_line(cell: object, message: str, tmp_path: Path):
    with pytest.raises(PruneSearchError, match=message) as caught:
        decode_sound(cell, tmp_path, RATE)
    assert "\n" not in str(caught.value)


def test_sound_columns_are_found_whatever_holds_them(tmp_path: Path):
    sound = encoded(tone(440, 0.1))
    (tmp_path / "a.wav").write_bytes(sound)
    cell = {"bytes": sound, "path": None}
    tables = {
        "struct": {"audio": [cell], "label": [0]},
        "path": {"file": ["a.wav"], "label": [0]},
        "bytes": {"speech": [sound], "label": [0]},
        "array": {"x": [{"array": [0.1, 0.2], "sampling_rate": RATE}], "label": [0]},
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        source = load_source(str(tmp_path / f"{name}.parquet"))
        rows = source.splits["all"]
        assert content_kind(rows, {}) == "audio", name
        found = find_columns(source, rows, "audio", {})
        assert (found.audio, found.label, found.image) == (next(iter(columns)), "label", None)
        assert decode_sound(rows[0][found.audio], source.base, RATE).ndim == 1
    featured = Dataset.from_dict({"wav": [cell]}).cast_column("wav", Audio())
    assert is_audio(featured, "wav")
    picture = Dataset.from_dict({"image": [{"bytes": b"x", "path": "a.png"}], "text": ["a.b"]})
    assert not is_audio(picture, "image")
    assert not is_audio(picture, "text")
    assert io.BytesIO(sound).read(4) == b"RIFF"
