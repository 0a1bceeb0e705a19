"""Whole forwards against the table: its error on schedules it has not seen, and latencies to report."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.schedule import Schedule, Stage, parse_method
from prunesearch.cost.devices.gpu_state import is_throttled, read_gpu_state, settle
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.table_records import Shape, Validation
from prunesearch.cost.timing.build import build_table, describe_shape, typical_ms
from prunesearch.cost.timing.clock import Clock, Job, clock_for, measure
from prunesearch.cost.timing.concurrency import background_load
from prunesearch.cost.timing.modes import runner_for
from prunesearch.cost.timing.samples import Samples, wait_until_quiet
from prunesearch.cost.timing.walk import Walks, borrowed, device_of

UNSEEN = 30  # schedules for a validation
MOST_STAGES = 4


def measure_schedules(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    schedules: Sequence[Schedule],
    *,
    time_budget_s: float = 20.0,
    min_rounds: int = 10,
    quiet: bool = True,
    seed: int = 0,
    label: str = "measuring schedules",
    clock: Clock | None = None,
    mode: str = "eager",
    concurrency: int = 1,
) -> list[Samples]:
    """Time whole forwards of schedules, interleaved in random order; switching schedules is outside the timing.

    Args:
        model: a supported model, or a module around one; left as it was.
        inputs: a batch on the model's device.
        schedules: what to time.
        time_budget_s: wall time in seconds; stops earlier when every median is known to 1 %.
        min_rounds: timings of each schedule in any case.
        quiet: no progress bar on stderr.
        seed: of the order.
        label: of the progress bar.
        clock: None for the one that suits the device.
        mode: how forwards are executed, a name in `modes.MODES`.
        concurrency: forwards under way at once, see `concurrency.background_load`.

    Returns:
        The samples of each schedule, in the order given.

    Raises:
        PruneSearchError: if no schedule is given, or one does not fit the model.
    """
    if not schedules:
        raise PruneSearchError("at least one schedule must be given to be measured, but got none")
    with background_load(model, inputs, concurrency - 1, mode), borrowed(model) as handle:
        runner = runner_for(mode, model, handle, inputs)
        jobs = {
            i: Job(run=runner.run, prepare=partial(runner.prepare, schedule)) for i, schedule in enumerate(schedules)
        }
        measured = measure(
            jobs,
            clock=clock or clock_for(device_of(inputs)),
            sentinel=0,
            time_budget_s=time_budget_s,
            min_rounds=min_rounds,
            seed=seed,
            label=label,
            quiet=quiet,
        )
    return list(measured.samples.values())


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
            Stage(layer, (n - shape.protected) / (shape.tokens - shape.protected), *parse_method(rng.choice(methods)))
            for layer, n in zip(layers, chosen, strict=True)
        )
        if schedule not in found:
            found.append(schedule)
    return found


def measure_table(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    counts: Sequence[int],
    methods: Sequence[str],
    time_budget_s: float = 45.0,
    quiet: bool = False,
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
            quiet=quiet,
            seed=seed,
            patience_s=patience_s,
            concurrency=concurrency,
            label=label,
        )
    device = device_of(inputs)
    waited = wait_until_quiet(patience_s) if device.type == "cpu" else 0.0
    settled = _settle(model, inputs) if device.type == "cuda" else ""
    with background_load(model, inputs, concurrency - 1, mode), borrowed(model) as handle:
        shape = describe_shape(model, handle, inputs)
        random_ones = draw_unseen(shape, counts, methods, count=unseen, seed=seed + 1, between=mode != "compile")
        schedules = [Schedule(), *random_ones]
        samples = [Samples() for _ in schedules]
        when: list[list[int]] = [[] for _ in schedules]  # the walk before each timing
        order: list[int] = []
        rng, timer = random.Random(seed), clock or clock_for(device_of(inputs))
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
            spoiled=(lambda: is_throttled(read_gpu_state(device))) if device.type == "cuda" else lambda: False,
            quiet=quiet,
            seed=seed,
            clock=timer,
            mode=mode,
            concurrency=concurrency,
            label=label,
            taken=all_walks.append,
        )
    table.noise.waited_s = round(waited, 1)
    if settled:
        table.noise.noisy, table.noise.why = True, "; ".join(filter(None, (table.noise.why, settled)))
    _, pace = typical_ms(all_walks[0])
    return compare(table, schedules, samples, [[float(pace[i]) for i in walks] for walks in when])


def _settle(model: nn.Module, inputs: Mapping[str, Tensor]) -> str:
    """Work until the GPU's clock is steady; returns why it is not, or an empty text."""
    device = device_of(inputs)
    with torch.inference_mode():
        done = settle(
            lambda: model(**inputs), lambda: read_gpu_state(device), synchronize=lambda: torch.cuda.synchronize(device)
        )
    return done.why


def compare(
    table: CostTable,
    schedules: Sequence[Schedule],
    samples: Sequence[Samples],
    pace: Sequence[Sequence[float]],
) -> CostTable:
    """Return the table with its error on `schedules` stored, given the timings of their whole forwards.

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
        rank_correlation=float(np.nan_to_num(spearmanr(predicted[1:], real[1:])[0])),  # NaN where all are equal
        unseen=len(schedules) - 1,
        schedules=[str(s) for s in schedules],
        predicted_ms=predicted.tolist(),
        measured_ms=real.tolist(),
        samples_us=[[round(ms * 1e3, 1) for ms in s.ms] for s in samples],
        pace=[[round(p, 4) for p in paces] for paces in pace],
    )
    return table.model_copy(update={"validation": validation})
