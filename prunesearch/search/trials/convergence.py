"""When a search has converged: its front has stopped growing, as far as the calibration rows can tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prunesearch.core.pareto import hypervolume_2d
from prunesearch.search.costs.objectives import Objective
from prunesearch.search.samplers.improvement import LOST
from prunesearch.search.trials.ask_tell import Search
from prunesearch.search.trials.incumbents import Incumbent, unpack_rows

_WINDOW = 25  # results over which the growth is looked at
_EVERY = 5  # results between two looks
_RESAMPLES = 100
_SIGMAS = 2.0


class Convergence:
    """Says that a search has converged: over a window of results the hypervolume grew by little.

    The growth is an estimate from few rows. It is taken at its upper end: the mean over bootstrap samples of the rows
    plus two standard deviations, both fronts on the same rows. With several costs, each must have converged.

    Args:
        objectives: what is minimised beside the loss.
        tolerance: growth that counts for little, relative.
    """

    def __init__(self, objectives: Sequence[Objective], tolerance: float) -> None:
        self.tolerance = tolerance
        self.bounds = [o.bound for o in objectives if o.minimised]

    def __call__(self, search: Search) -> bool:
        """To be called after every result; those of earlier sessions count."""
        if len(search.fronts) <= _WINDOW or len(search.fronts) % _EVERY:
            return False
        before, after = search.fronts[-1 - _WINDOW], search.fronts[-1]
        if not before:
            return False
        return before == after or all(self._settled(before, after, k) for k in range(len(self.bounds)))

    def _settled(self, before: Sequence[Incumbent], after: Sequence[Incumbent], k: int) -> bool:
        areas = [self._areas(front, k) for front in (before, after)]
        growth = areas[1] - areas[0]
        return bool(growth.mean() + _SIGMAS * growth.std() <= self.tolerance * areas[1].mean())

    def _areas(self, front: Sequence[Incumbent], k: int) -> NDArray[np.float64]:
        """Hypervolumes of a front, `[resamples]`, on resampled rows; the same rows for every front of a study."""
        losses = np.stack([unpack_rows(incumbent.text).kl.numpy() for incumbent in front]).astype(float)
        rows = losses.shape[1]
        draws = np.random.default_rng(0).multinomial(rows, np.full(rows, 1 / rows), size=_RESAMPLES)
        means = draws @ losses.T / rows
        costs = np.array([incumbent.point[k] / self.bounds[k] for incumbent in front])
        return np.array([hypervolume_2d(np.stack([costs, mean], axis=1), (1.0, LOST)) for mean in means])
