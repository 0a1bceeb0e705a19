"""One sentence that says what to do, or that nothing need be done.

A recommendation is a promise, and must not be read off the rows that it is reported on: of a dozen candidates the
luckiest looks good. So candidates are tested one after another, from the dearest to the cheapest, in an order that does
not depend on the holdout rows; the first that cannot be shown to be good enough ends it. Every promise then holds at
the confidence of one test (fixed-sequence testing, Maurer, Hothorn and Lehmacher 1995), however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from prunesearch.core.constraint import Constraint, relative_bound
from prunesearch.core.costs import Cost, find_cost
from prunesearch.core.pareto import non_dominated
from prunesearch.study.front_items import Point, Unpruned
from prunesearch.study.front_records import BudgetInfo, ConstraintInfo, Verdict

TOLERANCE = 0.01  # of the unpruned model's quality
_WORTH_IT = 1.05  # a speed-up below this is within what a machine's mood does
_SURE = "at 95 % confidence"


def promised(bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """What can be promised of each candidate: the least bound of it and of all before it, `[..., k]` -> `[..., k]`.

    A candidate can be promised to be above any limit that is at most this. It is fixed-sequence testing of every
    candidate at every limit, said by one number each.
    """
    return np.minimum.accumulate(bounds, axis=-1)


def in_order(points: Sequence[Point], cost: str) -> list[Point]:
    """The candidates that promises are tested on, from the dearest to the cheapest in `cost`.

    Those that a cheaper one beats on the calibration rows, both in quality and in divergence, are left out: they stand
    for other objectives, and would end the sequence early. Nothing here is read off the holdout rows.
    """
    costs = [p.cost(cost).value for p in points]
    seen = [(c, p.quality.calibration or 0.0, p.fidelity.calibration_kl) for c, p in zip(costs, points, strict=True)]
    kept = [i for i, tested in enumerate(in_sequence(seen)) if tested]
    return [points[i] for i in sorted(kept, key=lambda i: (-costs[i], points[i].trial))]


def in_sequence(seen: Sequence[tuple[float, float, float]]) -> list[bool]:
    """Whether promises are tested on each of some candidates, by cost, quality and divergence on calibration rows."""
    by_quality = non_dominated([(cost, -quality) for cost, quality, _ in seen])
    by_loss = non_dominated([(cost, loss) for cost, _, loss in seen])
    return [a or b for a, b in zip(by_quality, by_loss, strict=True)]


def with_promises(points: Sequence[Point], cost: str) -> list[Point]:
    """The points with what can be promised of their differences, tested in the order of `cost`."""
    order = in_order(points, cost)
    least = promised(np.array([p.difference.bound for p in order]))
    known = {p.trial: float(value) for p, value in zip(order, least, strict=True)}
    return [_promising(p, known.get(p.trial)) for p in points]


def _promising(point: Point, least: float | None) -> Point:
    first, quality = next(iter(point.qualities.items()))
    known = None if least is None or not math.isfinite(least) else least
    difference = point.difference.model_copy(update={"promised": known})
    qualities = {**point.qualities, first: quality.model_copy(update={"difference": difference})}
    return point.model_copy(update={"qualities": qualities})


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
    def row(self) -> Cost:
        """Of the objective."""
        return find_cost(self.objective)

    def gain(self, point: Point) -> float:
        """What the unpruned model costs divided by what the point costs."""
        return self.unpruned.cost(self.objective).value / point.cost(self.objective).value

    @property
    def _asked(self) -> list[Constraint]:
        return [c for c in (Constraint.parse(found.text) for found in self.constraints) if c.on_quality]

    def promise(self, candidates: Sequence[Point]) -> Point | None:
        """The cheapest candidate that is good enough at 95 % confidence, and worth it.

        Args:
            candidates: all that keep the bounds on costs, whatever the holdout rows say of them.
        """
        if self.blind:
            return None
        found = None
        for point in in_order(candidates, self.objective):
            if not self.is_sure(point):
                break
            if self.gain(point) >= _WORTH_IT:
                found = point
        return found

    def is_sure(self, point: Point) -> bool:
        """Whether the lower bounds of what is asked for are good enough."""
        asked = self._asked
        if not asked:
            return point.difference.bound >= self._floor - self.unpruned.quality.value
        return all(self._keeps(c, point) for c in asked)

    def _keeps(self, constraint: Constraint, point: Point) -> bool:
        if constraint.on_agreement:
            sure = point.fidelity.agreement_at_least
            return (point.fidelity.agreement if sure is None else sure) >= constraint.value
        quality, base = point.quality_in(constraint.view), self.unpruned.quality_in(constraint.view).value
        if constraint.relative:
            change = quality.difference
            return change is not None and change.bound >= constraint.limit(base) - base
        at_least = quality.low if quality.at_least is None else quality.at_least
        return at_least is not None and at_least >= constraint.value

    @property
    def _floor(self) -> float:
        return relative_bound(1 - TOLERANCE, self.unpruned.quality.value)

    def is_good(self, point: Point) -> bool:
        """Whether the point estimates are good enough; a point that breaks a constraint is not on the front."""
        return bool(self._asked) or keeps_quality(point, self.unpruned)

    def verdict(self, points: Sequence[Point], candidates: Sequence[Point] | None = None) -> Verdict:
        """Judge the points, all of which keep budget and constraints by their estimates.

        Args:
            points: those that stand.
            candidates: see `promise`; None: the points.
        """
        if self.blind:
            return Verdict(
                text=f"No recommendation ({self._where}): {self.metric} of the unpruned model, "
                f"{100 * self.unpruned.quality.value:.1f} %, cannot tell schedules apart."
            )
        sure = self.promise(points if candidates is None else candidates)
        by_trial = {p.trial: p for p in points}
        point = None if sure is None else by_trial.get(sure.trial)
        guess = max((p for p in points if self.is_good(p) and self.gain(p) >= _WORTH_IT), key=self.gain, default=None)
        estimate = None if guess is None else guess.id
        if point is not None:
            what = "plan" if point.variant else "schedule"
            said = f"{self.row.least} {what} {self._enough} {_SURE}: {self.describe(point)}."
            return Verdict(text=said + self._aside(guess, point), point=point.id, by_estimate=estimate)
        broken = [c.text for c in self.constraints if c.broken]
        if not points and broken:
            return Verdict(
                text=f"No candidate keeps {' and '.join(broken)} in the end ({self._where}): loosen it, or give the "
                "search more trials."
            )
        if self.budget is not None and points:
            best = max(points, key=lambda p: (p.quality.calibration or p.quality.value, self.gain(p)))
            limit = f"{self.budget.text} ({find_cost(self.budget.cost).text(self.budget.limit)})"
            return Verdict(
                text=f"Nothing inside {limit} stays {self._enough} {_SURE}; the best that fits: "
                f"{self.describe(best)}.{self._aside(guess, best)}",
                point=best.id,
                by_estimate=estimate,
            )
        return Verdict(text=self._unpruned(points, guess), by_estimate=estimate)

    @property
    def _enough(self) -> str:
        asked = [c.text for c in self._asked]
        return f"with {' and '.join(asked)}" if asked else "within 1 % of the unpruned model"

    def _aside(self, guess: Point | None, chosen: Point) -> str:
        """What the point estimates alone would say, where that is something else."""
        if guess is None or guess.id == chosen.id:
            return ""
        return f" {self.row.least} by point estimate: {_named(guess)}, {self.gain(guess):.2f}x{self._change(guess)}."

    @staticmethod
    def _change(point: Point) -> str:
        d = point.difference
        around = "" if d.ends is None else f", {100 * d.ends[0]:+.2f} to {100 * d.ends[1]:+.2f}"
        return f" ({100 * d.value:+.2f} points{around})"

    def _unpruned(self, points: Sequence[Point], guess: Point | None) -> str:
        largest = max(map(self.gain, points), default=1.0)
        if largest < _WORTH_IT:
            reason = f"the best schedule found gains {largest:.2f}x"
        else:
            reason = f"no schedule {self._enough} {_SURE} is {_WORTH_IT:.2f}x {self.row.less}"
        end = "A larger batch or longer inputs may change that."
        if guess is not None:
            end = (
                f"{self.row.least} by point estimate: {_named(guess)}, {self.gain(guess):.2f}x{self._change(guess)}; "
                "more holdout rows may make that sure."
            )
        return f"Unpruned is best here ({self._where}): {reason}. {end}"

    @property
    def _where(self) -> str:
        return f"batch {self.batch_size}" + (f", {self.trust}" if self.trust else "")

    def describe(self, point: Point) -> str:
        """A point's numbers in words."""
        d = point.difference
        mine, base = (item.cost(self.objective).value for item in (point, self.unpruned))
        said = f", {self.trust}" if self.trust else ""
        around = "" if d.ends is None else f", 95 % interval {100 * d.ends[0]:+.2f} to {100 * d.ends[1]:+.2f}"
        return (
            f"{_named(point)}, {base / mine:.2f}x ({self.row.text(mine)} against {self.row.text(base)}{said}), "
            f"{self.metric} {100 * point.quality.value:.2f} % against "
            f"{100 * self.unpruned.quality.value:.2f} % (paired difference {100 * d.value:+.2f} points{around})"
        )


def _named(point: Point) -> str:
    """`p4`, or `p4 (int8)` where the model is changed too."""
    return f"{point.id} ({point.variant})" if point.variant else point.id


def keeps_quality(point: Point, unpruned: Unpruned) -> bool:
    """True if 99 % of the unpruned quality is kept on the holdout split, as `relative_bound` has it."""
    return point.quality.value >= relative_bound(1 - TOLERANCE, unpruned.quality.value)
