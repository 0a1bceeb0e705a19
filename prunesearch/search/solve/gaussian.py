"""The posterior of a Gaussian process with zero mean and known noise (Rasmussen and Williams 2006, algorithm 2.1)."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Posterior:
    """What `n` noisy values say about the process.

    Args:
        kernel: `[n, n]` prior covariance of the values.
        noise: `[n]` variances of their noise; must be > 0.
        values: `[n]`.
    """

    def __init__(self, kernel: Array, noise: Array, values: Array) -> None:
        self._factor = scipy.linalg.cho_factor(kernel + np.diag(noise), lower=True)
        self._weights: Array = scipy.linalg.cho_solve(self._factor, values)  # type: ignore[no-untyped-call]

    def mean(self, cross: Array) -> Array:
        """`[m]` means, from the prior covariance `[m, n]` of the points asked for with the values."""
        return cross @ self._weights

    def variance(self, cross: Array, prior: Array) -> Array:
        """`[m]` variances (without noise), from the same covariance and the prior variances `[m]`."""
        half = scipy.linalg.solve_triangular(self._factor[0], cross.T, lower=True)
        left: Array = np.maximum(prior - (half**2).sum(0), 0.0)
        return left
