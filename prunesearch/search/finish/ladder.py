"""The ladder: what one line of each would give the UNPRUNED model here, and what the best plan adds on top of it there.

Every runtime that the device has, in every precision that it can make, is timed interleaved in one run, the unpruned
model and the plan's stages; and the quality of each is measured on the same rows.
"""

from __future__ import annotations

import copy
import json
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from prunesearch.core.appended import Appended
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import say
from prunesearch.core.files import write_text_atomic
from prunesearch.core.plans.plan import Change, Plan, variant_of
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import RUNTIMES
from prunesearch.cost.devices.device import clock_for
from prunesearch.cost.graphs.graph_files import answers_of
from prunesearch.cost.shape import device_of
from prunesearch.cost.timing.loop import Job, measure
from prunesearch.cost.timing.modes import Eager, runner_for
from prunesearch.pruning.borders import borrowed
from prunesearch.search.costs.bench import Bench
from prunesearch.study.front_records import Rung
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import EvalSet
from prunesearch.tasks.quality import inputs_to_calibrate, quality_of, unjudged

_ROWS = 128  # holdout rows of the qualities, at most
_CALIBRATED = 32  # rows for a quantiser: a rung is a guide, and the front is judged after more
_ROUNDS = 7
_LONGEST = 160  # characters of a reason
_TO_MAKE_S = 15.0  # what making the graphs of a runtime may take: with less left, it is skipped
_INTERRUPTED = "the run was interrupted while it was made"
Key = tuple[str, str, bool]  # runtime, `Plan.variant`, whether pruned


@dataclass
class _Made:
    """What is ready to be timed, and what is not, with the reason."""

    jobs: dict[Key, Job] = field(default_factory=dict)
    judges: dict[Key, Callable[[EvalSet, Mapping[str, int]], float]] = field(default_factory=dict)
    skipped: list[Rung] = field(default_factory=list)

    def skip(self, runtime: str, precision: str | None, why: str) -> None:
        """Note what is not timed, or not judged."""
        rung = Rung(runtime=runtime, precision=precision, skipped=why[:_LONGEST])
        if rung not in self.skipped:
            self.skipped.append(rung)


def climb(
    bench: Bench, variants: Mapping[str, tuple[Change, ...]], best: Plan | None, path: Path, rows: int = _ROWS
) -> list[Rung]:
    """The rungs, or those that were kept from before at `path`, of the same plan on the same machine.

    A run that was interrupted here goes on with what it had timed. What was interrupted while runtimes were made ready
    takes half as long for it each time, so that it ends; those that are not ready by then are skipped.

    Args:
        bench: of a device at hand; half of the time for a cost table is spent on making, a tenth on timing, at most.
        variants: the precisions that torch has here, by `Plan.variant`.
        best: whose stages are put on top; None: nothing is.
        path: where the rungs are kept.
        rows: of the holdout split, which qualities are of.
    """
    machine = platform.node(), torch.__version__, torch.get_num_threads()
    text = json.dumps([None if best is None else best.to_dict(), list(variants), *machine])
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.get("plan") == text:
            return [Rung(**rung) for rung in kept["rungs"]]
    begun = Appended(path.with_suffix(".part"), text)
    interrupted = begun.found.count("making") - begun.found.count("made")
    begun.add("making")
    begun.flush()
    with ExitStack() as stack:
        made = _make(bench, variants, Schedule() if best is None else best.schedule, stack, interrupted)
        begun.add("made")
        begun.flush()
        timed = Appended(path.with_suffix(".timed.part"), [text, [list(key) for key in made.jobs]])
        rungs = _measured(bench, made, timed, min(_ROWS, rows)) if made.jobs else []
    rungs += made.skipped
    data = {"plan": text, "rungs": [rung.model_dump(mode="json") for rung in rungs]}
    write_text_atomic(path, json.dumps(data, indent=1) + "\n")
    begun.remove()
    timed.remove()
    return rungs


