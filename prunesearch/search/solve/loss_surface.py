"""One-stage losses as a surface over (block, keep level, method), from a few noisy measurements of it.

The logarithm of the loss is a Gaussian process: methods that share a scorer or a merge, blocks that are neighbours and
levels that are close lose alike, so that one measurement tells of many cells.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunesearch.core.registry import MERGES
from prunesearch.core.stage import parse_method
from prunesearch.search.solve.gaussian import Array, Posterior
from prunesearch.search.space.space import Space

Cell = tuple[int, int, int]  # index into `space.layers`, keep level (1 or more), index into `space.methods`
FLOOR = 1e-4  # nats; losses below it are as good as none, and their logarithms must not matter

# Prior standard deviations of the log loss and lengths over which it changes, fitted by marginal likelihood to complete
# grids (29 methods) of two image classifiers and rounded; blocks in shares of the depth, levels in log(keep).
_BASE, _SCORER, _MERGE, _METHOD = 5.0, 0.5, 0.45, 0.2
_TREND = 5.0  # of each coefficient of a straight line in log(keep), log(1 - keep) and depth
_BLOCKS, _LOG_KEEP = 0.25, 1.4
_LEAST_NOISE = 0.02**2


class LossSurface:
    """The posterior over all cells of a space, given the rows measured so far."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.rows: dict[Cell, list[Array]] = {}
        keeps = np.array(space.keeps[1:])
        depth = np.array(space.layers) / space.depth
        self._over_blocks = np.exp(-0.5 * ((depth[:, None] - depth) / _BLOCKS) ** 2)
        log_keep = np.log(keeps)
        self._over_levels = np.exp(-0.5 * ((log_keep[:, None] - log_keep) / _LOG_KEEP) ** 2)
        self._over_methods = method_kernel(space.methods)
        self._trend = (log_keep, np.log(1 - keeps), depth)

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
        found = Posterior(self._kernel(measured, measured), noise, values - centre)
        cross = self._kernel(every, measured)
        mean = np.full((shape[0], shape[1] + 1, shape[2]), np.log(FLOOR))
        sd = np.zeros_like(mean)
        mean[:, 1:] = (found.mean(cross) + centre).reshape(shape)
        sd[:, 1:] = np.sqrt(found.variance(cross, self._prior(every))).reshape(shape)
        return mean, sd

    def _kernel(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> Array:
        near: Array = self._over_blocks[np.ix_(a[:, 0], b[:, 0])]
        near = near * self._over_levels[np.ix_(a[:, 1], b[:, 1])]
        methods: Array = _BASE**2 + self._over_methods[np.ix_(a[:, 2], b[:, 2])]
        trend: Array = _TREND**2 * self._features(a) @ self._features(b).T
        kernel: Array = near * methods + trend
        return kernel

    def _prior(self, cells: NDArray[np.int64]) -> Array:
        methods: Array = np.diag(self._over_methods)[cells[:, 2]]
        prior: Array = _BASE**2 + methods + _TREND**2 * (self._features(cells) ** 2).sum(1)
        return prior

    def _features(self, cells: NDArray[np.int64]) -> Array:
        log_keep, log_gone, depth = self._trend
        columns = [log_keep[cells[:, 1]], log_gone[cells[:, 1]], depth[cells[:, 0]]]
        return np.stack(columns, axis=1)


def method_kernel(methods: list[str]) -> Array:
    """Prior covariance `[methods, methods]` of what distinguishes methods: shared scorers and merges count in part."""
    parts = [parse_method(m) for m in methods]
    # a merge that ignores the scorer shares it with no other
    scorers = np.array([s if MERGES.entry(m).uses_scores else "" for s, m in parts])
    merges = np.array([m for _, m in parts])
    same_scorer = (scorers[:, None] == scorers) & (scorers[:, None] != "")
    same_merge = merges[:, None] == merges
    same = np.eye(len(methods))
    kernel: Array = _SCORER**2 * (same_scorer | (same > 0)) + _MERGE**2 * same_merge + _METHOD**2 * same
    return kernel
