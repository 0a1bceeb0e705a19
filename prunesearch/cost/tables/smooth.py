"""Cells that are not known well lean on their neighbours: what a piece costs changes smoothly with its tokens.

On a machine that somebody else uses as well, or where a forward takes seconds and is timed a few times, the mean of a
cell may be off by a tenth while the curve through all cells of its kind is not. Empirical Bayes (Efron and Morris 1975)
says how far to go from one to the other: all the way where the cells differ from the curve by no more than their own
errors, and nowhere where they are known exactly, so that steps and tiles of a device stay in the table.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np
from scipy.optimize import nnls  # type: ignore[attr-defined]

_LEAST = 5  # points, below which a curve of three coefficients says nothing of them
_PASSES = 4
_UNLIKE = 0.05  # how far a smaller half may be from a share of the whole one by itself
_FAR = 2.0  # standard errors, from which on a timing counts for less
_NOTHING = 1e-9  # ms
Count = TypeVar("Count", bound=Hashable)


def smooth(points: Mapping[int, tuple[float, float]]) -> dict[int, float]:
    """Milliseconds of one kind of piece by its tokens, each as near to the common curve as its error makes it.

    Args:
        points: mean and its standard error, both in ms, by tokens; an error of 0 is of one known exactly.
    """
    counts = sorted(points)
    ms, error = np.array([points[n] for n in counts]).reshape(-1, 2).T
    if len(counts) < _LEAST or not error.any() or not (ms > 0).all():
        return {n: points[n][0] for n in counts}
    share = np.array(counts) / counts[-1]
    rows = np.stack([np.ones_like(share), share, share**2], axis=1)
    noise, unlike, curve = (error / ms) ** 2, 0.0, ms
    for _ in range(_PASSES):
        weight = 1 / (np.sqrt(noise + unlike + 1e-12) * curve)
        found, _ = nnls(rows * weight[:, None], ms * weight)
        curve = np.maximum(rows @ found, 1e-3 * ms)
        # how far cells lie from the curve, beyond what their own errors explain
        unlike = max(0.0, float(np.average((ms / curve - 1) ** 2 - noise, weights=1 / (noise + unlike + 1e-12))))
    own = np.where(noise > 0, unlike / np.maximum(noise + unlike, 1e-300), 1.0)
    return dict(zip(counts, (curve + own * (ms - curve)).tolist(), strict=True))


def smooth_form(points: Mapping[Count, tuple[float, float]], whole: Mapping[Count, float]) -> dict[Count, float]:
    """Milliseconds of a half of a block that is smaller, each as near to a share of the whole as its error makes it.

    A form has a few timings at each count where the whole half has many: together they say which share of the whole
    it takes at all counts, and what beside.

    Args:
        points: mean and its standard error of the form, both in ms, by what they are of.
        whole: of the whole half, likewise.
    """
    counts = [n for n in points if n in whole]
    if len(counts) < _LEAST:
        return {n: ms for n, (ms, _) in points.items()}
    ms, error = np.array([points[n] for n in counts]).reshape(-1, 2).T
    known = np.array([whole[n] for n in counts])
    rows = np.stack([known, np.full_like(known, known.mean())], axis=1)
    noise, unlike = (error / np.maximum(ms, _NOTHING)) ** 2, _UNLIKE**2
    curve = known * np.median(ms / known)
    for _ in range(_PASSES):
        curve = np.maximum(curve, _NOTHING)
        off = (ms / curve - 1) ** 2
        # most of them lie farther off than their errors explain: the device has steps of its own for this form
        unlike = max(_UNLIKE**2, float(np.median(off - noise)))
        # one hiccup in a few timings is no news of it
        trust = np.minimum(1.0, _FAR**2 * (noise + unlike) / np.maximum(off, _NOTHING))
        weight = np.sqrt(trust / (noise + unlike)) / curve
        found, _ = nnls(rows * weight[:, None], ms * weight)
        curve = rows @ found
    own = trust * unlike / (noise + unlike)
    near = dict(zip(counts, (curve + own * (ms - curve)).tolist(), strict=True))
    return {n: near.get(n, points[n][0]) for n in points}
