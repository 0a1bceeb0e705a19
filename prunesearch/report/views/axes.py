"""A number as it is drawn: with what surrounds it, and what was predicted of it."""

from __future__ import annotations

import html
from dataclasses import dataclass

from prunesearch.core.costs import Cost
from prunesearch.study.front_items import CostAmount


@dataclass(frozen=True)
class Drawn:
    """A number with what surrounds it.

    `low` to `high`: p10 to p90 of a latency, the 95 % interval of a quality or energy, the mean error of an estimate;
    `predicted`: by the cost table, where `value` was measured.
    """

    value: float
    low: float | None = None
    high: float | None = None
    predicted: float | None = None
    measured: bool = False

    def spread(self, error: float) -> Drawn:
        """The same with the mean relative `error` of a prediction around it, if nothing else is."""
        if self.measured or self.low is not None:
            return self
        return Drawn(self.value, self.value * (1 - error), self.value * (1 + error), self.predicted)


def read(row: Cost, amount: CostAmount) -> Drawn:
    """An amount of a front. What is exact was not predicted, and has no spread."""
    found = amount.measured
    if found is None:
        return Drawn(amount.value, measured=row.exact)
    low, high = (found.p10, found.p90) if found.p10 is not None else (found.low, found.high)
    if low is not None and high is not None:
        # a percentile that counts may lie beyond the two that were written down
        low, high = min(low, found.value), max(high, found.value)
    return Drawn(found.value, low, high, amount.predicted, True)


def plain(text: object) -> str:
    """Text for plotly, which reads a little markup in its labels and hover texts."""
    return html.escape(str(text), quote=False)
