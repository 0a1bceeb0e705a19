"""What a front can be drawn against, and coloured by. A new one is a row of a table."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass

from prunesearch.study.front import Point, Unpruned, digits


@dataclass(frozen=True)
class Amount:
    """A number with what surrounds it.

    `low` to `high`: p10 to p90 of a latency, the 95 % interval of a quality or energy, the mean error of an estimate;
    `predicted`: by the cost table, where `value` was measured.
    """

    value: float
    low: float | None = None
    high: float | None = None
    predicted: float | None = None
    measured: bool = False

    def spread(self, error: float) -> Amount:
        """The same with the mean relative `error` of a prediction around it, if nothing else is."""
        if self.measured or self.low is not None:
            return self
        return Amount(self.value, self.value * (1 - error), self.value * (1 + error), self.predicted)


@dataclass(frozen=True)
class Axis:
    """A cost. `of_point` reads it off a front's point, `attribute` is what a trial calls it."""

    name: str
    title: str
    unit: str
    attribute: str
    of_point: Callable[[Point | Unpruned], Amount | None]

    def text(self, value: float) -> str:
        """The value with three significant digits and its unit."""
        return f"{digits(value)} {self.unit}"


def _latency(item: Point | Unpruned) -> Amount:
    found = item.latency
    if found.median_ms is None:
        return Amount(found.predicted_ms)
    if found.p10_ms is None or found.p90_ms is None:  # of several loads together
        return Amount(found.ms, predicted=found.predicted_ms, measured=True)
    # a percentile that counts may lie beyond the two that were written down
    low, high = min(found.p10_ms, found.ms), max(found.p90_ms, found.ms)
    return Amount(found.ms, low, high, found.predicted_ms, True)


def _energy(item: Point | Unpruned) -> Amount | None:
    found = item.energy
    if found is None:
        return None
    if found.measured is None:
        return Amount(found.predicted_mj)
    return Amount(found.measured.value, found.measured.low, found.measured.high, found.predicted_mj, True)


def _memory(item: Point | Unpruned) -> Amount | None:
    found = item.memory
    if found is None:
        return None
    if found.measured_mib is None:
        return Amount(found.predicted_mib)
    return Amount(found.measured_mib, predicted=found.predicted_mib, measured=True)


AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis("latency", "latency of a batch", "ms", "latency", _latency),
        Axis("energy", "energy of an input", "mJ", "energy", _energy),
        # counted, not predicted: it has no spread
        Axis("macs", "multiply-adds of an input", "GMACs", "macs", lambda item: Amount(item.gmacs, measured=True)),
        Axis("memory", "memory of a batch", "MiB", "memory", _memory),
    )
}


def plain(text: object) -> str:
    """Text for plotly, which reads a little markup in its labels and hover texts."""
    return html.escape(str(text), quote=False)
