"""Pictures of sounds: frequencies where they belong, tokens in their order."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import ASTConfig, WhisperConfig

from prunesearch.report.spectrogram import of_waveform, picture, sound_view


@pytest.mark.parametrize("hertz", [1000, 4000])
def test_a_sine_is_a_line_at_its_height(hertz: int):
    drawn = of_waveform(np.sin(2 * np.pi * hertz * np.arange(16_000) / 16_000))
    assert drawn.shape == (201, 79)
    assert set(drawn.argmax(axis=0)) == {200 - hertz * 400 // 16_000}


def test_a_sound_shorter_than_a_window_and_silence_are_drawn():
    assert of_waveform(np.ones(10)).shape == (201, 1)
    assert picture(of_waveform(np.zeros(16_000))).size == (128, 128)


def test_bands_go_up_and_time_to_the_right():
    values = np.zeros((80, 300))
    values[3, 200] = 1.0
    drawn, grid = sound_view("input_features", values, WhisperConfig(num_mel_bins=80), 150)
    assert grid == (1, 150)
    assert np.argwhere(drawn == 1.0).tolist() == [[76, 200]]
    drawn, _ = sound_view("input_features", values.T, object(), 300)
    assert np.argwhere(drawn == 1.0).tolist() == [[76, 200]]


def test_patches_of_a_spectrogram_lie_as_the_model_counts_them():
    config = ASTConfig()  # 16 x 16 patches, 10 apart: 12 rows of frequencies, 101 of time
    values = np.zeros((1024, 128))
    values[500, 5] = 1.0
    drawn, grid = sound_view("input_values", values, config, 1212)
    assert grid == (12, 101)
    assert np.argwhere(drawn == 1.0).tolist() == [[5, 500]]
