"""What a search minimises beside the loss of quality, and the bounds it keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prunesearch.core.budget import Budget
from prunesearch.core.constraint import Constraint
from prunesearch.core.costs import find_cost
from prunesearch.core.plans.plan import Plan
from prunesearch.cost.costs import Costs


@dataclass(frozen=True)
class Objective:
    """A cost with its bound; one that is not `minimised` only bounds.

    `name` is a row of `COSTS`, or `latency@` and the load that it is the latency of. `costs` prices schedules in
    `unit`, for a batch or for one input as the row says. Its pieces may add up to less than its price (a maximum does
    not add up): what is solved with them is priced as a whole.
    """

    name: str
    costs: Costs
    limit: float = math.inf
    minimised: bool = True

    @property
    def unit(self) -> str:
        """Of the cost."""
        return find_cost(self.name.partition("@")[0]).unit

    @property
    def bound(self) -> float:
        """The limit, or what the unpruned model costs where that is less: nothing dearer is worth a trial."""
        return min(self.limit, self.costs.predict(Plan()))

    def fits(self, plan: Plan) -> bool:
        """Whether the plan is predicted to keep the bound."""
        return self.costs.predict(plan) <= self.limit


def make_objectives(
    names: Sequence[str],
    budget: Budget | None,
    costs: Mapping[str, Costs],
    constraints: Sequence[Constraint] = (),
    loads: Mapping[str, Costs] | None = None,
) -> list[Objective]:
    """The objectives of a run in the order named, the first of them the one that shares and speed-ups bound.

    The unpruned model is the bound of the first where there is no budget: nothing dearer is worth a trial. Latency is
    always among them, if only to be told.

    Args:
        names: what is minimised.
        budget: as typed; None for none.
        costs: every cost that is minimised or bounded, and latency, by name.
        constraints: those on costs bound like the budget.
        loads: the latencies of several loads, by what they are called, where `costs["latency"]` stands for all. A bound
            in ms holds for each of them; a share or a speed-up, for all together.
    """
    each = {f"latency@{load}": part for load, part in (loads or {}).items()}
    every = {**costs, **each}
    limits: dict[str, float] = {}

    def bound(name: str, limit: float) -> None:
        limits[name] = min(limit, limits.get(name, math.inf))

    searched = [c for c in constraints if not c.on_quality and find_cost(c.name).searched]  # others: in the end alone
    bounds = [(c.name, c.relative, c.limit) for c in searched]
    if budget is not None:
        bounds.insert(0, (budget.cost(names[0]), budget.relative, budget.limit))
    for name, relative, limit_of in bounds:
        for one in each if each and find_cost(name).by_load and not relative else [name]:
            bound(one, limit_of(every[one].predict(Plan())))
    if names[0] not in limits:
        limits[names[0]] = costs[names[0]].predict(Plan())
    order = dict.fromkeys([*names, *(name for name, _, _ in bounds), "latency", *each])
    return [Objective(name, every[name], limits.get(name, math.inf), name in names) for name in order]