def _make(
    bench: Bench, variants: Mapping[str, tuple[Change, ...]], best: Schedule, stack: ExitStack, interrupted: int
) -> _Made:
    task, made = bench.task, _Made()
    inputs = task.timing_inputs(bench.config.batch_size)
    device, deadline = device_of(inputs), time.monotonic() + bench.config.table_seconds / 2 / 2**interrupted
    for mode in sorted(RUNTIMES, key=_patience):
        row = RUNTIMES.entry(mode)
        if not row.speeds or (row.devices and device.type not in row.devices):
            continue
        if row.makes and deadline - time.monotonic() < _TO_MAKE_S:
            made.skip(mode, None, _INTERRUPTED if interrupted else "no time was left: a longer --table-time gives it")
            continue
        model = task.model if row.by_torch else task.answering
        model = copy.deepcopy(model) if row.compiles else model
        handle = stack.enter_context(borrowed(model))
        changes: tuple[Change, ...] = ()
        try:
            runner = runner_for(mode, model, handle, inputs)
            if not row.by_torch:
                runner.calibration = inputs_to_calibrate(task, inputs, _CALIBRATED)
            for changes in runner.offered(variants.values()):
                _put(made, task, mode, runner, changes, best)
        except Exception as error:  # a compiler, a package or an operator that is not here may raise anything
            made.skip(mode, variant_of(changes) or None, _first_line(error))
    return made


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _patience(mode: str) -> int:
    """What is ready at once comes first, what compiles last."""
    row = RUNTIMES.entry(mode)
    return int(row.makes) + int(row.compiles)


def _put(made: _Made, task: Task, mode: str, runner: Eager, changes: tuple[Change, ...], best: Schedule) -> None:
    """Make ready a runner's forwards in one precision, unpruned and pruned."""
    jobs: dict[Key, Job] = {}
    for pruned in (False, True) if len(best) else (False,):
        plan = Plan(best if pruned else Schedule(), changes)
        with torch.inference_mode():
            runner.prepare(plan)
            runner.run()
        jobs[mode, plan.variant, pruned] = Job.among_runtimes(runner.run, partial(runner.prepare, plan))
        made.judges[mode, plan.variant, pruned] = partial(_judge, task, mode, runner, plan)
    made.jobs |= jobs


def _judge(task: Task, mode: str, runner: Eager, plan: Plan, split: EvalSet, fixed: Mapping[str, int]) -> float:
    """The quality of what a runner makes of a plan, which it has prepared.

    A kind of task may run its model again (to write a text), or ask it what its tokens stand for: in torch that is the
    runner's own, under the plan. `fixed`: see `quality_of`.

    Raises:
        PruneSearchError: if the task cannot judge what is not its model.
    """
    graph, other = not RUNTIMES.entry(mode).by_torch, runner.model is not task.model
    with torch.inference_mode(), nullcontext() if graph else runner.handle.under(plan):
        if graph or (other and task.scoring.runs_model):
            why = unjudged(task, tuple(answers_of(runner.run())))
            if why:
                raise PruneSearchError(why)
        mine = replace(task, model=runner.model) if other and not graph else task
        return quality_of(mine, runner.forward_of(plan), split, fixed if graph else {}).value


def _measured(bench: Bench, made: _Made, timed: Appended, rows: int) -> list[Rung]:
    """Time everything interleaved, and measure the qualities."""
    config, task = bench.config, bench.task
    inputs = task.timing_inputs(config.batch_size)
    first = next(iter(made.jobs))
    found = measure(
        made.jobs,
        clock=clock_for(device_of(inputs)),
        sentinel=first,
        time_budget_s=config.table_seconds / 10,
        min_rounds=_ROUNDS,
        tolerance=config.promise.latency_error,
        seed=config.seed,
        label="measuring the ladder",
        keep=timed,
    )
    ms = {key: samples.median_ms for key, samples in found.samples.items()}
    split = task.holdout.take(rows)
    fixed = {name: inputs[name].shape[-1] for name in split.padding if name in inputs}
    known = {tuple(record[1]): record[2] for record in timed.found if record[0] == "quality"}
    quality: dict[Key, float] = {}
    for key, judge in made.judges.items():
        if key not in ms:
            continue
        if key not in known:
            try:
                known[key] = judge(split, fixed)
            except Exception as error:  # a kernel, or a metric of the caller's, may raise anything
                made.skip(key[0], key[1] or None, f"its quality: {_first_line(error)}")
                continue
            timed.add(["quality", list(key), known[key]])
            timed.flush()
        quality[key] = known[key]
    rungs = []
    for runtime, variant, pruned in ms:
        if pruned:
            continue
        mine, on_top = (runtime, variant, False), (runtime, variant, True)
        rungs.append(
            Rung(
                runtime=runtime,
                precision=variant or config.dtype,
                ms=ms[mine],
                speedup=ms[first] / ms[mine],
                quality=quality.get(mine),
                plan_ms=ms.get(on_top),
                plan_quality=quality.get(on_top),
                rows=split.n,
            )
        )
    return rungs


def say_ladder(rungs: list[Rung]) -> None:
    """The fastest rung in a line."""
    known = [rung for rung in rungs if rung.speedup is not None]
    if known:
        best = max(known, key=lambda rung: rung.speedup or 0.0)
        say(f"ladder: unpruned, {RUNTIMES.entry(best.runtime).shown} in {best.precision} is {best.speedup:.2f}x")
