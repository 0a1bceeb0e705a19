"""One-stage losses as a surface over (block, keep level, method), from a few noisy measurements of it.

The logarithm of the loss is a Gaussian process: methods that share a scorer or a merge, blocks that are neighbours and
levels that are close lose alike, so that one measurement tells of many cells. How far each of these reaches is fitted
to the cells measured, by marginal likelihood with priors around the scales of two image classifiers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunesearch.core.plans.stage import parse_method
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.search.solve.gaussian import Array, Posterior, Refits, fit_scales
from prunesearch.search.space.space import Space

Cell = tuple[int, int, int]  # index into `space.layers`, keep level (1 or more), index into `space.methods`
FLOOR = 1e-4  # nats; losses below it are as good as none, and their logarithms must not matter

_LEAST_NOISE = 0.02**2
_LEAST_FITTED, _MOST_FITTED = 16, 80  # cells that scales are fitted to; of more, an even part


class SurfaceScales(NamedTuple):
    """Prior standard deviations of the log loss, and lengths over which it changes.

    The defaults were fitted by marginal likelihood to complete grids (29 methods) of two image classifiers and rounded.

    Attributes:
        base, scorer, merge, method: of all methods alike, of a shared scorer, of a shared merge, of one method.
        trend: of each coefficient of a straight line in log(keep), log(1 - keep) and depth.
        blocks, log_keep: lengths, in shares of the depth and in log(keep).
        cell: of one cell alone, of which no other tells.
    """

    base: float = 5.0
    scorer: float = 0.5
    merge: float = 0.45
    method: float = 0.2
    trend: float = 5.0
    blocks: float = 0.25
    log_keep: float = 1.4
    cell: float = 0.0

    def times(self, factors: Array) -> SurfaceScales:
        """Each scale times its factor."""
        return SurfaceScales(*(float(scale * factor) for scale, factor in zip(self, factors, strict=True)))


# Where a fit starts, and how far the prior lets the logarithm of each scale go: lengths hardly, since few cells chosen
# where the loss is low tell of them wrongly (and then too surely). Set by `benchmarks/loss_models.py`.
_PRIOR = SurfaceScales(cell=0.2)
_SPREADS = (0.3, 0.3, 0.3, 0.3, 0.3, 0.15, 0.15, 0.3)


class LossSurface:
    """The posterior over all cells of a space, given the rows measured so far.

    Args:
        scales: to keep; None fits them when there are cells enough, and again whenever the cells have doubled.
    """

    def __init__(self, space: Space, scales: SurfaceScales | None = None) -> None:
        self.space, self.scales = space, scales or SurfaceScales()
        self.rows: dict[Cell, list[Array]] = {}
        self._refits = Refits(_LEAST_FITTED if scales is None else None, _MOST_FITTED)

    def add(self, cell: Cell, losses: Array) -> None:
        """Note the divergences `[rows]`, in nats, of one block of rows."""
        self.rows.setdefault(cell, []).append(losses)

    def posterior(self) -> tuple[Array, Array]:
        """Mean and standard deviation of the log loss, each `[layers, levels, methods]`; level 0 loses nothing."""
        space = self.space
        shape = (len(space.layers), len(space.keeps) - 1, len(space.methods))
        measured, every = np.array(list(self.rows)) - [0, 1, 0], np.indices(shape).reshape(3, -1).T
        losses = [np.concatenate(self.rows[cell]) for cell in self.rows]
        values = np.log([x.mean() + FLOOR for x in losses])
        # of a mean's logarithm, to first order; two rows can agree by chance
        noise = np.array([np.clip((x.std() / (x.mean() + FLOOR)) ** 2 / len(x), _LEAST_NOISE, 1.0) for x in losses])
        centre = float(np.median(values))
        if self._refits.due(len(measured)):
            self.scales = self._fitted(measured, noise, values - centre)
        prior = _Prior(space, self.scales)
        found = Posterior(prior.kernel(measured, measured), noise, values - centre)
        cross = prior.kernel(every, measured)
        mean = np.full((shape[0], shape[1] + 1, shape[2]), np.log(FLOOR))
        sd = np.zeros_like(mean)
        mean[:, 1:] = (found.mean(cross) + centre).reshape(shape)
        sd[:, 1:] = np.sqrt(found.variance(cross, prior.variance(every))).reshape(shape)
        return mean, sd

    def _fitted(self, measured: NDArray[np.int64], noise: Array, values: Array) -> SurfaceScales:
        some = self._refits.chosen(len(measured))
        measured, noise, values = measured[some], noise[some], values[some]

        def evidence(factors: Array) -> float:
            kernel = _Prior(self.space, _PRIOR.times(factors)).kernel(measured, measured)
            return Posterior(kernel, noise, values).evidence

        return _PRIOR.times(fit_scales(evidence, _SPREADS))


class _Prior:
    """Covariances of cells under given scales."""

    def __init__(self, space: Space, scales: SurfaceScales) -> None:
        depth, log_keep = np.array(space.at_depth), np.log(space.keeps[1:])
        self.scales = scales
        self._over_blocks = alike(depth, scales.blocks)
        self._over_levels = alike(log_keep, scales.log_keep)
        self._over_methods = method_kernel(space.methods, scales)
        self._trend = (log_keep, np.log(1 - np.array(space.keeps[1:])), depth)

    def kernel(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> Array:
        """Of cells `[n, 3]` with cells `[m, 3]`, levels from 0; `[n, m]`."""
        near: Array = self._over_blocks[np.ix_(a[:, 0], b[:, 0])]
        near = near * self._over_levels[np.ix_(a[:, 1], b[:, 1])]
        methods: Array = self.scales.base**2 + self._over_methods[np.ix_(a[:, 2], b[:, 2])]
        trend: Array = self.scales.trend**2 * self._features(a) @ self._features(b).T
        alone = (a[:, None] == b[None]).all(-1)
        kernel: Array = near * methods + trend + self.scales.cell**2 * alone
        return kernel

    def variance(self, cells: NDArray[np.int64]) -> Array:
        """Of each cell, `[n]`."""
        methods: Array = np.diag(self._over_methods)[cells[:, 2]]
        trend: Array = (self._features(cells) ** 2).sum(1)
        variance: Array = self.scales.base**2 + methods + self.scales.trend**2 * trend + self.scales.cell**2
        return variance

    def _features(self, cells: NDArray[np.int64]) -> Array:
        log_keep, log_gone, depth = self._trend
        columns = [log_keep[cells[:, 1]], log_gone[cells[:, 1]], depth[cells[:, 0]]]
        return np.stack(columns, axis=1)


def alike(values: Array, length: float) -> Array:
    """Correlations `[n, n]` of what changes over `length` in `values` `[n]`."""
    found: Array = np.exp(-0.5 * ((values[:, None] - values) / length) ** 2)
    return found


def method_kernel(methods: list[str], scales: SurfaceScales) -> Array:
    """Prior covariance `[methods, methods]` of what distinguishes methods: shared scorers and merges count in part."""
    same_scorer, same_merge = _kinship(tuple(methods))
    kernel: Array = (
        scales.scorer**2 * same_scorer + scales.merge**2 * same_merge + scales.method**2 * np.eye(len(methods))
    )
    return kernel


@lru_cache(maxsize=8)
def _kinship(methods: tuple[str, ...]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which methods share a scorer, and which a merge, `[methods, methods]` each."""
    parts = [parse_method(m) for m in methods]
    # a merge that ignores the scorer shares it with no other
    scorers = np.array([s if MERGES.entry(m).uses_scores else "" for s, m in parts])
    merges = np.array([m for _, m in parts])
    same_scorer = (scorers[:, None] == scorers) & (scorers[:, None] != "")
    return same_scorer | np.eye(len(methods), dtype=bool), merges[:, None] == merges
