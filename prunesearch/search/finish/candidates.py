"""What becomes of the candidates: bounds as they hold in the end, who stands, and whether the choice flattered them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from prunesearch.core.budget import Budget
from prunesearch.core.constraint import Constraint
from prunesearch.core.costs import find_cost
from prunesearch.core.pareto import hypervolume_2d, non_dominated
from prunesearch.core.plans.plan import Plan
from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.study.front_items import Point, Unpruned
from prunesearch.study.front_records import BudgetInfo, ConstraintInfo, Hypervolume, Selection
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import Labels

REFERENCE = (1.0, 0.5)  # share of the unpruned cost, nats: of the hypervolume
_ROUNDING = 1e-9  # of a mean of qualities
_NEAR = 0.95  # of the unpruned quality, from which on a constant answer is as good
_SURE = 0.05  # p-value below which an excess is not taken for chance


@dataclass(frozen=True)
class Bounds:
    """The budget and the constraints of a run, held against final values: measured costs, holdout qualities.

    Shares and speed-ups are of what the unpruned model was measured at. A bound in ms holds for every load.

    Attributes:
        first: the cost that shares and speed-ups of the budget are of.
    """

    budget: Budget | None
    constraints: Sequence[Constraint]
    unpruned: Unpruned
    first: str

    def budget_info(self) -> BudgetInfo | None:
        """The budget as it came out."""
        if self.budget is None:
            return None
        row = find_cost(self.budget.cost(self.first))
        limit = self.budget.limit(self.unpruned.cost(row.name).value)
        each = row.by_load and not self.budget.relative and bool(self.unpruned.loads)
        return BudgetInfo(text=self.budget.text, limit=limit, cost=row.name, each=each)

    def keeps_budget(self, point: Point) -> bool:
        """Whether the point is inside the budget."""
        info = self.budget_info()
        return info is None or info.met_by(point)

    def limit(self, constraint: Constraint) -> float:
        """What a constraint came to."""
        if constraint.on_agreement:
            return constraint.value
        if constraint.on_quality:
            return constraint.limit(self.unpruned.quality_in(constraint.view).value)
        return constraint.limit(self.unpruned.cost(constraint.name).value)

    def keeps(self, constraint: Constraint, point: Point) -> bool:
        """Whether the point keeps a constraint."""
        limit = self.limit(constraint)
        if constraint.on_quality:
            value = point.fidelity.agreement if constraint.on_agreement else point.quality_in(constraint.view).value
            return value >= limit
        row = find_cost(constraint.name)
        return row.keeps(point.cost(row.name).value if constraint.relative else point.dearest(row.name), limit)

    def constraint_infos(self, points: Sequence[Point]) -> list[ConstraintInfo]:
        """Every constraint, with how many of the points break it."""
        return [
            ConstraintInfo(text=c.text, limit=self.limit(c), broken=sum(not self.keeps(c, point) for point in points))
            for c in self.constraints
        ]

    def affordable(self, points: Sequence[Point]) -> list[Point]:
        """The points that change anything and keep every bound on costs, whatever their quality."""
        costs = [c for c in self.constraints if not c.on_quality]
        return [
            p for p in points if p.to_plan() != Plan() and self.keeps_budget(p) and all(self.keeps(c, p) for c in costs)
        ]

    def inside(self, points: Sequence[Point]) -> list[Point]:
        """Of these, the points that keep every bound."""
        return [p for p in self.affordable(points) if all(self.keeps(c, p) for c in self.constraints)]


def standing(
    points: Sequence[Point],
    unpruned: Unpruned,
    costs: Sequence[str],
    *,
    blind: bool = False,
    keep: Point | None = None,
) -> list[Point]:
    """The points that nothing dominates in `costs` and quality, the unpruned model included; slowest first, renamed.

    Where quality is `blind` (see `blind_note`), the divergence from the unpruned model stands in for it. A point to
    `keep` stands in any case: what is promised of it does not depend on what others were lucky with.
    """
    losses = [p.fidelity.kl if blind else -p.quality.value for p in points]
    losses.append(0.0 if blind else -unpruned.quality.value)
    rivals: list[Point | Unpruned] = [*points, unpruned]
    values = [(*(p.cost(c).value for c in costs), loss) for p, loss in zip(rivals, losses, strict=True)]
    stands = non_dominated(values)[:-1]
    kept = [p for p, stand in zip(points, stands, strict=True) if stand or (keep is not None and p.trial == keep.trial)]
    kept.sort(key=lambda p: -p.latency.value)
    return [p.model_copy(update={"id": f"p{i}"}) for i, p in enumerate(kept, start=1)]


def sensible(points: Sequence[Point], unpruned: Unpruned) -> list[Point]:
    """Without points whose quality is below 0 where the unpruned model's is not.

    Writing nothing has a word accuracy of 0, and a mean an r2 of 0; a model that repeats itself until it is stopped has
    far less, and nobody wants it however fast it is.
    """
    return [p for p in points if p.quality.value >= min(0.0, unpruned.quality.value)]


def senseless_note(left_out: int, metric: str) -> str | None:
    """A line for the reader where there were such points; else None."""
    if not left_out:
        return None
    return f"left out, as {metric} below 0 is worse than no answer at all: {left_out} of the candidates"


def hypervolume(points: Sequence[Point], unpruned: Unpruned, cost: str) -> Hypervolume:
    """Of the final front: share of the unpruned cost by divergence on the holdout split."""
    base = unpruned.cost(cost).value
    area = hypervolume_2d([(p.cost(cost).value / base, p.fidelity.kl) for p in points], REFERENCE)
    return Hypervolume(value=area, cost=cost, reference=REFERENCE)


def selection(
    calibration: Sequence[float], unpruned: float, rows: int, holdout: Sequence[Evaluation], reference: Evaluation
) -> Selection | None:
    """Whether candidates look better on the split they were chosen on than on one that they were not.

    One statistic for all of them: the mean difference to the unpruned model over all candidates, paired by rows. The
    rows of both splits are taken for draws of one population, so that the spread seen over the holdout rows, where
    nothing was chosen, gives the standard error of both means.

    Args:
        calibration: the candidates' qualities on the rows that they were chosen on.
        unpruned: the unpruned model's, on the same rows.
        rows: how many these are.
        holdout: the candidates on the holdout split, in the same order.
        reference: the unpruned model on it.

    Returns:
        None where there is no candidate.
    """
    if not holdout:
        return None
    seen, spread = reference.metric.mean_contrast(reference.statistics, [e.statistics for e in holdout])
    chosen = sum(calibration) / len(calibration) - unpruned
    error = spread * math.sqrt(1 / rows + 1 / reference.n)
    # without any spread, no candidate changed an answer that the unpruned model got right; sums round a little
    better = chosen - seen if abs(chosen - seen) > _ROUNDING else 0.0
    excess = better / error if error > 0 else math.copysign(math.inf, better or -1.0)
    p_value = 1 - NormalDist().cdf(excess)
    return Selection(points=len(holdout), calibration=chosen, holdout=seen, p_value=p_value)


def selection_note(found: Selection | None, metric: str) -> str | None:
    """A line for the reader where the winner's curse is visible; else None."""
    if found is None or found.p_value >= _SURE:
        return None
    return (
        f"the {found.points} candidates look {100 * (found.calibration - found.holdout):.2f} points of {metric} better "
        f"on the calibration rows that they were chosen on than on held-out rows (p = {found.p_value:.2g}): trust the "
        "holdout numbers; more calibration rows make a fairer choice"
    )


def blind_note(task: Task, unpruned: Evaluation, labels: Labels) -> str | None:
    """A line for the reader where the unpruned model's quality is too low to tell schedules apart; else None.

    A model that has lost all it knew gives one answer for every row. Where such an answer has nearly the unpruned
    model's quality, nothing that a schedule breaks shows in it.

    Args:
        task: with its metric.
        unpruned: the unpruned model on some rows.
        labels: of the same rows.
    """
    value, said = unpruned.quality, ""
    constant = task.scoring.constant(task.wanted(labels))
    if constant is not None and constant >= _NEAR * value:
        said = f", and the same answer for every row has {100 * constant:.1f} %"
    if value > 0 and not said:
        return None
    others = task.telling(labels) if said else []
    way_out = f"take --metric {' or '.join(others)}" if others else "look at model, data and columns"
    return (
        f"the unpruned model has {100 * value:.1f} % of {task.metric} here{said}: that cannot tell schedules apart, "
        f"and the front is of their divergence from it; {way_out}"
    )
