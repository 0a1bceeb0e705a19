"""The front of a space of plans: that of its schedules for each change of the model, by its own costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prunesearch.core.pareto import non_dominated
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.seed import Seed, Solves, spread

_ALL = 10_000


class _Of(NamedTuple):
    """What solves for the schedules of the model with some changes."""

    variant: str
    changes: tuple[Change, ...]
    solver: Solves


class PlanSolver:
    """Solves for each change by itself, and keeps of all fronts what none beats.

    What a plan loses is taken to be what its changes lose without a stage and what its stages lose without changes:
    `Sensitivities.base` has the former; what verified plans show to be wrong with that, `samplers.surrogate` learns.

    Args:
        solvers: by `Plan.variant`: the changes, and what solves for schedules at their costs.
    """

    def __init__(self, solvers: Mapping[str, tuple[tuple[Change, ...], Solves]]) -> None:
        self._each: Sequence[_Of] = [_Of(variant, *found) for variant, found in solvers.items()]

    def solve(self, sensitivities: Sensitivities, points: int) -> list[Seed]:
        """Up to `points` seeds spread evenly over the front's costs, dearest first."""
        found = [
            Seed(
                Plan(seed.plan.schedule, (*changes, *seed.plan.changes)),
                seed.loss + sensitivities.base.get(variant, 0.0),
                seed.cost,
            )
            for variant, changes, solver in self._each
            for seed in solver.solve(sensitivities, _ALL)
        ]
        if not found:
            return []
        keep = non_dominated([(seed.cost, seed.loss) for seed in found])
        front = sorted((seed for seed, k in zip(found, keep, strict=True) if k), key=lambda seed: -seed.cost)
        return spread(front, points, lambda seed: seed.cost)
