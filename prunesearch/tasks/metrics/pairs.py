"""How much more often one model is right than another, on the same rows: the bound that a promise rests on."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

_HALVINGS = 40  # of the interval that the bound lies in: to 1e-12


def score(gained: ArrayLike, lost: ArrayLike, n: ArrayLike, difference: ArrayLike) -> NDArray[np.float64]:
    """Tango's score of the hypothesis that the true difference is `difference`; normal if it is.

    It holds where a plain standard error does not: with few pairs that differ, or none (Tango 1998, "Equivalence test
    and confidence interval for the difference in proportions for the paired-sample design", Statistics in Medicine).

    Args:
        gained: rows that only the second model has right.
        lost: rows that only the first has right.
        n: all rows.
        difference: hypothetical, of the second to the first, within -1 and 1; all four broadcast.
    """
    b, c, n, d = (np.asarray(x, dtype=np.float64) for x in (gained, lost, n, difference))
    # the likelihood's share of rows that are lost, given the difference
    linear = -b - c + (2 * n - b + c) * d
    share = (np.sqrt(np.maximum(linear**2 + 8 * n * c * d * (1 - d), 0)) - linear) / (4 * n)
    variance = n * (2 * share + d * (1 - d))
    found: NDArray[np.float64] = (b - c - n * d) / np.sqrt(np.maximum(variance, 1e-12))
    return found


def paired_lower_bound(gained: ArrayLike, lost: ArrayLike, n: ArrayLike, level: float = 0.95) -> NDArray[np.float64]:
    """One-sided lower bound of the difference, by inverting `score`; arguments as there."""
    z = NormalDist().inv_cdf(level)
    b, c, n = (np.asarray(x, dtype=np.float64) for x in (gained, lost, n))
    shape = np.broadcast_shapes(b.shape, c.shape, n.shape)
    low, high = np.full(shape, -1.0 + 1e-9), np.broadcast_to((b - c) / n, shape).copy()
    for _ in range(_HALVINGS):  # the score falls as the hypothesis rises
        middle = (low + high) / 2
        rejected = score(b, c, n, middle) > z
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
    return low
