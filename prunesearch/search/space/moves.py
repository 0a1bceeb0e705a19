"""Local moves: the schedules one small step away from a schedule."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.names import load_target
from prunesearch.core.tables.registry import SPACES
from prunesearch.search.space.plan_space import PlanSpace
from prunesearch.search.space.space import Space

Site = tuple[int, int, int]  # index into `space.layers`, keep level, index into `space.methods`


def sites_of(space: Space, schedule: Plan | Schedule) -> list[Site]:
    """The stages of a schedule as indices into its space."""
    return [
        (space.layers.index(s.place.site), space.keeps.index(s.keep), space.methods.index(s.method)) for s in schedule
    ]


def schedule_of(space: Space, sites: Sequence[Site]) -> Schedule:
    """The schedule of rising blocks and levels that `sites` stands for."""
    return Schedule(space.stage(space.layers[i], g, space.methods[m]) for i, g, m in sites)


def neighbours(space: Space | PlanSpace, plan: Plan | Schedule, swaps: Sequence[int]) -> list[Plan]:
    """Every plan that one move makes: a stage shifted, deepened or eased by one, split, dropped, joined, swapped; or
    the same stages with other changes of the model.

    Args:
        swaps: indices of the methods that a stage may change to.
    """
    plan, stages = Plan.of(plan), space.schedules
    made: list[Schedule] = load_target(SPACES.entry(stages.file.kind).moves)(stages, plan.schedule, swaps)
    others = [changes for changes in space.variants.values() if changes != plan.whole]
    if isinstance(space, Space) or not space.options:
        return [*(Plan(schedule, plan.changes) for schedule in made), *(Plan(plan.schedule, other) for other in others)]
    halves = plan.halves.values()
    return [
        *(space.planned(schedule, plan.whole, halves) for schedule in made),
        *(space.planned(plan.schedule, other, halves) for other in others),
        *space.narrower(plan),
    ]


def stage_moves(space: Space, schedule: Schedule, swaps: Sequence[int]) -> list[Schedule]:
    """`neighbours` in a space whose stages are free of each other."""
    found: dict[Schedule, None] = {}
    for sites in _moves(space, sites_of(space, schedule), swaps):
        if len(sites) <= space.max_stages and _legal(space, sites):
            found[schedule_of(space, sites)] = None
    found.pop(schedule, None)
    return list(found)


def _legal(space: Space, sites: Sequence[Site]) -> bool:
    layers, levels = [s[0] for s in sites], [s[1] for s in sites]
    rising = all(a < b for a, b in itertools.pairwise(layers))
    falling = all(a < b for a, b in itertools.pairwise(levels))
    inside = not sites or (layers[0] >= 0 and layers[-1] < len(space.layers))
    deep = all(1 <= g < len(space.keeps) for g in levels)
    return rising and falling and inside and deep and all(space.takes(i, m) for i, _, m in sites)


def _moves(space: Space, sites: list[Site], swaps: Sequence[int]) -> Iterator[list[Site]]:
    for k, (i, g, m) in enumerate(sites):
        before, after = sites[:k], sites[k + 1 :]
        yield [*before, *after]
        for step in (-1, 1):
            yield [*before, (i + step, g, m), *after]
            yield [*before, (i, g + step, m), *after]
            # trade: earlier and milder, or later and harsher
            yield [*before, (i + step, g + step, m), *after]
        for other in swaps:
            yield [*before, (i, g, other), *after]
        last = before[-1][1] if before else 0
        for between in range(last + 1, g):
            for step in (-2, -1):
                yield [*before, (i + step, between, m), (i, g, m), *after]
        if after:
            yield [*before, (i, after[0][1], m), *after[1:]]
    last_layer, last_level = (sites[-1][0], sites[-1][1]) if sites else (-1, 0)
    for layer in range(last_layer + 1, len(space.layers)):
        for level in {last_level + 1, last_level + 2, len(space.keeps) - 1}:
            for m in swaps[:3]:
                yield [*sites, (layer, level, m)]
