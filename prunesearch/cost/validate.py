"""Whole forwards against the table: its error on schedules it has not seen, and latencies to report."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import spearmanr
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.schedule import Schedule, Stage, parse_method
from prunesearch.cost.build import conditions_of, noise_record
from prunesearch.cost.meter import Clock, Job, Measurement, clock_for, measure
from prunesearch.cost.samples import Samples
from prunesearch.cost.table import CostTable, Validation
from prunesearch.cost.walk import borrowed, device_of

UNSEEN = 24  # schedules for a validation
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

    Returns:
        The samples of each schedule, in the order given.

    Raises:
        PruneSearchError: if no schedule is given, or one does not fit the model.
    """
    measured = _time(model, inputs, schedules, time_budget_s, min_rounds, quiet, seed, label, clock)
    return list(measured.samples.values())


def _time(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    schedules: Sequence[Schedule],
    time_budget_s: float,
    min_rounds: int,
    quiet: bool,
    seed: int,
    label: str,
    clock: Clock | None,
) -> Measurement[int]:
    """`measure_schedules` with the noise; the first schedule is the sentinel."""
    if not schedules:
        raise PruneSearchError("at least one schedule must be given to be measured, but got none")
    with borrowed(model) as handle:
        jobs = {
            i: Job(run=lambda: model(**inputs), prepare=lambda schedule=schedule: handle.set(schedule))  # type: ignore[misc]
            for i, schedule in enumerate(schedules)
        }
        return measure(
            jobs,
            clock=clock or clock_for(device_of(inputs)),
            sentinel=0,
            time_budget_s=time_budget_s,
            min_rounds=min_rounds,
            seed=seed,
            label=label,
            quiet=quiet,
        )


def unseen_schedules(
    table: CostTable, methods: Sequence[str], *, count: int = UNSEEN, most_stages: int = MOST_STAGES, seed: int = 1
) -> list[Schedule]:
    """Random schedules within the table's grid: up to 4 stages, methods mixed, half of the widths off the points."""
    rng, shape = random.Random(seed), table.shape
    widths = sorted({cell.n for cell in table.cells.mlp} - {shape.tokens})
    found: list[Schedule] = []
    if not widths or not methods:
        return found
    for _ in range(50 * count):
        if len(found) == count:
            break
        stages = rng.randint(1, min(most_stages, shape.depth, len(widths)))
        pool = widths if rng.random() < 0.5 else range(widths[0], widths[-1] + 1)
        chosen = sorted(rng.sample(list(pool), stages), reverse=True)
        layers = sorted(rng.sample(range(shape.depth), stages))
        schedule = Schedule(
            Stage(layer, (n - shape.protected) / (shape.tokens - shape.protected), *parse_method(rng.choice(methods)))
            for layer, n in zip(layers, chosen, strict=True)
        )
        if schedule not in found:
            found.append(schedule)
    return found


def validate(
    table: CostTable,
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    schedules: Sequence[Schedule],
    *,
    time_budget_s: float = 15.0,
    min_rounds: int = 10,
    quiet: bool = True,
    seed: int = 1,
    clock: Clock | None = None,
) -> CostTable:
    """Measure `schedules` and the unpruned model end to end, and return the table with its error stored.

    Errors are |predicted - measured| / measured of medians, over `schedules` alone.

    Args:
        table: of this model under these conditions.
        model: see `measure_schedules`.
        inputs: the batch.
        schedules: schedules that the table has not seen (`unseen_schedules`).
        time_budget_s: see `measure_schedules`.
        min_rounds: see `measure_schedules`.
        quiet: no progress bar.
        seed: of the order.
        clock: None for the one that suits the device.

    Raises:
        PruneSearchError: if the conditions differ from those of the table, or fewer than 3 schedules are given.
    """
    if len(schedules) < 3:
        raise PruneSearchError(f"`schedules >= 3` must hold for a validation, but got {len(schedules)}")
    with borrowed(model) as handle:
        table.check_conditions(**conditions_of(handle, inputs, table.shape.tokens))
    everything = [Schedule(), *schedules]
    label = "validating cost table"
    measured = _time(model, inputs, everything, time_budget_s, min_rounds, quiet, seed, label, clock)
    real = np.array([s.median_ms for s in measured.samples.values()])
    predicted = np.array([table.predict(s) for s in everything])
    error = (predicted / real - 1)[1:]  # the table has seen the unpruned model
    validation = Validation(
        mape=float(np.abs(error).mean()),
        worst=float(np.abs(error).max()),
        bias=float(error.mean()),
        rank_correlation=float(np.nan_to_num(spearmanr(predicted[1:], real[1:])[0])),  # NaN where all are equal
        schedules=[str(s) for s in everything],
        predicted_ms=predicted.tolist(),
        measured_ms=real.tolist(),
        noise=noise_record(measured.noise),
        seconds=measured.seconds,
    )
    return table.model_copy(update={"validation": validation})
