"""Does it pay? Measured speed-ups beside those that MACs promise, ToMe's formula beside ours, and from which batch on.

Everything that is compared of a model and a batch size is timed interleaved, in one process: every schedule in every
mode, the unpruned model of that mode among them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from papers import ToMe, patched

from gpu.day import Step
from gpu.stand import Stand
from gpu.subjects import SUBJECTS, Inputs, Subject, constant_r, schedules
from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.counting.flops import closed_form_gmacs
from prunesearch.cost.devices.device import clock_for
from prunesearch.cost.shape import Shape, describe_shape
from prunesearch.cost.timing.loop import Job, measure
from prunesearch.cost.timing.modes import runner_for
from prunesearch.cost.timing.samples import Samples
from prunesearch.pruning.apply import Handle, apply_

BATCHES = (1, 8, 32, 128)
PAYS = 1.02  # times as fast: less is nobody's reason to prune
TOME = "ToMe's formula"


def eager_and_graph(stand: Stand, subject: Subject, rows: int) -> dict[str, Any]:
    """Every schedule, eager and from a graph, and ToMe's formula in both."""
    return _timed(stand, subject, rows, stand.modes)


def with_compile(stand: Stand, subject: Subject, rows: int) -> dict[str, Any]:
    """The halves of the blocks compiled, beside eager: what compiling gains, and what pruning gains then."""
    only = stand.size(("unpruned", "drop", "bipartite"), ("unpruned", "drop"))
    return _timed(stand, subject, rows, ("eager", "compile"), only)


@torch.inference_mode()
def _timed(
    stand: Stand, subject: Subject, rows: int, modes: tuple[str, ...], only: tuple[str, ...] = ()
) -> dict[str, Any]:
    model = subject.build(stand)
    inputs = subject.inputs(model, rows)
    with apply_(model, Schedule()) as handle, ExitStack() as formulas:
        shape = describe_shape(model, handle, inputs)
        wanted = {name: s for name, s in schedules(subject, shape).items() if not only or name in only}
        jobs: dict[tuple[str, str], Job] = {}
        plain = handle.encoder.family.layout
        for mode in modes:
            runner = runner_for(mode, model, handle, inputs)
            layout = handle.encoder.family.layout  # the compiled one's runner laid it out
            for name, schedule in wanted.items():
                jobs[mode, name] = Job(runner.run, partial(_prepare, handle, layout, runner, schedule))
                jobs[mode, name].prepare()
                jobs[mode, name].run()  # captures, compiles
            handle.lay_out(plain)
        tome = _tome_jobs(formulas, stand, subject, model, shape, inputs) if not only else {}
        samples = _measure(stand, {**jobs, **tome})
        gmacs = {name: closed_form_gmacs(handle.encoder, s, shape.tokens) for name, s in wanted.items()}
    found = [
        _row(
            mode,
            name,
            samples[mode, name],
            samples[mode, "unpruned"],
            gmacs["bipartite" if name == TOME else name],
            gmacs,
        )
        for mode, name in samples
    ]
    return {
        "batch": rows,
        "tokens": shape.tokens,
        "dtype": str(stand.dtypes[0]).removeprefix("torch."),
        "schedules": {name: str(schedule) for name, schedule in wanted.items()},
        "rows": found,
    }


def _prepare(handle: Handle, layout: Any, runner: Any, schedule: Schedule) -> None:
    if handle.encoder.family.layout is not layout:
        handle.lay_out(layout)
    runner.prepare(schedule)


def _tome_jobs(
    formulas: ExitStack, stand: Stand, subject: Subject, model: Any, shape: Shape, inputs: Inputs
) -> dict[tuple[str, str], Job]:
    """ToMe's formula on a copy of the model with the same weights, eager and from a graph."""
    if not subject.tome:
        return {}
    untouched = subject.build(stand)
    untouched.load_state_dict(model.state_dict())
    formulas.enter_context(patched(untouched.vit, ToMe([constant_r(shape)[0]] * shape.depth)))
    run = partial(untouched, **inputs)
    jobs = {("eager", TOME): Job(run)}
    if "cuda-graph" in stand.modes:
        jobs["cuda-graph", TOME] = Job(stand.replaying(run))
    return jobs


def _measure(stand: Stand, jobs: dict[tuple[str, str], Job]) -> dict[tuple[str, str], Samples]:
    first = next(iter(jobs))
    until = time.monotonic() + stand.size(0.3, 0.0)
    while time.monotonic() < until:  # clocks that sank while the model was built rise again
        jobs[first].prepare()
        jobs[first].run()
        stand.synchronize()
    found = measure(
        jobs, clock=clock_for(stand.device), sentinel=first, time_budget_s=stand.size(3.0, 0.5), min_rounds=7
    )
    return found.samples


def _row(
    mode: str, name: str, samples: Samples, unpruned: Samples, own: float, gmacs: dict[str, float]
) -> dict[str, Any]:
    speedup, promised = unpruned.median_ms / samples.median_ms, gmacs["unpruned"] / own
    return {
        "mode": mode, "schedule": name, "ms": samples.median_ms, "p10_ms": samples.p10_ms, "p90_ms": samples.p90_ms,
        "samples": len(samples), "speedup": speedup, "macs": promised, "of_macs": speedup / promised,
    }  # fmt: skip


def from_batch(results: list[dict[str, Any]]) -> dict[str, int | None]:
    """From which batch size on each schedule pays in each mode: the least from which all that were measured do.

    Args:
        results: of one model, at several batch sizes.
    """
    speedups: dict[str, dict[int, float]] = {}
    for result in results:
        for row in result["rows"]:
            if row["schedule"] != "unpruned":
                speedups.setdefault(f"{row['mode']}, {row['schedule']}", {})[result["batch"]] = row["speedup"]
    found: dict[str, int | None] = {}
    for key, by_batch in speedups.items():
        paying = itertools.takewhile(lambda b, by=by_batch: by[b] >= PAYS, sorted(by_batch, reverse=True))
        found[key] = min(paying, default=None)
    return found


def steps(stand: Stand) -> Iterator[Step]:
    """Models in order of interest; of each, the batch sizes between which the answer changes first."""
    for place, (name, subject) in enumerate(stand.size(SUBJECTS, dict(list(SUBJECTS.items())[:2])).items()):
        worth = 90.0 if place < 2 else 60.0
        for below, rows in enumerate(stand.size((8, 1, 32, 128), (1, 8))):
            yield Step(
                "pays", f"{name}, batch {rows}", worth - place - 0.1 * below, stand.size(6.0, 2.0),
                partial(eager_and_graph, stand, subject, rows),
            )  # fmt: skip
    for place, name in enumerate(stand.size(("deit-small", "bert-base"), ("deit-small",))):
        yield Step(
            "pays", f"{name}, batch 8, compiled", stand.size(55.0, 97.0) - place, stand.size(40.0, 30.0),
            partial(with_compile, stand, SUBJECTS[name], 8),
        )  # fmt: skip
