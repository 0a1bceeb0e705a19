"""The one door to a measured cost table, whatever runs the model."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from prunesearch.core.schedule import Schedule
from prunesearch.cost.devices.device import kind_of
from prunesearch.cost.devices.kind import Clock
from prunesearch.cost.shape import describe_shape, device_of
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.timing.build import build_table, typical_ms
from prunesearch.cost.timing.concurrency import background_load
from prunesearch.cost.timing.modes import runner_for
from prunesearch.cost.timing.samples import Samples
from prunesearch.cost.timing.unseen import UNSEEN, compare, draw_unseen
from prunesearch.cost.timing.walk import Walks
from prunesearch.pruning.borders import borrowed


def measure_table(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    counts: Sequence[int],
    methods: Sequence[str],
    time_budget_s: float = 45.0,
    seed: int = 0,
    clock: Clock | None = None,
    mode: str = "eager",
    unseen: int = UNSEEN,
    min_rounds: int = 5,
    patience_s: float = 0.0,
    concurrency: int = 1,
    label: str = "measuring cost table",
) -> CostTable:
    """Measure a table and its error in one session: `build_table` with whole forwards of unseen schedules in between.

    Interleaved, the stored error is that of adding pieces up; measured afterwards, it would also hold whatever the
    machine's speed did meanwhile. Other arguments as in `build_table`.

    Args:
        unseen: schedules for the error.
        min_rounds: timings of each of them in any case.
        patience_s: on a CPU, wait up to so many seconds for other processes to leave the cores alone.
        concurrency: forwards under way at once; others than the measured one run in processes of their own.
    """
    if mode == "onnxruntime":
        from prunesearch.cost.timing.runtime_table import measure_runtime_table

        return measure_runtime_table(
            model,
            inputs,
            counts=counts,
            methods=methods,
            time_budget_s=time_budget_s,
            seed=seed,
            patience_s=patience_s,
            concurrency=concurrency,
            label=label,
        )
    device = device_of(inputs)
    kind = kind_of(device)
    ready = kind.make_ready(lambda: model(**inputs), device, patience_s)
    with background_load(model, inputs, concurrency - 1, mode), borrowed(model) as handle:
        shape = describe_shape(model, handle, inputs)
        random_ones = draw_unseen(shape, counts, methods, count=unseen, seed=seed + 1, between=mode != "compile")
        schedules = [Schedule(), *random_ones]
        samples = [Samples() for _ in schedules]
        when: list[list[int]] = [[] for _ in schedules]  # the walk before each timing
        order: list[int] = []
        rng, timer = random.Random(seed), clock or kind.clock()
        runner = runner_for(mode, model, handle, inputs)
        all_walks: list[Walks] = []

        def time_one(walk: int) -> None:
            if not order:
                order.extend(rng.sample(range(len(schedules)), len(schedules)))
            place = order.pop()
            runner.prepare(schedules[place])
            begin = timer.mark()
            runner.run()
            samples[place].ms.extend(timer.between_ms([begin, timer.mark()]))
            when[place].append(walk - 1)

        table = build_table(
            model,
            inputs,
            counts=counts,
            methods=methods,
            time_budget_s=time_budget_s,
            min_walks=min_rounds * len(schedules),
            between=time_one,
            spoiled=lambda: bool(kind.slowed(device)),
            seed=seed,
            clock=timer,
            mode=mode,
            concurrency=concurrency,
            label=label,
            taken=all_walks.append,
        )
    table.noise.waited_s = round(ready.waited_s, 1)
    if ready.doubt:
        table.noise.noisy, table.noise.why = True, "; ".join(filter(None, (table.noise.why, ready.doubt)))
    _, pace = typical_ms(all_walks[0])
    return compare(table, schedules, samples, [[float(pace[i]) for i in walks] for walks in when])
