"""On how many rows trials are evaluated: as many as their losses are known well enough by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from prunesearch.core.events import say
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.pruning.apply import Handle
from prunesearch.search.space.space import Space
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import EvalSet

SEARCH_ROWS = "search_rows"  # of a study: all that have a part in it evaluate on as many
_LEAST = 128  # rows, of any search
_PILOT_ROWS = 64  # that the spread is read off
_PILOTS = (1 / 3, 2 / 3)  # of the way from the whole sequence to the fewest tokens


def pilots_of(space: Space) -> list[Plan]:
    """Plans of one early stage, a mild one and a strong one, that a spread over rows is read off."""
    if not space.methods or not space.blocks:
        return []
    layer, levels = space.blocks[len(space.blocks) // 4], len(space.keeps) - 1
    strengths = dict.fromkeys(max(1, round(share * levels)) for share in _PILOTS)
    return [Plan(Schedule([space.stage(layer, level, space.methods[0])])) for level in strengths if level <= levels]


def rows_for(task: Task, handle: Handle, most: EvalSet, pilots: Sequence[Plan], error: float) -> int:
    """Rows on which the loss of a plan like the `pilots` has the relative standard error `error`, a power of two.

    Args:
        task: the model with its data.
        handle: of the model.
        most: rows that may be taken.
        pilots: some plans that lose something.
        error: wanted.
    """
    if most.n <= _LEAST or not pilots:
        return most.n
    evaluator = Evaluator(task, handle, most.take(_PILOT_ROWS))
    found = (evaluator.evaluate(plan).kl.double() for plan in pilots)
    spreads = [float(kl.std() / kl.mean()) for kl in found if float(kl.mean()) > 0]
    finite = [spread for spread in spreads if math.isfinite(spread)]
    if not finite:
        return most.n
    wanted = (median(finite) / error) ** 2
    rows: int = min(most.n, max(_LEAST, 1 << math.ceil(math.log2(max(wanted, 1.0)))))
    say(f"trials on {rows} rows: losses are then known to {median(finite) / math.sqrt(rows):.0%}")
    return rows
