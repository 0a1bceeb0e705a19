"""What of a space keeps the budget: refused early where nothing does, else the seeds of a search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NoReturn

from prunesearch.core.costs import digits
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import parse_method
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.cost.costs import Costs
from prunesearch.search.costs.objectives import Objective
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.seed import Seed, spread
from prunesearch.search.solve.solver import solve
from prunesearch.search.space.plan_space import PlanSpace

_ALL_POINTS = 10_000


def check_reachable(space: PlanSpace, objectives: Sequence[Objective], asked: str) -> None:
    """Refuse a bound that no schedule keeps, before minutes are spent on sensitivities.

    The cheapest schedules are solved for as if nothing were lost, over the methods that cost least.

    Args:
        asked: the budget and bounds as typed, for the message.

    Raises:
        PruneSearchError: with the least that can be reached.
    """
    for objective in objectives:
        if objective.limit >= objective.costs.predict(Schedule()):
            continue
        cheap = space.with_methods(cheapest_methods(space, objective.costs))
        free = Sensitivities.free(cheap.schedules, cheap.options)
        if not solve(cheap, free, objective.costs, objective.limit, 1):
            _refuse(cheap, free, objective, asked)


def cheapest_methods(given: PlanSpace, costs: Costs) -> list[str]:
    """Of the methods with token sizes and of those without, the one whose strongest stage costs least."""
    best: dict[bool, tuple[float, str]] = {}
    space = given.schedules
    for method in space.methods:
        _, merge = parse_method(method)
        cost = costs.predict(Schedule([space.stage(space.somewhere(method), len(space.keeps) - 1, method)]))
        kind = MERGES.entry(merge).makes_sizes
        best[kind] = min(best.get(kind, (cost, method)), (cost, method))
    return [method for _, method in best.values()]


def seeds_within(
    space: PlanSpace, sensitivities: Sensitivities, objectives: Sequence[Objective], wanted: int, asked: str
) -> list[Seed]:
    """About `wanted` seeds that keep every bound, solved for each objective that is minimised.

    Where their fronts have none, as where memory is bounded, seeds are solved for each objective that only bounds.

    Args:
        asked: the budget and bounds as typed, for the message.

    Raises:
        PruneSearchError: if no schedule of the space keeps a bound, with the least that can be reached; or if each
            bound can be kept, and no schedule that was solved for keeps all, with the one that comes nearest.
    """
    minimised = [o for o in objectives if o.minimised]
    bounding = [o for o in objectives if not o.minimised and math.isfinite(o.limit)]
    found: list[Seed] = []
    for group in (minimised, bounding):
        if found:
            break
        for objective in group:
            solved = solve(space, sensitivities, objective.costs, objective.limit, _ALL_POINTS)
            fitting = [seed for seed in solved if all(o.fits(seed.plan) for o in objectives)]
            found += spread(fitting, -(-max(wanted, 1) // len(group)), lambda seed: seed.cost)
    if not found:
        _refuse_all(space, sensitivities, objectives, asked)
    return list({seed.plan: seed for seed in found}.values())


def _refuse_all(
    space: PlanSpace, sensitivities: Sensitivities, objectives: Sequence[Objective], asked: str
) -> NoReturn:
    """Say which bound nothing keeps; where each alone can be kept, what comes nearest to keeping all of them."""
    bounding = [o for o in objectives if math.isfinite(o.limit)]
    tried: list[Plan] = []
    for objective in bounding:
        reached = _reached(space, sensitivities, objective)
        if reached[-1].cost > objective.limit:
            _refuse(space, sensitivities, objective, asked)
        tried += [seed.plan for seed in reached]
    nearest = min(tried, key=lambda plan: max(o.costs.predict(plan) / o.limit for o in bounding))
    said = ", ".join(
        f"{digits(o.costs.predict(nearest))} {o.unit} of {o.name} where {digits(o.limit)} is the most" for o in bounding
    )
    raise PruneSearchError(
        f"{asked}: each bound can be kept alone, but no schedule was found that keeps all of them at once; the nearest "
        f"({nearest}) is predicted at {said}: loosen one of the bounds, or widen the space"
    )


def _reached(space: PlanSpace, sensitivities: Sensitivities, objective: Objective) -> list[Seed]:
    """Schedules that are no dearer than the unpruned model, which is the first, down to the least."""
    whole = Seed(Plan(), 0.0, objective.costs.predict(Plan()))
    return [whole, *solve(space, sensitivities, objective.costs, whole.cost, _ALL_POINTS)]


def _refuse(space: PlanSpace, sensitivities: Sensitivities, tight: Objective, asked: str) -> NoReturn:
    least = _reached(space, sensitivities, tight)[-1]
    way_out = "raise the budget" if asked.startswith("budget") else "loosen the bound"
    raise PruneSearchError(
        f"{asked} ({digits(tight.limit)} {tight.unit}) is below anything reachable: the least that the space has is "
        f"predicted at {digits(least.cost)} {tight.unit} ({least.plan}); {way_out}, or widen the space"
    )
