"""Edits of texts and of sounds: as much as was asked for, and no more."""

from __future__ import annotations

import random

import numpy as np
import pytest
from datasets import Dataset

from prunesearch.tasks.data.columns import Columns
from prunesearch.tasks.views.alter import Alterations
from prunesearch.tasks.views.sound_views import at_speed, reverberated, white_noise
from prunesearch.tasks.views.text_views import capitals, dropped_words, typos

TEXT = " ".join(["a", "wonderful", "film", "which", "nobody", "should", "miss"] * 60)


def test_words_are_misspelt_in_the_share_that_was_asked_for_and_nobody_elses_dice_roll() -> None:
    random.seed(5)
    want = random.random()
    random.seed(5)
    found = typos(TEXT, 0.2, np.random.default_rng(0)).split()
    assert random.random() == want
    assert found == typos(TEXT, 0.2, np.random.default_rng(0)).split()
    changed = [(a, b) for a, b in zip(TEXT.split(), found, strict=True) if a != b]
    assert len(changed) / 360 == pytest.approx(0.2, abs=0.06)  # of words of three letters and more
    assert all(a != "a" and abs(len(a) - len(b)) <= 1 for a, b in changed)


def test_capitals_and_dropped_words() -> None:
    found = capitals(TEXT, 0.5, np.random.default_rng(0))
    assert found.lower() == TEXT
    assert sum(w.isupper() for w in found.split()) / 420 == pytest.approx(0.5, abs=0.08)
    left = dropped_words(TEXT, 0.3, np.random.default_rng(0)).split()
    assert len(left) / 420 == pytest.approx(0.7, abs=0.07)
    assert dropped_words("one", 1.0, np.random.default_rng(0)) == "one"


def test_noise_is_so_many_decibels_below_and_speed_raises_the_pitch() -> None:
    t = np.arange(16000) / 16000
    tone = (0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    noise = white_noise(tone, 10.0, np.random.default_rng(0)) - tone
    assert 10 * np.log10(np.mean(tone**2) / np.mean(noise**2)) == pytest.approx(10, abs=0.2)
    fast = at_speed(tone, 1.25, np.random.default_rng(0))
    assert len(fast) == 12800
    assert np.argmax(np.abs(np.fft.rfft(fast))) * 16000 / len(fast) == pytest.approx(550, abs=2)
    assert not white_noise(np.zeros(10, np.float32), 10.0, np.random.default_rng(0)).any()


@pytest.mark.parametrize("seconds", [0.2, 0.8])
def test_a_room_is_sixty_decibels_down_after_its_time_by_schroeders_integral(seconds: float) -> None:
    click = np.zeros(16000, np.float32)
    click[0] = 1.0
    heard = reverberated(click, seconds * 16000, np.random.default_rng(0)).astype(np.float64)
    assert heard[0] == pytest.approx(1.0)
    assert np.sum(heard[1:] ** 2) == pytest.approx(1.0, rel=1e-3)  # as much of the room as of the sound
    left = 10 * np.log10(np.cumsum(heard[:0:-1] ** 2)[::-1])
    begin, end = (int(np.argmax(left < -down)) for down in (5, 25))
    assert 3 * (end - begin) / 16000 == pytest.approx(seconds, rel=0.1)  # 20 dB of 60


def test_a_room_echoes_for_seconds_whatever_the_rate_is() -> None:
    """The same click at two rates is as far down after the same time."""
    clicks = [{"array": [1.0] + [0.0] * (rate - 1), "sampling_rate": rate} for rate in (8000, 16000)]
    rows = Dataset.from_list([{"audio": click} for click in clicks])
    ((view, made),) = Alterations(["reverberation"], 3)(rows, Columns(None, audio="audio"), None)
    assert view == "reverberation"
    gone = []
    for cell in made:
        sound = np.asarray(cell["audio"]["array"], dtype=np.float64)
        left = 10 * np.log10(np.cumsum(sound[:0:-1] ** 2)[::-1] / np.sum(sound[1:] ** 2))
        gone.append(int(np.argmax(left < -20)) / cell["audio"]["sampling_rate"])
    assert gone[0] == pytest.approx(gone[1], rel=0.15)
    assert gone[0] == pytest.approx(0.6 / 3, rel=0.15)
