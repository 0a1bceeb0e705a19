"""Schedules that a cost table has not seen, and its predictions against their measurements."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from scipy.stats import spearmanr

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage, read_method
from prunesearch.cost.shape import Shape
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.table_records import Cells, NoiseRecord, Validation
from prunesearch.cost.timing.prompt_walks import in_parts
from prunesearch.cost.timing.samples import Samples

UNSEEN = 30  # schedules for a validation


MOST_STAGES = 4


def unseen_schedules(
    table: CostTable, methods: Sequence[str], *, count: int = UNSEEN, most_stages: int = MOST_STAGES, seed: int = 1
) -> list[Schedule]:
    """Random schedules in the table's grid: 1 to 4 stages, methods mixed, half of the widths between grid points."""
    widths = {cell.n for cell in table.cells.mlp}
    return draw_unseen(table.shape, widths, methods, count=count, most_stages=most_stages, seed=seed)


def draw_unseen(
    shape: Shape,
    counts: Iterable[int],
    methods: Sequence[str],
    *,
    count: int = UNSEEN,
    most_stages: int = MOST_STAGES,
    seed: int = 1,
    between: bool = True,
) -> list[Schedule]:
    """`unseen_schedules` for a table that is still to be measured on the widths `counts`.

    Without `between`, all widths lie on the grid (a compiled model must compile each new one).
    """
    rng = random.Random(seed)
    widths = sorted(set(counts) - {shape.tokens})
    found: list[Schedule] = []
    if not widths or not methods:
        return found
    for _ in range(50 * count):
        if len(found) == count:
            break
        stages = rng.randint(1, min(most_stages, shape.depth, len(widths)))
        pool = widths if not between or rng.random() < 0.5 else range(widths[0], widths[-1] + 1)
        chosen = sorted(rng.sample(list(pool), stages), reverse=True)
        layers = sorted(rng.sample(range(shape.depth), stages))
        schedule = Schedule(
            Stage(layer, (n - shape.protected) / (shape.tokens - shape.protected), *read_method(rng.choice(methods)))
            for layer, n in zip(layers, chosen, strict=True)
        )
        if schedule not in found:
            found.append(schedule)
    return found


def errors(
    shape: Shape,
    cells: Mapping[str, Cells],
    plans: Sequence[Plan],
    samples: Sequence[Samples],
    pace: Sequence[Sequence[float]],
) -> NDArray[np.float64]:
    """The relative errors of what `cells` say of plans that were timed, while timing goes on: `[plans]`, no sign.

    Args:
        shape: of the model.
        cells: so far, by `Plan.variant`.
        plans: those without a timing are left out.
        samples: timings of each, in ms.
        pace: of the machine at each timing.
    """
    conditions = dict.fromkeys(("batch_size", "dtype", "attention", "mode", "tokens", "device"))
    noise = NoiseRecord(spread=None, drift=None, others=None, noisy=False, why="")
    table = CostTable(
        status="measured", shape=shape, conditions=conditions, device={}, noise=noise, seconds=0, walks=0,
        **in_parts(cells),
    )  # fmt: skip
    timed = [
        (plan, float(np.median(np.divide(s.ms, p)))) for plan, s, p in zip(plans, samples, pace, strict=True) if len(s)
    ]
    return np.array([abs(table.predict(plan) / ms - 1) for plan, ms in timed])


def at_most(found: NDArray[np.float64]) -> float:
    """One-sided 95 % upper bound of the mean of some errors; infinite for fewer than three."""
    if len(found) < 3:
        return math.inf
    return float(found.mean() + stdtrit(len(found) - 1, 0.95) * found.std(ddof=1) / math.sqrt(len(found)))


def _by_precision(plans: Sequence[Plan | Schedule], error: NDArray[np.float64], own: str) -> dict[str, float]:
    """Means of errors by what plans do to all of the model, `own` for nothing; none where all do the same."""
    names = [Plan.of(plan).variant or own for plan in plans]
    if len(set(names)) < 2:
        return {}
    return {one: float(error[[name == one for name in names]].mean()) for one in dict.fromkeys(names)}


def compare(
    table: CostTable,
    schedules: Sequence[Plan | Schedule],
    samples: Sequence[Samples],
    pace: Sequence[Sequence[float]],
) -> CostTable:
    """Return the table with its error on `schedules` (or plans) stored, given the timings of their whole forwards.

    Errors are |predicted - measured| / measured of medians; the first schedule is the unpruned model, which the table
    has seen and which therefore does not count. A timing is divided by the machine's `pace` then, as the walks around
    it tell (1: as usual): a handful of timings on a machine that wanders by tenths says little of a per cent otherwise.

    Raises:
        PruneSearchError: if fewer than 3 schedules were unseen.
    """
    if len(schedules) < 4:
        raise PruneSearchError(f"`schedules >= 3` must hold for a validation, but got {max(len(schedules) - 1, 0)}")
    real = np.array([np.median(np.divide(s.ms, p)) for s, p in zip(samples, pace, strict=True)])
    predicted = np.array([table.predict(s) for s in schedules])
    error = (predicted / real - 1)[1:]
    validation = Validation(
        mape=float(np.abs(error).mean()),
        worst=float(np.abs(error).max()),
        bias=float(error.mean()),
        by_precision=_by_precision(schedules[1:], np.abs(error), str(table.conditions["dtype"])),
        rank_correlation=float(np.nan_to_num(spearmanr(predicted[1:], real[1:])[0])),  # NaN where all are equal
        unseen=len(schedules) - 1,
        schedules=[str(s) for s in schedules],
        predicted_ms=predicted.tolist(),
        measured_ms=real.tolist(),
        samples_us=[[round(ms * 1e3, 1) for ms in s.ms] for s in samples],
        pace=[[round(p, 4) for p in paces] for paces in pace],
    )
    return table.model_copy(update={"validation": validation})
