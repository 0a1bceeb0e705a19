"""Random schedules of a decoder behind a tower: stages in either, and in both."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from prunesearch.core.plans.amount import kept_count
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import DECODER, TOWER, Place, Stage, read_method
from prunesearch.cost.shape import Shape
from prunesearch.cost.tables.table_records import Cells
from prunesearch.cost.timing.walk import OF_TOWER, plan_walks

_MOST_IN_TOWER = 2  # stages of a schedule by which a table is judged


def in_parts(cells: Mapping[str, Cells]) -> dict[str, Any]:
    """What `build.all_cells` finds as the fields of a table."""
    own = {name: found for name, found in cells.items() if not name.startswith(OF_TOWER)}
    tower = {name.removeprefix(OF_TOWER): found for name, found in cells.items() if name.startswith(OF_TOWER)}
    return {"cells": own.pop(""), "changed": own, "tower": tower}


def plan_prompt_walks(
    shape: Shape, counts: Sequence[int], methods: Sequence[str], in_tower: Sequence[str], seed: int
) -> Iterator[Schedule]:
    """As `plan_walks`; every other schedule has stages in the tower too, by the methods `in_tower`."""
    own = plan_walks(shape.depth, shape.tokens, shape.protected, counts, methods, seed)
    tower = shape.tower
    if tower is None or not in_tower:
        yield from own
        return
    widths = tower_counts(shape, counts)
    front = plan_walks(tower.reach, tower.tokens, tower.protected, widths, in_tower, seed + 1)
    for number, schedule in enumerate(own):
        yield joined(next(front), schedule) if number % 2 else joined((), schedule)


def tower_counts(shape: Shape, counts: Iterable[int]) -> list[int]:
    """Tokens of a picture in the tower where schedules ask for `counts` of a prompt, the full one left out."""
    tower = shape.tower
    if tower is None:
        return []
    whole = tower.tokens - tower.protected
    shares = [Fraction(n - shape.protected, shape.tokens - shape.protected) for n in counts]
    return sorted({tower.protected + kept_count(float(share), whole) for share in shares} - {tower.tokens})


def joined(front: Iterable[Stage], behind: Iterable[Stage]) -> Schedule:
    """One schedule of stages of a tower and of a decoder, of which those stay that leave less than the tower does."""
    first = [stage.replace(layer=Place(TOWER, stage.layer)) for stage in front]
    least = first[-1].keep if first else 1.0
    rest = [stage.replace(layer=Place(DECODER, stage.layer)) for stage in behind if stage.keep < least or not first]
    return Schedule([*first, *rest])


def with_some_in_tower(
    shape: Shape, schedules: Sequence[Schedule], counts: Iterable[int], in_tower: Sequence[str], seed: int
) -> list[Schedule]:
    """Every other of some schedules with one or two stages in the tower too, half of them between the grid's widths."""
    tower, widths = shape.tower, tower_counts(shape, counts)
    if tower is None or not in_tower or not widths:
        return list(schedules)
    rng, found = random.Random(seed), dict[Schedule, None]()
    for number, schedule in enumerate(schedules):
        front: list[Stage] = []
        if number % 2:
            pool = widths if rng.random() < 0.5 else range(widths[0], widths[-1] + 1)
            many = min(rng.randint(1, _MOST_IN_TOWER), tower.reach, len(widths))
            layers, kept = sorted(rng.sample(range(tower.reach), many)), sorted(rng.sample(list(pool), many))[::-1]
            whole = tower.tokens - tower.protected
            front = [
                Stage(layer, (n - tower.protected) / whole, *read_method(rng.choice(in_tower)))
                for layer, n in zip(layers, kept, strict=True)
            ]
        found[joined(front, schedule)] = None
    return list(found)
