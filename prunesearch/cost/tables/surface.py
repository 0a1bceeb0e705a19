"""What lies between measured points: a piecewise line over one token count, a fitted surface over two."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls  # type: ignore[attr-defined]

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.token_tables import MERGES

_SCORER_TERMS = 3
_SELECTION_TERMS = 2
_MERGE_TERMS = 6
_PASSES = 3
_LEAST_MS = 1e-9  # stages that cost nothing at all have no relative error


class Line:
    """A piecewise linear function of the token count; exact at the measured points, refused outside of them."""

    def __init__(self, what: str, points: Mapping[int, float]) -> None:
        self.what = what
        self.counts = sorted(points)
        self.values = [points[n] for n in self.counts]

    def __call__(self, n: int) -> float:
        """Milliseconds at `n` tokens.

        Raises:
            PruneSearchError: outside the measured counts.
        """
        counts, values = self.counts, self.values
        if not counts:
            raise PruneSearchError(f"the cost table has no {self.what}: measure it with the methods it is to price")
        if not counts[0] <= n <= counts[-1]:
            raise PruneSearchError(
                f"`{counts[0]} <= tokens <= {counts[-1]}` must hold for {self.what}, but got {n}: the cost table does "
                "not extrapolate; measure it with a grid that holds this count"
            )
        right = bisect.bisect_left(counts, n)
        if counts[right] == n:
            return values[right]
        share = (n - counts[right - 1]) / (counts[right] - counts[right - 1])
        return values[right - 1] * (1 - share) + values[right] * share


def fit_straight_line(points: Sequence[tuple[int, float, int]]) -> tuple[float, float]:
    """Intercept and slope (>= 0) of the weighted least-squares line through (count, ms, samples)."""
    rows = np.array([[1.0, n] for n, _, _ in points])
    weight = np.sqrt([samples for *_, samples in points])
    found, _ = nnls(rows * weight[:, None], np.array([ms for _, ms, _ in points]) * weight)
    return float(found[0]), float(found[1])


@dataclass(frozen=True)
class ReducePoint:
    """A measured stage: `ms` is a mean over `samples`."""

    scorer: str
    merge: str
    n_in: int
    n_out: int
    ms: float
    samples: int


class ReduceSurface:
    """The cost of a stage as scorer(n_in) + merge(n_in, n_out), fitted to all stages that were measured.

    scorer: 1, n, n²; with a selection other than top-k, which takes tokens one by one, also m, n·m.
    merge: 1, n, m, n·m, n², and the rounds of halving where one round cannot remove all (`bipartite`).
    No coefficient is negative, so that the surface stays sane where stages are few. One fit over all scorers
    and merges prices a pair that no walk had.
    """

    def __init__(self, points: Sequence[ReducePoint], tokens: int, protected: int) -> None:
        self.tokens, self.protected = tokens, protected
        self.scorers = {name: i for i, name in enumerate(sorted({p.scorer for p in points if _scored(p.merge)}))}
        self.selecting = {name: i for i, name in enumerate(name for name in self.scorers if "@" in name)}
        self.merges = {name: i for i, name in enumerate(sorted({p.merge for p in points}))}
        self.coefficients = self._fit(points)

    def __call__(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        """Milliseconds of a stage from `n_in` to `n_out` tokens.

        Raises:
            PruneSearchError: for a scorer or merge that was not measured.
        """
        if n_out >= n_in:
            return 0.0
        self._check(scorer, merge)
        return float(self._row(scorer, merge, n_in, n_out) @ self.coefficients)

    def _check(self, scorer: str, merge: str) -> None:
        if merge not in self.merges:
            raise PruneSearchError(f"merge '{merge}' is not in the cost table, which has {_list(self.merges)}")
        if _scored(merge) and scorer not in self.scorers:
            raise PruneSearchError(f"scorer '{scorer}' is not in the cost table, which has {_list(self.scorers)}")

    def _row(self, scorer: str, merge: str, n_in: int, n_out: int) -> NDArray[np.float64]:
        others = _SCORER_TERMS * len(self.scorers) + _MERGE_TERMS * len(self.merges)
        row = np.zeros(others + _SELECTION_TERMS * len(self.selecting))
        n, m = n_in / self.tokens, n_out / self.tokens
        scored = _scored(merge)
        if scored:
            at = _SCORER_TERMS * self.scorers[scorer]
            row[at : at + _SCORER_TERMS] = 1, n, n * n
            if scorer in self.selecting:
                at = others + _SELECTION_TERMS * self.selecting[scorer]
                row[at : at + _SELECTION_TERMS] = m, n * m
        at = _SCORER_TERMS * len(self.scorers) + _MERGE_TERMS * self.merges[merge]
        row[at : at + _MERGE_TERMS] = 1, n, m, n * m, n * n, 0 if scored else self._extra_rounds(n_in, n_out)
        return row

    def _extra_rounds(self, n_in: int, n_out: int) -> int:
        count, goal, rounds = n_in - self.protected, max(n_out - self.protected, 1), 0
        while count > goal:
            count, rounds = max(goal, count - count // 2), rounds + 1
        return max(rounds - 1, 0)

    def _fit(self, points: Sequence[ReducePoint]) -> NDArray[np.float64]:
        if not points:
            return np.zeros(0)
        rows = np.stack([self._row(p.scorer, p.merge, p.n_in, p.n_out) for p in points])
        ms, samples = np.array([p.ms for p in points]), np.array([p.samples for p in points])
        # errors are relative to the true value, which is not known at first; a sample's own value would favour low ones
        least = max(0.1 * float(ms.mean()), _LEAST_MS)
        expected = np.full(len(points), max(float(np.average(ms, weights=samples)), least))
        for _ in range(_PASSES):
            weight = np.sqrt(samples) / expected
            found, _ = nnls(rows * weight[:, None], ms * weight)
            expected = np.maximum(rows @ found, least)
        return np.asarray(found, dtype=float)


def _scored(merge: str) -> bool:
    return MERGES.entry(merge).uses_scores


def _list(names: Mapping[str, int]) -> str:
    return ", ".join(names) or "none"
