"""The solver that fits the kind of a space."""

from __future__ import annotations

from prunesearch.core.tables.names import load_target
from prunesearch.core.tables.registry import SPACES
from prunesearch.cost.costs import Costs
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.seed import Seed, Solves
from prunesearch.search.space.space import Space


def solve(space: Space, sensitivities: Sensitivities, costs: Costs, limit: float, points: int) -> list[Seed]:
    """Return up to `points` seeds spread evenly over the costs of the additive front, dearest first.

    Args:
        limit: no seed costs more than this.
    """
    return solver_for(space, costs, limit).solve(sensitivities, points)


def solver_for(space: Space, costs: Costs, limit: float) -> Solves:
    """The solver that the kind of the space names."""
    made: Solves = load_target(SPACES.entry(space.file.kind).solver)(space, costs, limit)
    return made
