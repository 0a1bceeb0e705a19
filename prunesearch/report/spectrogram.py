"""A picture of a sound, for what a schedule does to it: time to the right, loud is bright."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float64]

_WINDOW = 400  # samples: 25 ms at 16 kHz, as the feature extractors of speech models have
_HEIGHT, _WIDEST = 128, 448  # pixels of a picture
_RANGE = 8.0  # nepers below the loudest that are still told from black


def of_waveform(samples: Array) -> Array:
    """Log magnitudes `[frequencies, times]` of a waveform `[samples]`, the highest frequency first."""
    padded = torch.as_tensor(np.pad(samples, (0, max(0, _WINDOW - len(samples)))), dtype=torch.float64)
    window = torch.hann_window(_WINDOW, dtype=torch.float64)
    spectrum = torch.stft(padded, _WINDOW, _WINDOW // 2, window=window, center=False, return_complex=True)
    magnitudes: Array = spectrum.abs().clamp_min(1e-12).log().numpy()
    audible: Array = np.maximum(magnitudes, magnitudes.max() - _RANGE)
    return audible[::-1]


def picture(values: Array) -> Image.Image:
    """Draw `[rows, columns]` in grey, stretched to a size that can be looked at."""
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / max(high - low, 1e-12) * 255
    drawn = Image.fromarray(scaled.round().astype(np.uint8))
    return drawn.resize((min(max(values.shape[1], _HEIGHT), _WIDEST), _HEIGHT)).convert("RGB")


def sound_view(name: str, values: Array, config: Any, tokens: int) -> tuple[Array, tuple[int, int]]:
    """What is drawn of a model's input, and the grid of its tokens on it, in their order.

    Args:
        name: of the input: `input_values` or `input_features`.
        values: one row of it: a waveform `[samples]`, or features `[bands, times]` or `[times, bands]`.
        config: of the model.
        tokens: how many the sound has, special ones apart.

    Returns:
        `[rows, columns]`, and rows and columns of tokens. Tokens are one after another in time; of a model that cuts a
        spectrogram into patches (AST) they are its patches, low frequencies first, and so at the top.
    """
    if values.ndim == 1:
        return of_waveform(values), (1, tokens)
    if hasattr(config, "frequency_stride"):
        times = (config.max_length - config.patch_size) // config.time_stride + 1
        return values.T, (tokens // times, times)
    bands_first = name == "input_features" and values.shape[0] == getattr(config, "num_mel_bins", None)
    return (values if bands_first else values.T)[::-1], (1, tokens)
