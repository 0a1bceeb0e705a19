"""One sentence that says what to do, or that nothing need be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from prunesearch.core.budget import UNITS
from prunesearch.core.constraint import Constraint, relative_bound
from prunesearch.study.front import BudgetInfo, ConstraintInfo, Point, Unpruned, Verdict, cost_of, digits

TOLERANCE = 0.01  # of the unpruned model's quality
_WORTH_IT = 1.05  # a speed-up below this is within what a machine's mood does
# how the least of a cost is called, and less of it
_LEAST = {"latency": "Fastest", "energy": "Most frugal", "macs": "Lightest", "memory": "Smallest"}
_LESS = {"latency": "faster", "energy": "more frugal", "macs": "lighter", "memory": "smaller"}


@dataclass(frozen=True)
class Judge:
    """What a front is judged by.

    Attributes:
        unpruned: the reference.
        metric: what quality is called.
        batch_size: of the latency, for the reader.
        objective: the first; gains are in it.
        budget: as it came out; None for none.
        constraints: as they came out. Where one is on a quality, it says what is good enough, in place of 99 % of the
            unpruned quality.
        trust: said of every cost that was not measured: `estimated ±20 %`.
        blind: whether the unpruned model's quality is too low to tell schedules apart, so that none can be recommended.
    """

    unpruned: Unpruned
    metric: str
    batch_size: int
    objective: str = "latency"
    budget: BudgetInfo | None = None
    constraints: Sequence[ConstraintInfo] = field(default_factory=list)
    trust: str = ""
    blind: bool = False

    @property
    def unit(self) -> str:
        """Of the objective."""
        return UNITS[self.objective]

    def gain(self, point: Point) -> float:
        """What the unpruned model costs divided by what the point costs."""
        return cost_of(self.unpruned, self.unit) / cost_of(point, self.unit)

    def verdict(self, points: Sequence[Point]) -> Verdict:
        """Judge the points, all of which keep budget and constraints.

        The recommended point is the cheapest in the objective that is good enough on the holdout split. The candidates
        were chosen on calibration data, a dozen at most, so that reading the last step off the holdout split flatters
        by less than the interval that is printed beside it.
        """
        if self.blind:
            return Verdict(
                text=f"No recommendation ({self._where}): {self.metric} of the unpruned model, "
                f"{100 * self.unpruned.quality.value:.1f} %, cannot tell schedules apart."
            )
        asked = [c.text for c in self.constraints if Constraint.parse(c.text).on_quality]
        enough = f"with {' and '.join(asked)}" if asked else "within 1 % of the unpruned model"
        good = [p for p in points if (asked or keeps_quality(p, self.unpruned)) and self.gain(p) >= _WORTH_IT]
        if good:
            point = max(good, key=self.gain)
            return self._recommend(f"{_LEAST[self.objective]} schedule {enough}", point)
        broken = [c.text for c in self.constraints if c.broken]
        if not points and broken:
            return Verdict(
                text=f"No candidate keeps {' and '.join(broken)} in the end ({self._where}): loosen it, or give the "
                "search more trials."
            )
        if self.budget is not None and points:
            point = max(points, key=lambda p: (p.calibration.quality, self.gain(p)))
            limit = f"{self.budget.text} ({digits(self.budget.limit)} {self.budget.unit})"
            return self._recommend(f"Nothing inside {limit} stays {enough}; the best that fits", point)
        return self._unpruned(points, enough)

    def _recommend(self, what: str, point: Point) -> Verdict:
        return Verdict(text=f"{what}: {self.describe(point)}.", point=point.id)

    def _unpruned(self, points: Sequence[Point], enough: str) -> Verdict:
        largest = max(map(self.gain, points), default=1.0)
        reason = (
            f"the best schedule found gains {largest:.2f}x"
            if largest < _WORTH_IT
            else f"no schedule {enough} is {_WORTH_IT:.2f}x {_LESS[self.objective]}"
        )
        return Verdict(
            text=f"Unpruned is best here ({self._where}): {reason}. A larger batch or longer inputs may change that."
        )

    @property
    def _where(self) -> str:
        return f"batch {self.batch_size}" + (f", {self.trust}" if self.trust else "")

    def describe(self, point: Point) -> str:
        """A point's numbers in words."""
        d, mine, base = point.difference, cost_of(point, self.unit), cost_of(self.unpruned, self.unit)
        said = f", {self.trust}" if self.trust else ""
        return (
            f"{point.id}, {base / mine:.2f}x ({digits(mine)} {self.unit} against {digits(base)} {self.unit}{said}), "
            f"{self.metric} {100 * point.quality.value:.2f} % against "
            f"{100 * self.unpruned.quality.value:.2f} % (paired difference {100 * d.value:+.2f} points, 95 % interval "
            f"{100 * d.low:+.2f} to {100 * d.high:+.2f})"
        )


def keeps_quality(point: Point, unpruned: Unpruned) -> bool:
    """True if 99 % of the unpruned quality is kept on the holdout split, as `relative_bound` has it."""
    return point.quality.value >= relative_bound(1 - TOLERANCE, unpruned.quality.value)
