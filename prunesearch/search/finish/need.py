"""On how many holdout rows each candidate is evaluated: as many as what is said of it needs.

All of it is settled by calibration rows, before a holdout row is read, so that every promise is the one test that it
would be on any other number of rows. What may come to be recommended is read on all rows; what is surely good enough,
or surely not, on fewer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.search.trials.incumbents import unpack_rows
from prunesearch.study.front_items import Point

_NORMAL = NormalDist()
_SIDE, _SIDES = _NORMAL.inv_cdf(0.95), _NORMAL.inv_cdf(0.975)
_POWER = _NORMAL.inv_cdf(0.99)  # how surely a candidate that is good enough is shown to be
_HOPELESS = 0.05  # chance to pass on all rows, below which a candidate is no contender
_OF_ITSELF = 0.25  # that half the interval of a large change may have
_LEAST = 128  # rows


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
    return _rows(max(interval, _OF_ITSELF * abs(prospect.change)), _SIDES * spread, total)


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
