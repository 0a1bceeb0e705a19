"""The solver that fits the kind of a space."""

from __future__ import annotations

from collections.abc import Callable

from prunesearch.core.tables.names import load_target
from prunesearch.core.tables.registry import SPACES
from prunesearch.cost.costs import Costs
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.plan_solver import PlanSolver
from prunesearch.search.solve.seed import Seed, Solves
from prunesearch.search.space.plan_space import PlanSpace
from prunesearch.search.space.space import Space


def solve(
    space: Space | PlanSpace, sensitivities: Sensitivities, costs: Costs, limit: float, points: int
) -> list[Seed]:
    """Return up to `points` seeds spread evenly over the costs of the additive front, dearest first.

    Args:
        limit: no seed costs more than this.
    """
    return solver_for(space, costs, limit).solve(sensitivities, points)


def solver_for(space: Space | PlanSpace, costs: Costs, limit: float) -> Solves:
    """The solver that the kind of the space names, for each change of the model that it has."""
    stages = space.schedules
    make: Callable[..., Solves] = load_target(SPACES.entry(stages.file.kind).solver)
    return PlanSolver(
        {
            name: (
                changes,
                make(stages, costs.under(changes), limit, *((space.options, changes, costs) if space.options else ())),
            )
            for name, changes in space.variants.items()
        }
    )
