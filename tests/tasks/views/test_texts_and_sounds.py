"""Edits of texts and of sounds: as much as was asked for, and no more."""

from __future__ import annotations

import random

import numpy as np
import pytest

from prunesearch.tasks.views.sound_views import at_speed, white_noise
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
