"""Energy on the device: windows over NVML's counter, gross and net of idle, with the rule that says what is valid.

Does the schedule that is fastest also use least? Latency and energy of the same schedules, in the same mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from scipy.stats import spearmanr

from gpu.day import Step
from gpu.stand import Stand
from gpu.subjects import SUBJECTS, Subject, schedules
from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.devices.counter import Unavailable
from prunesearch.cost.devices.device import clock_for
from prunesearch.cost.energy.result import IDLE_DRIFT_LIMIT, KEPT_LIMIT, SPREAD_LIMIT, TEMPERATURE_LIMIT_C, TICKS_LIMIT
from prunesearch.cost.energy.schedules import measure_schedule_energy
from prunesearch.cost.shape import describe_shape
from prunesearch.cost.timing.validate import measure_schedules
from prunesearch.pruning.apply import apply_

RULE = (
    f"valid: {TICKS_LIMIT} updates of the counter in every window, {KEPT_LIMIT} windows that did not throttle, which "
    f"differ by at most {SPREAD_LIMIT:.0%} (standard deviation) and {TEMPERATURE_LIMIT_C:.0f} degrees, idle power that "
    f"moved by at most {IDLE_DRIFT_LIMIT:.0%} of the power at work and lies below it"
)


@torch.inference_mode()
def of_schedules(stand: Stand, subject: Subject, rows: int) -> dict[str, Any]:
    """Latency and energy of a row of the batch under every schedule, in the mode that is deployed."""
    meter = stand.meter()
    if isinstance(meter, Unavailable):
        return {"unavailable": meter.reason}
    model, mode = subject.build(stand), stand.modes[-1]
    inputs = subject.inputs(model, rows)
    with apply_(model, Schedule()) as handle:
        every = schedules(subject, describe_shape(model, handle, inputs))
    every = {name: every[name] for name in stand.size(("unpruned", "drop", "fuse", "bipartite"), ("unpruned", "drop"))}
    try:
        run = measure_schedule_energy(meter, model, inputs, list(every.values()), mode=mode, repeats=2)
    finally:
        meter.counter.close()
    timed = measure_schedules(
        model,
        inputs,
        list(every.values()),
        mode=mode,
        time_budget_s=stand.size(3.0, 0.3),
        clock=clock_for(stand.device),
    )
    found = {
        name: {"schedule": str(schedule), "ms": samples.median_ms, **run.results[schedule].model_dump(mode="json")}
        for (name, schedule), samples in zip(every.items(), timed, strict=True)
    }
    return {
        "batch": rows, "mode": mode, "rule": RULE, "counter": run.source.model_dump(mode="json"), "idle_w": run.idle_w,
        "idle": [window.model_dump(mode="json") for window in run.idle], "seconds": run.seconds, "schedules": found,
        "compared": compare({name: (one["ms"], one["energy_mj"], one["net_mj"]) for name, one in found.items()}),
    }  # fmt: skip


def compare(found: dict[str, tuple[float, float, float]]) -> dict[str, Any]:
    """Whether latency and energy agree: the least of each, how alike they rank, and what no other beats in both.

    Args:
        found: ms of a batch, gross and net mJ of a row, by name.
    """
    ms, gross, net = ({name: values[i] for name, values in found.items()} for i in range(3))
    fronts = {
        what: [a for a in found if not any(ms[b] <= ms[a] and mj[b] <= mj[a] and b != a for b in found)]
        for what, mj in (("gross", gross), ("net", net))
    }
    return {
        "fastest": min(ms, key=ms.__getitem__), "least_gross": min(gross, key=gross.__getitem__),
        "least_net": min(net, key=net.__getitem__),
        "rank": float(spearmanr(list(ms.values()), list(gross.values()))[0]),
        "fronts": fronts,
    }  # fmt: skip


def steps(stand: Stand) -> Iterator[Step]:
    """One model, then others: the windows are long."""
    for worth, name, rows in stand.size(((70.0, "deit-small", 32), (40.0, "bert-base", 8)), ((70.0, "deit-small", 2),)):
        yield Step("energy", f"{name}, batch {rows}", worth, stand.size(75.0, 4.0),
                   partial(of_schedules, stand, SUBJECTS[name], rows))  # fmt: skip
