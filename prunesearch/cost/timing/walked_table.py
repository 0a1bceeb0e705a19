"""A cost table of what runs op by op: walks that take forwards apart, with whole forwards in between for its error."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import RUNTIMES
from prunesearch.cost.devices.device import kind_of
from prunesearch.cost.devices.kind import Clock, DeviceKind, Ready
from prunesearch.cost.shape import Shape, describe_shape, device_of
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.table_records import PROMISED
from prunesearch.cost.timing.build import Forms, all_cells, build_table, forms_of, typical_ms
from prunesearch.cost.timing.concurrency import background_load
from prunesearch.cost.timing.loop import Sitting
from prunesearch.cost.timing.modes import Eager, runner_for
from prunesearch.cost.timing.prompt_walks import with_some_in_tower
from prunesearch.cost.timing.samples import Samples
from prunesearch.cost.timing.unseen import UNSEEN, at_most, compare, draw_unseen, errors
from prunesearch.cost.timing.walk import Walks, some_halves
from prunesearch.cost.timing.wanted import TableWanted
from prunesearch.pruning.borders import borrowed

_LEAST_UNSEEN = 12  # schedules whose mean error says something of others
_LEAST_ROUNDS = 3  # timings of each, where forwards are slow
_WATCHED = 3  # one schedule more is watched for so many that are judged by
_TRIED = 2  # forwards that tell how long one takes


def measure_walked_table(model: nn.Module, inputs: Mapping[str, Tensor], wanted: TableWanted) -> CostTable:
    """Measure a table and its error in one session: `build_table` with whole forwards of unseen schedules in between.

    Interleaved, the stored error is that of adding pieces up; measured afterwards, it would also hold whatever the
    machine's speed did meanwhile. When to stop is read off schedules of their own: an error that is looked at until it
    is small would be stored at its luckiest. What was timed by a call that was interrupted counts.
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
        judged, rounds = _begun_with(runner, timer, wanted, sitting)
        plans, judged = _plans(shape, wanted, judged)
        forms = forms_of(shape, wanted.options)
        forwards = _Forwards(runner, timer, shape, forms, plans, judged, wanted.seed, sitting)
        all_walks: list[Walks] = []
        table = build_table(
            model,
            inputs,
            counts=wanted.counts,
            methods=wanted.methods,
            time_budget_s=wanted.time_budget_s,
            min_walks=rounds * len(forwards.plans),
            between=forwards.keep_up,
            spoiled=lambda: bool(kind.slowed(device)),
            seed=wanted.seed,
            clock=timer,
            mode=wanted.mode,
            concurrency=wanted.concurrency,
            label=wanted.label,
            taken=all_walks.append,
            enough=None if wanted.error is None else forwards.within(wanted.error),
            go_on=lambda walks: float(forwards.watched(walks).mean()) > PROMISED,
            variants=wanted.variants,
            sitting=sitting,
            options=wanted.options,
            in_tower=wanted.in_tower,
        )
    table.noise.waited_s = round(ready.waited_s, 1)
    if ready.doubt:
        table.noise.noisy, table.noise.why = True, "; ".join(filter(None, (table.noise.why, ready.doubt)))
    return forwards.compared(table, typical_ms(all_walks[0]).pace)


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


def _plans(shape: Shape, wanted: TableWanted, judged: int) -> tuple[list[Plan], int]:
    """The unpruned model, plans that the stored error is of, and after them those that say when to stop.

    Beside them, how many the error is of: fewer than asked for in a space that has few schedules, all in a tiny one.
    """
    drawn: list[Schedule] = draw_unseen(
        shape,
        wanted.counts,
        wanted.methods,
        count=judged + _watched_beside(judged),
        seed=wanted.seed + 1,
        between=not RUNTIMES.entry(wanted.mode).compiles,
    )
    drawn = with_some_in_tower(shape, drawn, wanted.counts, wanted.in_tower, wanted.seed + 3)
    turns = itertools.cycle(wanted.variants)
    few = len(drawn) - _WATCHED if len(drawn) >= 2 * _WATCHED else len(drawn)
    rng = random.Random(wanted.seed + 2)
    plans = [Plan(schedule, (*next(turns), *some_halves(wanted.options, schedule, rng))) for schedule in drawn]
    return [Plan(), *plans], min(judged, few)


