"""How long the slow forwards take: one factor from the median to a percentile, read off whole forwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.tables.cost_table import CostTable

MEDIAN = 50.0
_BEYOND = 5  # timings above a percentile, at least, for it to be known


@dataclass(frozen=True)
class Tail:
    """A percentile of a device's latencies.

    Percentiles of pieces do not add up to that of a forward: its pieces are not slow together. But forwards of one
    model on one machine are slow in like proportion, so that one factor on the median serves all schedules. How well
    it does is measured on the whole forwards of schedules that the table had not seen, each judged by the factor that
    the others give.

    Attributes:
        percentile: 50 to 99.
        factor: that percentile of a forward divided by the median.
        mape: mean absolute relative error of the schedules' own percentiles, predicted from their medians.
        coverage: share of the timings that were at most what was predicted; `percentile / 100` if it is right.
        timings: forwards that this rests on.
    """

    percentile: float
    factor: float
    mape: float
    coverage: float
    timings: int


def tail_of(table: CostTable, percentile: float) -> Tail:
    """The factor of a percentile, from the forwards that validated a table.

    Raises:
        PruneSearchError: if the table keeps no timings of whole forwards, or too few for the percentile.
    """
    kept = [] if table.validation is None else [np.asarray(s) for s in table.validation.samples_us if s]
    if len(kept) < 2:
        why = "is estimated" if table.status == "estimated" else "keeps no timings of whole forwards"
        raise PruneSearchError(
            f"--percentile {percentile:g} needs a table measured in the run, but this one {why}: name a device "
            "that is at hand, or leave --percentile out"
        )
    timings, share = sum(map(len, kept)), percentile / 100
    if timings * (1 - share) < _BEYOND:
        most = 100 * (1 - _BEYOND / timings)
        raise PruneSearchError(
            f"`percentile <= {most:.0f}` must hold for the {timings} forwards that this table keeps, but got "
            f"{percentile:g}"
        )
    ratios = [s / np.median(s) for s in kept]
    errors, covered = [], 0
    for i, own in enumerate(ratios):
        predicted = np.quantile(np.concatenate([r for j, r in enumerate(ratios) if j != i]), share)
        errors.append(abs(predicted / np.quantile(own, share) - 1))
        covered += int((own <= predicted).sum())
    return Tail(
        percentile=percentile,
        factor=float(np.quantile(np.concatenate(ratios), share)),
        mape=float(np.mean(errors)),
        coverage=covered / timings,
        timings=timings,
    )
