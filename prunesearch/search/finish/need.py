"""On how many holdout rows each candidate is evaluated: as many as what is said of it needs.

The most is settled by calibration rows, before a holdout row is read, so that every promise is the one test that it
would be on any other number of rows. What may come to be recommended is read on all rows; what is surely good enough,
or surely not, on fewer. What the holdout rows say themselves can only end the reading of what is not recommended: of a
candidate that has next to no chance left, and of those behind one that failed (`InTurn`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.search.trials.incumbents import unpack_rows
from prunesearch.study.front_items import Point

Numbers = float | NDArray[Any]
_NORMAL = NormalDist()
_SIDE, _SIDES = _NORMAL.inv_cdf(0.95), _NORMAL.inv_cdf(0.975)
_POWER = _NORMAL.inv_cdf(0.99)  # how surely a candidate that is good enough is shown to be
_HOPELESS = 0.05  # chance to pass on all rows, below which a candidate is no contender
_OF_ITSELF = 0.25  # that half the interval of a large change may have
_LEAST = 128  # rows
_LOST = _NORMAL.inv_cdf(0.01)  # chance to pass on all its rows, below which a candidate is read no further
LOOK = 1.25  # times the rows of the look before
_AS_DEAR = 0.97  # what costs less by prediction than this of another is behind it when both are measured


@dataclass(frozen=True)
class Prospect:
    """What calibration rows say of a candidate.

    Attributes:
        change: of the quality, to the unpruned model's on the same rows.
        spread: standard error of a change times the root of the rows that it is of.
        rows: that this is of.
    """

    change: float
    spread: float
    rows: int


def prospect_of(per_row: str | None, unpruned: Evaluation) -> Prospect | None:
    """What the rows that a trial kept say; None where they say nothing.

    Args:
        per_row: as `incumbents.pack_rows` wrote them.
        unpruned: on the same rows.
    """
    if per_row is None:
        return None
    after = unpack_rows(per_row).statistics
    if not after.shape[1] or len(after) != unpruned.n:
        return None
    value, low, high = unpruned.metric.difference(unpruned.statistics, after.to(unpruned.statistics))
    spread = (high - low) / (2 * _SIDES) * math.sqrt(len(after))
    return Prospect(value, spread, len(after)) if math.isfinite(spread) else None


def rows_needed(prospects: Sequence[Prospect | None], limit: float | None, interval: float, total: int) -> list[int]:
    """Rows for every candidate, `total` at most.

    Args:
        prospects: None for one that nothing is known of: it takes all.
        limit: the least change with which a candidate is good enough; None: all may come to be recommended.
        interval: half the 95 % interval of the change of those that are no contenders; a quarter of a larger change is
            good enough.
        total: rows of the split.
    """
    if limit is None:
        return [total] * len(prospects)
    return [total if p is None else min(total, max(_LEAST, _needed(p, limit, interval, total))) for p in prospects]


def _needed(prospect: Prospect, limit: float, interval: float, total: int) -> int:
    margin, spread = prospect.change - limit, prospect.spread
    unsure, left = spread / math.sqrt(prospect.rows), spread / math.sqrt(total)
    if spread > 0 and _NORMAL.cdf((margin - _SIDE * left) / math.hypot(unsure, left)) >= _HOPELESS:
        surely = margin - unsure
        return total if surely <= 0 else _rows(surely, (_SIDE + _POWER) * spread, total)
    if margin > 0 and spread == 0:
        return 0
    return _of_itself(prospect, interval, total)


def rows_at_least(prospects: Sequence[Prospect | None], interval: float, total: int) -> list[int]:
    """Rows for every candidate if it is no contender; as `rows_needed`."""
    return [total if p is None else min(total, max(_LEAST, _of_itself(p, interval, total))) for p in prospects]


def _of_itself(prospect: Prospect, interval: float, total: int) -> int:
    return _rows(max(interval, _OF_ITSELF * abs(prospect.change)), _SIDES * prospect.spread, total)


def is_lost(change: Numbers, error: Numbers, limit: float, share: Numbers) -> NDArray[np.bool_]:
    """Whether a candidate has next to no chance left to be shown to be good enough.

    Args:
        change: of the quality so far.
        error: its standard error.
        limit: the least change that is good enough.
        share: of all the rows that it may be read on, those that are read.
    """
    change, error, share = (np.asarray(x, dtype=np.float64) for x in (change, error, share))
    in_the_end, to_come = error * np.sqrt(share), error * np.sqrt(1 - share)
    return np.asarray(change - _SIDE * in_the_end - limit < _LOST * to_come)


class InTurn:
    """Reads candidates one after another, from the dearest to the cheapest, and what is not recommended no further.

    Promises are tested in that order, up to the first candidate that fails (`verdict`): those behind it need no more
    rows than those that are no contenders. Whatever is read less is not recommended for it, so that no promise comes
    to be false by it; bounds of what was read no further because it did badly are, if anything, too low.

    Args:
        reference: the unpruned model, on all rows.
        limit: the least change with which a candidate is good enough; None: all are read as far as they may be.
    """

    def __init__(self, reference: Evaluation, limit: float | None) -> None:
        self.reference, self.limit = reference, limit
        self._failed_at = -math.inf  # what the first that failed costs

    def rows(self, cost: float, most: int, least: int) -> int:
        """Rows for the next candidate: `most`, or the `least` if it is behind one that failed."""
        return min(most, least) if cost < _AS_DEAR * self._failed_at else most

    def ends(self, most: int, least: int) -> Callable[[Tensor], bool]:
        """Says, of the statistics `[m, k]` of the first rows, whether a candidate is to be read no further."""
        look = float(least)

        def ends(rows: Tensor) -> bool:
            nonlocal look
            if self.limit is None or len(rows) < look or len(rows) >= most:
                return False
            look = len(rows) * LOOK
            change, low, high = self.reference.metric.difference(self.reference.statistics[: len(rows)], rows)
            return bool(is_lost(change, (high - low) / (2 * _SIDES), self.limit, len(rows) / most))

        return ends

    def read(self, cost: float, found: Evaluation) -> None:
        """Note a candidate of the sequence, so that those behind it are known to be if it failed."""
        if self.limit is not None and self._failed_at == -math.inf:
            same = self.reference.first(found.n)
            if found.metric.at_least(same.statistics, found.statistics) < self.limit:
                self._failed_at = cost


def _rows(reach: float, errors: float, total: int) -> int:
    """Rows on which so many standard errors come to `reach`."""
    return total if reach * math.sqrt(total) <= errors else math.ceil((errors / reach) ** 2)


def rows_note(points: Sequence[Point]) -> str | None:
    """A line for the reader where points are of unlike numbers of rows; else None."""
    rows: dict[int, list[str]] = {}
    for point in points:
        rows.setdefault(point.rows or 0, []).append(point.id)
    if len(rows) < 2:
        return None
    said = "; ".join(f"{', '.join(ids)} on {n:,}" for n, ids in sorted(rows.items(), reverse=True))
    return f"holdout rows by need, intervals are of them: {said}"
