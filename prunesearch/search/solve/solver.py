"""The solver that fits the kind of a space."""

from __future__ import annotations

from prunesearch.cost.costs import Costs
from prunesearch.search.solve.dynamic import Solver
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.seed import Seed, Solves
from prunesearch.search.space.listed import ListedSpace
from prunesearch.search.space.space import Space


def solve(space: Space, sensitivities: Sensitivities, costs: Costs, limit: float, points: int) -> list[Seed]:
    """Return up to `points` seeds spread evenly over the costs of the additive front, dearest first.

    Args:
        limit: no seed costs more than this.
    """
    return solver_for(space, costs, limit).solve(sensitivities, points)


def solver_for(space: Space, costs: Costs, limit: float) -> Solves:
    """The solver that fits the kind of a space."""
    from prunesearch.search.solve.listing import ListedSolver  # it builds on what is here

    return ListedSolver(space, costs, limit) if isinstance(space, ListedSpace) else Solver(space, costs, limit)
