"""Intervals of a quality over several views of rows: a row's views are one draw, however many of them there are.

The mean of 0 and 1: the intervals of independent rows, of as many as would be known as well (the effective size of a
sample in clusters; Franco, Little, Louis and Slud 2019, "Comparative study of confidence intervals for proportions in
complex sample surveys"). Of other numbers: the normal interval with the variance between rows. Whatever else: the
bootstrap over rows (Davison and Hinkley 1997, 3.8), and the least of views never surer than the view that looks worst.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prunesearch.tasks.metrics.metric import (
    Floats,
    Interval,
    Metric,
    half_width,
    matched_pairs,
    resampling_weights,
    wilson,
)
from prunesearch.tasks.metrics.pairs import paired_lower_bound

_SIDE = 0.90  # level of the interval of two sides whose lower end is a bound of one side, at 95 %
_SIDES = 0.95


@dataclass(frozen=True)
class OverViews:
    """What views of rows come to.

    Attributes:
        metric: in each of them.
        view: int64 `[n]`, the number of each statistic's view.
        row: int64 `[n]`, the row that it is of.
        mean: whether the mean of the views counts, or the worst of them.
    """

    metric: Metric
    view: Tensor
    row: Tensor
    mean: bool

    def interval(self, rows: Tensor) -> tuple[Interval, float]:
        """Value of the statistics `[n, k]` with its 95 % interval, and a lower bound of one side."""
        if self.mean and self.metric.mean_of_rows:
            return self._of_means(rows.double().numpy()[:, 0])
        each = self._each(rows)
        low, high, bound = _ends(self._together(self._drawn(rows)))
        value = float(self._together(each))
        if self.mean:
            return (value, low, high), bound
        alone = rows[self._masks[int(each.argmin())]]
        there = self.metric.interval(alone, _SIDES)
        at_least = min(bound, self.metric.interval(alone, _SIDE)[1])
        return (value, min(low, there[1]), max(high, there[2])), at_least

    def difference(self, before: Tensor, after: Tensor) -> tuple[Interval, float]:
        """How much more `after` has than `before`, both `[n, k]`, in the same way."""
        if self.mean and self.metric.mean_of_rows:
            return self._of_means((after.double() - before.double()).numpy()[:, 0], paired=True)
        bases, each = self._each(before), self._each(after)
        drawn = self._together(self._drawn(after)) - self._together(self._drawn(before))
        low, high, bound = _ends(drawn)
        value = float(self._together(each) - self._together(bases))
        if self.mean:
            return (value, low, high), bound
        # the worst changes by no less than in the view where it is afterwards, by no more than where it was before
        first, last = (self._masks[int(found.argmin())] for found in (bases, each))
        lowest = self.metric.difference(before[last], after[last], _SIDES)[1]
        highest = self.metric.difference(before[first], after[first], _SIDES)[2]
        at_least = min(bound, self.metric.at_least(before[last], after[last]))
        return (value, min(low, lowest), max(high, highest)), at_least

    def _together(self, values: Floats) -> Floats:
        """`[views, ...]` -> `[...]`."""
        found: Floats = values.mean(axis=0) if self.mean else values.min(axis=0)
        return found

    def _each(self, rows: Tensor) -> Floats:
        return np.array([self.metric.value(rows[mine]) for mine in self._masks])

    @cached_property
    def _masks(self) -> list[Tensor]:
        """The statistics of each view that has any, bool `[n]`."""
        return [self.view == number for number in sorted(set(self.view.tolist()))]

    @cached_property
    def _clusters(self) -> tuple[NDArray[np.int64], int]:
        """The place of each statistic's row among those that are there, `[n]`, and how many these are."""
        there, place = np.unique(self.row.numpy(), return_inverse=True)
        return place.astype(np.int64), len(there)

    def _drawn(self, rows: Tensor) -> Floats:
        """The metric in every view, `[views, resamples]`, on rows drawn with replacement, the same ones in all."""
        place, clusters = self._clusters
        parts = []
        for drawn in resampling_weights(clusters):
            each = [drawn[:, place[mine.numpy()]] for mine in self._masks]
            whole = np.all([times.any(axis=1) for times in each], axis=0)  # of few rows a view may be left with none
            found = zip(self._masks, each, strict=True)
            parts.append(np.stack([self.metric.weighted(rows[mine], times[whole]) for mine, times in found]))
        return np.concatenate(parts, axis=1)

    def _of_means(self, values: Floats, paired: bool = False) -> tuple[Interval, float]:
        """The mean of the views' means of `[n]`: of 0 and 1, or of -1, 0 and 1 where they are `paired`."""
        place, clusters = self._clusters
        view, counts = np.unique(self.view.numpy(), return_inverse=True, return_counts=True)[1:]
        means = np.bincount(view, values) / counts
        value, share = float(means.mean()), 1 / (len(counts) * counts[view])
        # what a row adds to the error, all its views together
        each = np.bincount(place, share * (values - means[view]), clusters)
        spread = math.sqrt(clusters / (clusters - 1) * float(each @ each)) if clusters > 1 else math.inf
        if not self.metric.binary:
            wide, side = half_width(spread, _SIDES), half_width(spread, _SIDE)
            least = self.metric.lowest - (self.metric.highest if paired else 0.0)
            most = self.metric.highest - (self.metric.lowest if paired else 0.0)
            return (value, max(least, value - wide), min(most, value + wide)), max(least, value - side)
        more, less = float(share @ (values > 0)), float(share @ (values < 0))
        of_one = more + less - (more - less) ** 2 if paired else value * (1 - value)
        # and one row more that is alike in all views: where few change, little says that their views do not go together
        n = max(1.0, min(1 / float(share @ share), (of_one + 1 / clusters) / (spread**2 + 1 / clusters**2)))
        if paired:
            _, low, high = matched_pairs(more * n, less * n, n, _SIDES)
            return (value, low, high), float(paired_lower_bound(more * n, less * n, n))
        _, low, high = wilson(value * n, n, _SIDES)
        return (value, low, high), wilson(value * n, n, _SIDE)[1]


def _ends(drawn: Floats) -> tuple[float, float, float]:
    """Ends of the interval, and the bound of one side."""
    low, high, bound = np.quantile(drawn, [(1 - _SIDES) / 2, (1 + _SIDES) / 2, (1 - _SIDE) / 2])
    return float(low), float(high), float(bound)