def _watched_beside(judged: int) -> int:
    return max(_WATCHED, judged // _WATCHED)


class _Forwards:
    """Whole forwards of plans that the table does not see, one after each walk, in random order.

    Args:
        runner: of the model.
        timer: of its device.
        shape: of the model.
        forms: of its halves, see `forms_of`.
        plans: the unpruned model first.
        judged: so many of those after it are what the stored error is of; the others say when to stop.
        seed: of the order.
        sitting: what other processes timed of them, and where timings are kept.
    """

    def __init__(
        self,
        runner: Eager,
        timer: Clock,
        shape: Shape,
        forms: Forms,
        plans: Sequence[Plan],
        judged: int,
        seed: int,
        sitting: Sitting,
    ) -> None:
        self.runner, self.timer, self.shape, self.forms, self.plans = runner, timer, shape, forms, plans
        self._judged, self._watched = slice(0, 1 + judged), slice(1 + judged, None)
        self._samples = [Samples() for _ in plans]
        self._when: list[list[int]] = [[] for _ in plans]  # the walk before each timing
        self._turn, self._sitting = _turns(len(plans), seed), sitting
        for place, ms, walk in sitting.of("whole"):
            next(self._turn)
            self._note(place, ms, walk)

    def keep_up(self, walk: int) -> None:
        """Time the next plan, after so many walks."""
        while sum(map(len, self._samples)) < walk:  # two, where a process ended between a walk and its whole forward
            place = next(self._turn)
            self.runner.prepare(self.plans[place])
            begin = self.timer.mark()
            self.runner.run()
            took = self.timer.between_ms([begin, self.timer.mark()])[0]
            self._note(place, took, walk - 1)
            self._sitting.note("whole", place, took, walk - 1)

    def _note(self, place: int, ms: float, walk: int) -> None:
        self._samples[place].ms.append(ms)
        self._when[place].append(walk)

    def watched(self, walks: Walks) -> NDArray[np.float64]:
        """The errors, so far, of the plans that say when to stop."""
        typical, part = typical_ms(walks), self._watched
        pace = self._pace(typical.pace)[part]
        found = errors(self.shape, all_cells(walks, typical, self.forms), self.plans[part], self._samples[part], pace)
        return found if len(found) else np.zeros(1)

    def within(self, error: float) -> Callable[[Walks], bool]:
        """What says of walks whether the mean error of what they make is surely no more."""
        return lambda walks: at_most(self.watched(walks)) <= error

    def compared(self, table: CostTable, pace: NDArray[np.float64]) -> CostTable:
        """The table with its error on the plans that it is judged by."""
        part = self._judged
        return compare(table, self.plans[part], self._samples[part], self._pace(pace)[part])

    def _pace(self, pace: NDArray[np.float64]) -> list[list[float]]:
        return [[float(pace[i]) for i in walks] for walks in self._when]


def _turns(n: int, seed: int) -> Iterator[int]:
    """Each of `n` once, in random order, again and again."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample(range(n), n)


def _begun_with(runner: Eager, timer: Clock, wanted: TableWanted, sitting: Sitting) -> tuple[int, int]:
    """As `_affordable`; what another process began with stays."""
    for judged, rounds in sitting.of("affordable"):
        return judged, rounds
    found = _affordable(runner, timer, wanted)
    sitting.note("affordable", *found)
    return found


def _affordable(runner: Eager, timer: Clock, wanted: TableWanted) -> tuple[int, int]:
    """How many schedules to judge the table by, and how often each is timed: fewer where a forward takes seconds.

    Each has as many walks beside it.
    """
    runner.prepare(Plan())
    marks = [timer.mark()]
    for _ in range(_TRIED):
        runner.run()
        marks.append(timer.mark())
    took = min(timer.between_ms(marks))
    forwards = wanted.time_budget_s * 1e3 / max(took, 1e-3) / 2
    most = UNSEEN if wanted.unseen is None else wanted.unseen
    every = 1 + _LEAST_UNSEEN + _watched_beside(_LEAST_UNSEEN)
    rounds = min(wanted.min_rounds, max(_LEAST_ROUNDS, int(forwards / every)))
    if wanted.unseen is not None:
        return wanted.unseen, rounds
    fit = int(forwards / rounds * _WATCHED / (_WATCHED + 1)) - 1
    return max(_LEAST_UNSEEN, min(most, fit)), rounds
