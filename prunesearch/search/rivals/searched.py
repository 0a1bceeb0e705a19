"""What the search found, as a method among others: the best plans on calibration rows, from slow to fast."""

from __future__ import annotations

from collections.abc import Iterable

from prunesearch.core.events import track
from prunesearch.core.pareto import non_dominated
from prunesearch.core.plans.plan import Plan
from prunesearch.core.tables.row_kinds import RivalRow
from prunesearch.search.rivals.arena import Arena, Effort, Entrant, LeftOutError
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.seed import spread
from prunesearch.search.solve.solver import solve
from prunesearch.search.space.plan_space import PlanSpace
from prunesearch.study.trials import TrialRecord

_NEAR = (0.8, 1.05)  # of the limit: what is solved for once more has such a price
_SOLVED = 8  # plans, at most
_ALL = 10_000


def stages_alone(arena: Arena, row: RivalRow) -> Entrant:
    """Trials that change no more than tokens, and a few plans near the limit that one-stage losses speak for.

    A study that was run for another budget, or for other precisions too, has tried few such.
    """
    tried = {r.plan: r.loss for r in _full(arena) if not r.plan.changes}
    space = PlanSpace(arena.costing.space.schedules, own=arena.setting.config.dtype)
    solved, effort = _solved(arena, tried, space)
    return Entrant(_best(arena, {**tried, **solved}), search_effort(arena) + effort)


def all_freedom(arena: Arena, row: RivalRow) -> Entrant:
    """All trials, and a few plans near the limit, likewise.

    Raises:
        LeftOutError: if the study has searched over tokens alone.
    """
    tried = {r.plan: r.loss for r in _full(arena)}
    if not any(plan.changes for plan in tried):
        raise LeftOutError("the study has searched over tokens alone")
    solved, effort = _solved(arena, tried, arena.costing.space)
    return Entrant(_best(arena, {**tried, **solved}), search_effort(arena) + effort)


def _full(arena: Arena) -> Iterable[TrialRecord]:
    """Those that were evaluated on all rows."""
    return (r for r in arena.trials if r.rows is None and r.plan.weights is None)


def _best(arena: Arena, losses: dict[Plan, float]) -> list[Plan]:
    """The front of price and loss, the slowest first; the unpruned model is none of it."""
    plans = [plan for plan in losses if len(plan) or plan.changes]
    keep = non_dominated([(arena.prices.predict(plan), losses[plan]) for plan in plans])
    front = [plan for plan, stands in zip(plans, keep, strict=True) if stands]
    return sorted(front, key=arena.prices.predict, reverse=True)


def search_effort(arena: Arena) -> Effort:
    """What the search took: one-stage losses and trials."""
    search, path = arena.front.search, arena.folder.path / "sensitivities.json"
    found = Effort(search.seconds, round(search.evaluations * arena.searched_on))
    if path.exists():
        known = Sensitivities.load(path)
        found += Effort(known.seconds, round(known.passes))
    return found


def _solved(arena: Arena, tried: dict[Plan, float], space: PlanSpace) -> tuple[dict[Plan, float], Effort]:
    """Plans of a space near the limit that are solved for, evaluated on the rows of the search."""
    path, stages = arena.folder.path / "sensitivities.json", space.schedules
    if not path.exists() or not stages.max_stages:
        return {}, Effort()
    known = Sensitivities.load(path)
    if not known.is_of(stages):
        return {}, Effort()
    table = arena.costing.table
    low, high = (share * arena.limit for share in _NEAR)
    seeds = solve(space.with_methods(known.methods), known, table, high, _ALL)
    near = [seed for seed in seeds if seed.cost >= low and seed.plan not in tried]
    chosen = spread(near, _SOLVED, lambda seed: seed.cost)
    found: dict[Plan, float] = {}
    rows = seconds = 0.0
    for seed in track(chosen, len(chosen), "plans that one-stage losses speak for"):
        found[seed.plan], took = arena.loss(seed.plan)
        rows += arena.searched_on * seed.cost / table.predict(Plan())
        seconds += took
    return found, Effort(seconds, round(rows))
