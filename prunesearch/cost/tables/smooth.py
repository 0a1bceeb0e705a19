"""Cells that are not known well lean on their neighbours: what a piece costs changes smoothly with its tokens.

On a machine that somebody else uses as well, or where a forward takes seconds and is timed a few times, the mean of a
cell may be off by a tenth while the curve through all cells of its kind is not. Empirical Bayes (Efron and Morris 1975)
says how far to go from one to the other: all the way where the cells differ from the curve by no more than their own
errors, and nowhere where they are known exactly, so that steps and tiles of a device stay in the table.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.optimize import nnls  # type: ignore[attr-defined]

_LEAST = 5  # points, below which a curve of three coefficients says nothing of them
_PASSES = 4


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
