"""What solvers return: plans with the loss and the cost that are predicted for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.search.solve.losses import Sensitivities

T = TypeVar("T")


@dataclass(frozen=True)
class Seed:
    """A plan proposed by the solver, with the additive loss (nats) and the cost (ms or mJ) predicted for it."""

    plan: Plan
    loss: float
    cost: float

    @property
    def schedule(self) -> Schedule:
        """Its stages."""
        return self.plan.schedule


def spread(items: list[T], points: int, value: Callable[[T], float]) -> list[T]:
    """Choose up to `points` items whose values lie most evenly between the extremes; keeps the order."""
    if len(items) <= points:
        return items
    values = np.array([value(item) for item in items])
    chosen: list[int] = []
    free = np.ones(len(items), dtype=bool)
    for target in np.linspace(values[0], values[-1], points):
        nearest = int(np.where(free, abs(values - target), np.inf).argmin())
        free[nearest] = False
        chosen.append(nearest)
    return [items[i] for i in sorted(chosen)]


class Solves(Protocol):
    """Finds the front of a space for given one-stage losses."""

    def solve(self, sensitivities: Sensitivities, points: int) -> list[Seed]:
        """Up to `points` seeds spread evenly over the front's costs, dearest first."""
