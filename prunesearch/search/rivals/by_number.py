"""Methods that one number sets: all schedules of a shape, from the whole sequence to next to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prunesearch.core.plans.flow import Geometry
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.registry import SPACES
from prunesearch.core.tables.row_kinds import RivalRow
from prunesearch.core.tables.token_tables import SCORERS
from prunesearch.pruning.apply import runnable
from prunesearch.search.rivals.arena import Arena, Effort, Entrant, LeftOutError
from prunesearch.search.space.listed import ListedSpace

_RATES = 400  # that are tried where several sites go by one
EASILY = 0.95  # of the target: sites must leave room for what the table does not know


def by_number(arena: Arena, row: RivalRow) -> Entrant:
    """All schedules of the row's shape and method, by what the table says they cost.

    Raises:
        LeftOutError: if the model has no weights of the scorer, or its attention cannot run the merge.
    """
    learned, effort = SCORERS.entry(row.scorer).learned, Effort()
    if learned:
        if row.scorer not in arena.learnt:
            raise LeftOutError(f"scorer {row.scorer} has no weights here: ask for it by --methods, and it is trained")
        effort = arena.learnt[row.scorer]
    attention = str(arena.costing.table.conditions["attention"])
    if not runnable([Stage(0, 1.0, row.scorer, row.merge).method], attention):
        raise LeftOutError(f"attention '{attention}' cannot run merge {row.merge}: use --attn sdpa")
    geometry, price = arena.setting.geometry, arena.prices.predict
    plans: list[Plan] = []
    for sites in sites_of(row, geometry.depth):
        plans = sorted((Plan(s) for s in _members(geometry, row, sites) if len(s)), key=price, reverse=True)
        if plans and price(plans[-1]) <= EASILY * arena.limit:
            break
    return Entrant(plans, effort)


def sites_of(row: RivalRow, depth: int) -> Iterator[list[int]]:
    """The blocks that have stages: as the row says, then earlier ones, for latencies that need them; empty: all."""
    parts = row.shape.get("sites")
    if not isinstance(parts, list) or 1.0 in parts:
        yield list(range(depth)) if isinstance(parts, list) else []
        return
    blocks = [int(part * depth) for part in parts]
    for back in range(blocks[0] + 1):
        yield sorted({block - back for block in blocks})


def _members(geometry: Geometry, row: RivalRow, sites: list[int]) -> list[Schedule]:
    keys: dict[str, Any] = {**row.shape, "scorers": [row.scorer], "merges": [row.merge]}
    if sites:
        many = geometry.reducible if len(sites) == 1 else _RATES
        keys |= {"sites": sites, "keep": [step / many for step in range(1, many)]}
    file = SPACES.load(str(keys["kind"])).model_validate({"format": "prunesearch.space", "version": 1, **keys})
    space: ListedSpace = file.fit(geometry.depth, geometry.tokens, geometry.protected)
    return [space.schedule(shape, space.methods[0]) for shape in space.shapes]
