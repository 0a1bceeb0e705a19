"""Sounds in tables: found, decoded, and resampled without a change of pitch."""

import inspect
import io
import wave
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import Audio, Dataset
from transformers import audio_utils

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


WIDTHS = [
    *[("WAV", name) for name in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")],
    *[("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("AIFF", "PCM_24"), ("AU", "PCM_16"), ("OGG", "VORBIS")],
]


@pytest.mark.parametrize(("kind", "width"), WIDTHS)
@pytest.mark.parametrize(("channels", "rate"), [(1, RATE), (2, 22_050), (6, 48_000), (2, 11_025), (1, 8_000)])
def test_a_file_is_read_as_transformers_reads_it(kind: str, width: str, channels: int, rate: int, tmp_path: Path):
    if "backend" not in inspect.signature(audio_utils.load_audio).parameters:
        pytest.skip("pip install 'transformers>=5.24': before, load_audio wants librosa")
    samples = np.random.default_rng(1).uniform(-0.9, 0.9, (rate // 10 + 7, channels))
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, samples, rate, format=kind, subtype=width)
    want = audio_utils.load_audio(str(path), sampling_rate=RATE, backend="soundfile")
    found = decode_sound(path.name, tmp_path, RATE)
    assert found.dtype == want.dtype
    assert np.array_equal(found, want)
    assert len(found) == -(-len(samples) * RATE // rate)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_whole_numbers_of_every_width_are_shares_of_full_scale(width: int, tmp_path: Path):
    """The bytes written by hand: a file of 8 bits has no sign, the others do."""
    full = 2 ** (8 * width - 1)
    values = [0, full - 1, -full, full // 2, -full // 4]
    data = b"".join((v + 128 * (width == 1)).to_bytes(width, "little", signed=width > 1) for v in values)
    with wave.open(str(tmp_path / "a.wav"), "wb") as out:
        out.setparams((1, width, RATE, 0, "NONE", ""))
        out.writeframes(data)
    assert np.allclose(decode_sound("a.wav", tmp_path, RATE), np.array(values) / full, atol=1e-7)


@pytest.mark.parametrize(
    ("values", "largest"),
    [
        ([0, 3000, -12000], "12000"),  # of 16 bits, as whole numbers
        ([0.0, 3.0, -2.0], "3"),
        ([0.5, -20.5], "20.5"),
        ([0.1, float("nan")], "nan"),
        ([0.1, float("-inf")], "inf"),
    ],
)
def test_values_that_no_sound_has_are_refused(values: list[float], largest: str):
    with pytest.raises(PruneSearchError, match=f"must be from -1 to 1, but the largest is {largest}: divide") as caught:
        decode_sound({"array": values, "sampling_rate": RATE}, None, RATE)
    assert "\n" not in str(caught.value)


def test_loud_and_silent_sounds_are_sounds_and_a_rate_may_be_written_as_a_fraction():
    for values in ([0.0, 0.0, 0.0], [1.0, -1.0, 0.0], [1.7, -2.5, 0.1]):
        assert decode_sound({"array": values, "sampling_rate": float(RATE)}, None, RATE).tolist() == pytest.approx(
            values
        )


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
