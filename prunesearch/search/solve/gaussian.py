"""Gaussian processes with zero mean and known noise (Rasmussen and Williams 2006, algorithm 2.1), and their scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg
import scipy.optimize
from numpy.typing import NDArray

Array = NDArray[np.float64]

_MOST = 3.0  # standard deviations of its prior that a fitted scale goes, at most
_ITERATIONS, _LOOKS = 10, 200  # further ones no longer change what is predicted


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
        #: logarithm of the values' density under the prior, up to a constant: what scales are fitted by
        self.evidence = float(-0.5 * values @ self._weights - np.log(np.diag(self._factor[0])).sum())

    def mean(self, cross: Array) -> Array:
        """`[m]` means, from the prior covariance `[m, n]` of the points asked for with the values."""
        return cross @ self._weights

    def variance(self, cross: Array, prior: Array) -> Array:
        """`[m]` variances (without noise), from the same covariance and the prior variances `[m]`."""
        half = scipy.linalg.solve_triangular(self._factor[0], cross.T, lower=True)
        left: Array = np.maximum(prior - (half**2).sum(0), 0.0)
        return left


class Refits:
    """When scales are fitted: once there are values enough, and again whenever these have doubled.

    Args:
        least: values from which on they are; None: never, as they are given.
        most: values that they are fitted to, evenly chosen of more.
    """

    def __init__(self, least: int | None, most: int) -> None:
        self._at: float = math.inf if least is None else least
        self._most = most

    def due(self, n: int) -> bool:
        """Whether to fit now that there are `n` values; it is not, then, until there are twice as many."""
        if n < self._at:
            return False
        self._at = 2 * n
        return True

    def chosen(self, n: int) -> NDArray[np.int64]:
        """Indices of the values to fit to."""
        return np.unique(np.linspace(0, n - 1, min(n, self._most)).astype(int))


def fit_scales(evidence: Callable[[Array], float], spreads: Sequence[float]) -> Array:
    """Factors `[n]` on scales that make the values likeliest: the mode under log-normal priors around 1.

    The priors keep few values from running away: where the values say nothing, a factor is 1. Deterministic.

    Args:
        evidence: of factors, as `Posterior.evidence`.
        spreads: standard deviations `[n]` of the factors' logarithms under their priors.
    """
    wide = np.array(spreads)

    def unlikely(logs: Array) -> float:
        return 0.5 * float(((logs / wide) ** 2).sum()) - evidence(np.exp(logs))

    found = scipy.optimize.minimize(  # type: ignore[no-untyped-call]
        unlikely,
        np.zeros(len(wide)),
        method="L-BFGS-B",
        bounds=[(-_MOST * spread, _MOST * spread) for spread in wide],
        options={"maxiter": _ITERATIONS, "maxfun": _LOOKS},
    )
    factors: Array = np.exp(found.x)
    return factors
