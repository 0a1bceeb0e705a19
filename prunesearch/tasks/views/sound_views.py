"""Views of sounds, samples `[n]`."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import signal

Samples = NDArray[np.float32]
_signal: Any = signal  # untyped
_PARTS = 100  # of a speed, as a fraction


def white_noise(samples: Samples, amount: float, random: Generator) -> Samples:
    """With white noise `amount` decibels below it; silence stays."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) / 10 ** (amount / 10)
    return (samples + random.normal(scale=power**0.5, size=samples.shape)).astype(np.float32)


def at_speed(samples: Samples, amount: float, random: Generator) -> Samples:
    """Played so many times as fast, which raises its pitch too (Ko et al. 2015), by a polyphase filter."""
    speed = Fraction(amount).limit_denominator(_PARTS)
    found: Samples = _signal.resample_poly(samples, speed.denominator, speed.numerator).astype(np.float32)
    return found


def reverberated(samples: Samples, amount: float, random: Generator) -> Samples:
    """Heard in a room in which a sound is 60 dB down after `amount` samples; it ends where it did.

    The room's answer is the sound itself and noise that falls off exponentially (Polack's model), of the same energy.
    """
    times = np.arange(1, round(amount) + 1)
    tail = random.normal(size=len(times)) * 10 ** (-3 * times / amount)
    room = np.concatenate([[1.0], tail / np.linalg.norm(tail)])
    found: Samples = _signal.fftconvolve(samples, room)[: len(samples)].astype(np.float32)
    return found
