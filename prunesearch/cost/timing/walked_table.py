"""A cost table of what runs op by op: walks that take forwards apart, with whole forwards in between for its error."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from prunesearch.core.plans.plan import Plan
from prunesearch.core.tables.registry import RUNTIMES
from prunesearch.cost.devices.device import kind_of
from prunesearch.cost.devices.kind import Clock, DeviceKind, Ready
from prunesearch.cost.shape import describe_shape, device_of
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.table_records import PROMISED, Cells
from prunesearch.cost.timing.build import build_table, typical_ms
from prunesearch.cost.timing.concurrency import background_load
from prunesearch.cost.timing.loop import Sitting
from prunesearch.cost.timing.modes import Eager, runner_for
from prunesearch.cost.timing.samples import Samples
from prunesearch.cost.timing.unseen import UNSEEN, compare, draw_unseen, mean_error
from prunesearch.cost.timing.walk import Walks
from prunesearch.cost.timing.wanted import TableWanted
from prunesearch.pruning.borders import borrowed

_LEAST_UNSEEN = 12  # schedules whose mean error says something of others
_TRIED = 2  # forwards that tell how long one takes


def measure_walked_table(model: nn.Module, inputs: Mapping[str, Tensor], wanted: TableWanted) -> CostTable:
    """Measure a table and its error in one session: `build_table` with whole forwards of unseen schedules in between.

    Interleaved, the stored error is that of adding pieces up; measured afterwards, it would also hold whatever the
    machine's speed did meanwhile. What was timed by a call that was interrupted counts.
    """
    device = device_of(inputs)
    kind = kind_of(device)
    with borrowed(model) as handle:
        shape = describe_shape(model, handle, inputs)
        sitting = Sitting(wanted.kept(handle, inputs, shape))
    ready = make_ready(kind, lambda: model(**inputs), device, wanted.patience_s, sitting)
    with background_load(model, inputs, wanted.concurrency - 1, wanted.mode), borrowed(model) as handle:
        timer = wanted.clock or kind.clock()
        runner = runner_for(wanted.mode, model, handle, inputs)
        random_ones = draw_unseen(
            shape,
            wanted.counts,
            wanted.methods,
            count=_unseen(runner, timer, wanted, sitting),
            seed=wanted.seed + 1,
            between=not RUNTIMES.entry(wanted.mode).compiles,
        )
        turns = itertools.cycle(wanted.variants)
        schedules = [Plan(), *(Plan(schedule, next(turns)) for schedule in random_ones)]
        plain = [place for place, plan in enumerate(schedules) if not plan.changes]
        samples = [Samples() for _ in schedules]
        when: list[list[int]] = [[] for _ in schedules]  # the walk before each timing
        turn = _turns(len(schedules), wanted.seed)
        all_walks: list[Walks] = []

        def note(place: int, ms: float, walk: int) -> None:
            samples[place].ms.append(ms)
            when[place].append(walk)

        def keep_up(walk: int) -> None:
            while sum(map(len, samples)) < walk:  # two, where a process ended between a walk and its whole forward
                place = next(turn)
                runner.prepare(schedules[place])
                begin = timer.mark()
                runner.run()
                took = timer.between_ms([begin, timer.mark()])[0]
                note(place, took, walk - 1)
                sitting.note("whole", place, took, walk - 1)

        for place, ms, walk in sitting.of("whole"):
            next(turn)
            note(place, ms, walk)

        def breaks_its_promise(cells: Cells) -> bool:
            return (
                mean_error(shape, cells, [schedules[i].schedule for i in plain], [samples[i] for i in plain]) > PROMISED
            )

        table = build_table(
            model,
            inputs,
            counts=wanted.counts,
            methods=wanted.methods,
            time_budget_s=wanted.time_budget_s,
            min_walks=wanted.min_rounds * len(schedules),
            between=keep_up,
            spoiled=lambda: bool(kind.slowed(device)),
            seed=wanted.seed,
            clock=timer,
            mode=wanted.mode,
            concurrency=wanted.concurrency,
            label=wanted.label,
            taken=all_walks.append,
            go_on=breaks_its_promise,
            variants=wanted.variants,
            sitting=sitting,
        )
    table.noise.waited_s = round(ready.waited_s, 1)
    if ready.doubt:
        table.noise.noisy, table.noise.why = True, "; ".join(filter(None, (table.noise.why, ready.doubt)))
    pace = typical_ms(all_walks[0]).pace
    return compare(table, schedules, samples, [[float(pace[i]) for i in walks] for walks in when])


def make_ready(
    kind: DeviceKind, run: Callable[[], object], device: torch.device, patience_s: float, sitting: Sitting
) -> Ready:
    """As the kind does; where others were interrupted while they waited, half as long each time, so that it ends."""
    impatient = len(sitting.of("waiting")) - len(sitting.of("ready"))
    sitting.note("waiting")
    sitting.write()
    ready = kind.make_ready(run, device, patience_s / 2**impatient)
    sitting.note("ready")
    return ready


def _turns(n: int, seed: int) -> Iterator[int]:
    """Each of `n` once, in random order, again and again."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample(range(n), n)


def _unseen(runner: Eager, timer: Clock, wanted: TableWanted, sitting: Sitting) -> int:
    """How many unseen schedules are timed: as many as were begun with."""
    if wanted.unseen is not None:
        return wanted.unseen
    for (before,) in sitting.of("unseen"):
        return int(before)
    count = _affordable(runner, timer, wanted)
    sitting.note("unseen", count)
    return count


def _affordable(runner: Eager, timer: Clock, wanted: TableWanted) -> int:
    """How many unseen schedules there is time for: fewer where a forward takes seconds.

    Each is timed `min_rounds` times, and has as many walks beside it.
    """
    runner.prepare(Plan())
    marks = [timer.mark()]
    for _ in range(_TRIED):
        runner.run()
        marks.append(timer.mark())
    took = min(timer.between_ms(marks))
    rounds = wanted.time_budget_s * 1e3 / max(took, 1e-3) / (2 * wanted.min_rounds)
    return max(_LEAST_UNSEEN, min(UNSEEN, int(rounds) - 1))
