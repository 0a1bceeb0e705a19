"""Bounds on what batches of unlike rows take: on the mean, or on a percentile over batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from prunesearch.core.budget import Budget
from prunesearch.core.errors import PruneSearchError

_LATENCY = "latency"


@dataclass(frozen=True)
class RowBudget:
    """What is asked for: a latency, of the mean batch or of a percentile of batches.

    Attributes:
        text: as typed: 20ms, 60% or 2x.
        percentile: over batches of unlike rows; None: the mean.

    Raises:
        PruneSearchError: if it is no latency, or no percentile.
    """

    text: str
    percentile: float | None = None

    def __post_init__(self) -> None:
        found = Budget.parse(self.text)
        if found.cost(_LATENCY) != _LATENCY:
            raise PruneSearchError(f"what is chosen row by row is bounded in time, but got '{self.text}': give 20ms")
        if self.percentile is not None and not 50 <= self.percentile < 100:
            raise PruneSearchError(f"`50 <= percentile < 100` must hold, but got {self.percentile:g}")

    @property
    def words(self) -> str:
        """`p95 within 20ms`."""
        return f"{'mean' if self.percentile is None else f'p{self.percentile:g}'} within {self.text}"

    def of(self, ms: Sequence[float]) -> float:
        """What of some batches is bounded."""
        return float(np.mean(ms) if self.percentile is None else np.percentile(ms, self.percentile))

    def limit(self, unpruned: Sequence[float]) -> float:
        """Milliseconds, given what the unpruned model takes on some batches."""
        return Budget.parse(self.text).limit(self.of(unpruned))


def row_budget(text: str | None, percentile: float | None) -> RowBudget | None:
    """The budget that was asked for, if one was.

    Raises:
        PruneSearchError: if a percentile has nothing to bound.
    """
    if text is None and percentile is not None:
        raise PruneSearchError(
            f"a percentile says what a budget bounds, but got --percentile {percentile:g} alone: add --budget 20ms"
        )
    return None if text is None else RowBudget(text, percentile)


@dataclass(frozen=True)
class BatchCosts:
    """What batches take whose rows run one of several plans, by what each plan takes for one row and for all of them.

    Between the two it is a straight line. What the clock adds to the tail, beyond what is in the rows, is taken to be
    what it adds to the unpruned model's.

    Attributes:
        rows: of a batch.
        one, full: ms of each plan, for one row and for a full batch.
        before: ms that deciding takes.
        tail: the bounded figure of the unpruned model over its median.
    """

    rows: int
    one: Mapping[str, float]
    full: Mapping[str, float]
    before: float = 0.0
    tail: float = 1.0

    def each(self, plans: Sequence[str], places: Tensor, *, runs_all: bool) -> list[float]:
        """Milliseconds of every batch, of rows in the order of `places` `[n]`, the place of each row's plan.

        Args:
            plans: their names, the fastest first.
            places: of the plan that answers each row.
            runs_all: whether a row has run all faster plans before.
        """
        found = []
        for start in range(0, len(places) - self.rows + 1, self.rows):
            mine = places[start : start + self.rows]
            ms = self.before
            for place, name in enumerate(plans):
                count = int((mine >= place).sum() if runs_all else (mine == place).sum())
                ms += self._of(name, count)
            found.append(ms)
        return found

    def _of(self, name: str, count: int) -> float:
        if not count:
            return 0.0
        if self.rows == 1:
            return self.full[name]
        part = (count - 1) / (self.rows - 1)
        return self.one[name] * (1 - part) + self.full[name] * part

    def keeps(self, budget: RowBudget, limit: float, plans: Sequence[str], places: Tensor, *, runs_all: bool) -> bool:
        """Whether a rule is within a bound, by these costs."""
        each = self.each(plans, places, runs_all=runs_all)
        return not each or self.tail * budget.of(each) <= limit
