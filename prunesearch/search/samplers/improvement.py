"""How much a candidate is expected to improve a front: expected hypervolume improvement under a log-normal loss.

(Emmerich 2006; here one coordinate, the cost, is known, so that an integral over the other is all there is.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LOST = 0.5  # nats; a schedule that diverges by more is not worth having at any cost

# Nodes and weights of the normal distribution (Gauss-Hermite, seven points)
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


class Staircase:
    """A front of cost and loss, both minimised, below a reference point.

    Args:
        points: `[n, 2]` cost and loss, dominated ones included.
        reference: the point that bounds the area.
    """

    def __init__(self, points: Array, reference: tuple[float, float]) -> None:
        self.reference = reference
        inside = points[(points < np.array(reference)).all(axis=1)]
        order = inside[np.lexsort((inside[:, 1], inside[:, 0]))]
        lowest = np.minimum.accumulate(order[:, 1])
        steps = order[:, 1] < np.concatenate([[np.inf], lowest[:-1]]) if len(order) else np.zeros(0, dtype=bool)
        costs, losses = order[steps].T if len(order) else (np.zeros(0), np.zeros(0))
        # step k: from edges[k] to edges[k + 1] the best loss so far is heights[k]
        self.edges: Array = np.concatenate([[-np.inf], costs, [reference[0]]])
        self.heights: Array = np.concatenate([[reference[1]], losses])

    def gain(self, cost: Array, loss: Array) -> Array:
        """Area that points add, each alone; `cost` `[n]`, `loss` `[n, ...]` give `[n, ...]`."""
        widths = np.clip(self.edges[None, 1:] - np.maximum(self.edges[None, :-1], cost[:, None]), 0.0, None)
        widths = widths.reshape(len(cost), *[1] * (loss.ndim - 1), -1)
        gained: Array = (widths * np.clip(self.heights - loss[..., None], 0.0, None)).sum(-1)
        return gained

    def expected_gain(self, cost: Array, mean: Array, sd: Array) -> Array:
        """Expected area `[n]` that points add whose log loss is normal with `mean` and `sd` `[n]`."""
        losses = np.exp(mean[:, None] + sd[:, None] * _NODES)
        expected: Array = self.gain(cost, losses) @ _WEIGHTS
        return expected
