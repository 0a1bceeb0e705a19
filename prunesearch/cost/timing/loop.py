"""The timing loop: everything in random order, every round; nothing timed cell after cell.

A machine's speed wanders within seconds. What is timed one after the other carries that into the comparison; what is
timed interleaved shares it.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from prunesearch.core.events import passing
from prunesearch.cost.devices.kind import Clock
from prunesearch.cost.devices.others import OthersWatch
from prunesearch.cost.timing.samples import Noise, Samples, judge_noise

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Job:
    """One thing to time: `run`, after an untimed `prepare`."""

    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Measurement(Generic[K]):
    """The samples of every job, in the jobs' order; how quiet the machine was; seconds spent."""

    samples: dict[K, Samples]
    noise: Noise
    seconds: float


def measure(
    jobs: Mapping[K, Job],
    *,
    clock: Clock,
    sentinel: K,
    time_budget_s: float,
    min_rounds: int = 7,
    max_rounds: int = 1000,
    tolerance: float = 0.01,
    seed: int = 0,
    label: str = "measuring",
) -> Measurement[K]:
    """Time all jobs once a round, each round in a new random order, after one untimed round.

    Stops after the first round in which every median is known to `tolerance` (95 %, relative), or the budget is spent;
    never before `min_rounds`.

    Args:
        jobs: what to time; all of them run in every round, so that all see the same machine.
        clock: see `device.clock_for`.
        sentinel: the job whose timings tell how quiet the machine was.
        time_budget_s: wall time in seconds, warm-up included; `min_rounds` may exceed it.
        min_rounds: rounds in any case.
        max_rounds: rounds at most.
        tolerance: relative half-width of the medians' interval that is good enough.
        seed: of the order.
        label: for the progress bar on stderr, which appears after two seconds.
    """
    rng, order = random.Random(seed), list(jobs)
    samples: dict[K, Samples] = {key: Samples() for key in jobs}
    watch, start = OthersWatch(), time.monotonic()
    with undisturbed(), passing(label, time_budget_s) as tick:
        for round_ in range(-1, max_rounds):  # round -1 is the warm-up
            rng.shuffle(order)
            for key in order:
                took = _time_once(jobs[key], clock)
                if round_ >= 0:
                    samples[key].ms.append(took)
                tick()
            if round_ + 1 < min_rounds:
                continue
            spent = time.monotonic() - start
            next_end = spent * (round_ + 3) / (round_ + 2)
            if next_end > time_budget_s or all(s.median_error() < tolerance for s in samples.values()):
                break
    return Measurement(samples, judge_noise(samples[sentinel].ms, watch.share()), time.monotonic() - start)


def _time_once(job: Job, clock: Clock) -> float:
    job.prepare()
    begin = clock.mark()
    job.run()
    return clock.between_ms([begin, clock.mark()])[0]


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within the block: no garbage collection, no autograd."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with torch.inference_mode():
            yield
    finally:
        if enabled:
            gc.enable()
