"""Score and list: the front of a space whose members can be listed, from one-stage losses and the cost table.

What dynamic programming is to free stages (`seeds.Solver`); exact for the additive model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.stage import parse_method
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.cost.costs import Costs, breakdown
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.seed import Seed, spread
from prunesearch.search.space.listed import ListedSpace, Shape

Array = NDArray[np.float64]


class ListedSolver:
    """Solves for fronts of one listed space and cost; the costs of all members are added up once.

    Args:
        space: a listed space.
        costs: of one objective.
        limit: no seed costs more than this.
    """

    def __init__(self, space: ListedSpace, costs: Costs, limit: float) -> None:
        self.space, self.costs, self.limit = space, costs, limit
        self.shapes = list(space.shapes)
        self._parts = [parse_method(m) for m in space.methods]
        self._makes_sizes = np.array([MERGES.entry(merge).makes_sizes for _, merge in self._parts])
        self._reduce: dict[tuple[int, int], Array] = {}
        self._cost = np.stack([self._cost_of(shape) for shape in self.shapes])  # [shapes, methods]

    def solve(self, sensitivities: Sensitivities, points: int) -> list[Seed]:
        """Up to `points` seeds spread evenly over the front's costs, dearest first."""
        loss = self._losses(sensitivities)
        members = np.argwhere(self._cost <= self.limit)
        cost, loss = self._cost[tuple(members.T)], loss[tuple(members.T)]
        order = np.lexsort((loss, cost))
        best_before = np.minimum.accumulate(np.concatenate([[np.inf], loss[order][:-1]]))
        front = order[loss[order] < best_before][::-1]
        found = []
        for k in front:
            shape, method = members[k]
            schedule = self.space.schedule(self.shapes[shape], self.space.methods[method])
            cost_of_it = self.costs.price(schedule.flow(self.costs.geometry))
            found.append(Seed(Plan(schedule), float(loss[k]), cost_of_it))
        return spread([s for s in found if s.cost <= self.limit], points, lambda s: s.cost)

    def _losses(self, sensitivities: Sensitivities) -> Array:
        """Additive estimates `[shapes, methods]`, nats."""
        added: dict[tuple[int, int, int], Array] = {}
        found = np.zeros((len(self.shapes), len(self.space.methods)))
        for k, shape in enumerate(self.shapes):
            last = 0
            for layer, level in shape:
                step = (layer, last, level)
                if step not in added:
                    added[step] = sensitivities.added(*step)
                found[k] += added[step]
                last = level
        return found

    def _cost_of(self, shape: Shape) -> Array:
        """Cost of a shape by every method, `[methods]`."""
        found = np.zeros(len(self._parts))
        for kind in (False, True):
            alike = np.flatnonzero(self._makes_sizes == kind)
            if not len(alike):
                continue
            # methods of a kind differ in what their stages cost, and in nothing else
            flow = self.space.schedule(shape, self.space.methods[alike[0]]).flow(self.costs.geometry)
            spent = breakdown(self.costs, flow)
            stages = [self._reducing(step.n_in, step.n_out)[alike] for step in flow if step.stage is not None]
            found[alike] = spent["attention"] + spent["mlp"] + spent["rest"] + np.sum(stages, axis=0)
        return found

    def _reducing(self, before: int, after: int) -> Array:
        """A stage between two counts by every method, `[methods]`."""
        if (before, after) not in self._reduce:
            self._reduce[before, after] = np.array([self.costs.reduce(*part, before, after) for part in self._parts])
        return self._reduce[before, after]
