"""Fronts of two objectives, both minimised: who is dominated, and how much area a front covers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def non_dominated(points: Sequence[Sequence[float]] | NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the points that no other point beats or equals in all objectives and beats in one.

    Args:
        points: `[n, k]` values, all to be minimised; rows with NaN are never on the front. Of equal
            rows the first is marked.

    Returns:
        `[n]` booleans.
    """
    if len(points) == 0:
        return np.zeros(0, dtype=bool)
    values = np.asarray(points, dtype=float).reshape(len(points), -1)
    keep: NDArray[np.bool_] = ~np.isnan(values).any(axis=1)
    for i in np.flatnonzero(keep):
        no_worse = (values <= values[i]).all(axis=1)
        better = (values < values[i]).any(axis=1)
        twin_before = no_worse & ~better & (np.arange(len(values)) < i)
        keep[i] = not ((no_worse & better) | twin_before).any()
    return keep


def hypervolume_2d(points: Sequence[Sequence[float]] | NDArray[np.float64], reference: tuple[float, float]) -> float:
    """Area between the front of `points` (`[n, 2]`, both minimised) and `reference`; points beyond it add nothing."""
    if len(points) == 0:
        return 0.0
    values = np.asarray(points, dtype=float).reshape(-1, 2)
    values = values[(values < np.asarray(reference)).all(axis=1)]
    area, height = 0.0, reference[1]
    for x, y in values[np.lexsort((values[:, 1], values[:, 0]))]:
        if y < height:
            area += (reference[0] - x) * (height - y)
            height = y
    return area
