"""Whole forwards against the table: its error on schedules it has not seen, and latencies to report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from prunesearch.core.appended import Appended
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.devices.device import clock_for
from prunesearch.cost.devices.kind import Clock
from prunesearch.cost.shape import device_of
from prunesearch.cost.timing.concurrency import background_load
from prunesearch.cost.timing.loop import Job, measure
from prunesearch.cost.timing.modes import runner_for
from prunesearch.cost.timing.samples import Samples
from prunesearch.pruning.borders import borrowed


def measure_schedules(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    schedules: Sequence[Plan | Schedule],
    *,
    time_budget_s: float = 20.0,
    min_rounds: int = 10,
    seed: int = 0,
    label: str = "measuring schedules",
    clock: Clock | None = None,
    mode: str = "eager",
    concurrency: int = 1,
    keep: Path | None = None,
    tolerance: float = 0.01,
) -> list[Samples]:
    """Time whole forwards of schedules, interleaved in random order; switching schedules is outside the timing.

    Args:
        model: a supported model, or a module around one; left as it was.
        inputs: a batch on the model's device.
        schedules: what to time, plans among them.
        time_budget_s: wall time in seconds; stops earlier when every median is known to `tolerance`.
        min_rounds: timings of each schedule in any case.
        seed: of the order.
        label: of the progress bar.
        clock: None for the one that suits the device.
        mode: how forwards are executed, a name in `RUNTIMES`.
        concurrency: forwards under way at once, see `concurrency.background_load`.
        keep: file of what was timed, written as it comes: the same call goes on where one was interrupted. Whoever
            keeps what comes of it takes it away.
        tolerance: half the 95 % interval of a median, relative to it.

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
            keep=Appended(keep, {"schedules": [str(s) for s in schedules], "mode": mode, "concurrency": concurrency}),
            tolerance=tolerance,
        )
    return list(measured.samples.values())
