"""How many requests a second a model serves while 95 of 100 are answered in time, unpruned and pruned.

Requests arrive at random (Poisson); a server that is free takes all that wait, up to the largest batch, fills them up
to the next batch size that it has, and answers them together. The greatest rate is found by playing arrivals through
the measured times of every batch size; then the server really runs at a share of it, and its p95 is told beside.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from gpu.day import Step
from gpu.stand import Stand
from gpu.subjects import SUBJECTS, Subject, schedules
from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.devices.device import clock_for
from prunesearch.cost.shape import describe_shape
from prunesearch.cost.timing.loop import Job, measure
from prunesearch.pruning.apply import apply_

SHARE = 0.8  # of the greatest rate, at which the server really runs
BOUND = (4.0, 40.0)  # times what one row takes unpruned; on the stand-in, whose times are mostly other processes
_REQUESTS = 4000


def arrivals(rate: float, count: int, seed: int = 0) -> list[float]:
    """Seconds at which `count` requests come, `rate` a second."""
    rng, now, found = random.Random(seed), 0.0, []
    for _ in range(count):
        now += rng.expovariate(rate)
        found.append(now)
    return found


def serve(
    times: Sequence[float],
    sizes: Sequence[int],
    run: Callable[[int], object],
    clock: Callable[[], float],
    wait: Callable[[float], object],
) -> list[float]:
    """Answer requests in the order in which they come; how long each took from its arrival, in seconds.

    Args:
        times: arrivals in seconds after the start, ascending.
        sizes: batch sizes that the server has, ascending.
        run: runs a batch of a size, until it is done.
        clock: seconds now.
        wait: waits until a time on the clock.
    """
    start, done, took = clock(), 0, []
    while done < len(times):
        if clock() - start < times[done]:
            wait(start + times[done])
        now = clock() - start
        waiting = done
        while waiting < len(times) and times[waiting] <= now and waiting - done < sizes[-1]:
            waiting += 1
        waiting = max(waiting, done + 1)  # a clock may come a hair early
        run(next(size for size in sizes if size >= waiting - done))
        ended = clock() - start
        took += [ended - at for at in times[done:waiting]]
        done = waiting
    return took


class Played:
    """A clock that moves as batches take their measured times."""

    def __init__(self, seconds: Mapping[int, Sequence[float]], seed: int = 0) -> None:
        self.seconds, self.now, self.random = seconds, 0.0, random.Random(seed)

    def __call__(self) -> float:
        """Seconds now."""
        return self.now

    def wait(self, until: float) -> None:
        """Let time pass."""
        self.now = max(self.now, until)

    def run(self, size: int) -> None:
        """A batch."""
        self.now += self.random.choice(self.seconds[size])


def p95_played(rate: float, seconds: Mapping[int, Sequence[float]], requests: int = _REQUESTS) -> float:
    """The 95th percentile of answers at a rate, in seconds, by the measured times of each batch size."""
    played = Played(seconds)
    took = serve(arrivals(rate, requests), sorted(seconds), played.run, played, played.wait)
    return float(np.quantile(took, 0.95))


def greatest_rate(seconds: Mapping[int, Sequence[float]], bound_s: float) -> float:
    """The greatest rate whose p95 is within the bound, to 1 %; 0 if none is."""
    most = max(size / float(np.median(took)) for size, took in seconds.items())
    low, high = 0.0, most
    while high - low > 0.01 * most:
        rate = (low + high) / 2
        low, high = (rate, high) if p95_played(rate, seconds) <= bound_s else (low, rate)
    return low


@torch.inference_mode()
def under_a_bound(stand: Stand, subject: Subject) -> dict[str, Any]:
    """The greatest rate of each schedule within the same bound, and what the server really does near it."""
    model = subject.build(stand)
    sizes = stand.size((1, 2, 4, 8, 16, 32, 64), (1, 2, 4))
    inputs = {rows: subject.inputs(model, rows) for rows in sizes}
    found: dict[str, Any] = {"batch_sizes": list(sizes)}
    with apply_(model, Schedule()) as handle:
        every = schedules(subject, describe_shape(model, handle, inputs[1]))
        runs: dict[tuple[str, int], Callable[[], Any]] = {}
        for name in ("unpruned", "drop", "bipartite"):
            handle.set(every[name])
            for rows in sizes:
                run = partial(_logits, model, inputs[rows])
                runs[name, rows] = stand.replaying(run) if "cuda-graph" in stand.modes else partial(
                    _under, handle, every[name], run
                )  # fmt: skip
        jobs = {key: Job(run) for key, run in runs.items()}
        timed = measure(
            jobs, clock=clock_for(stand.device), sentinel=("unpruned", 1), min_rounds=20,
            time_budget_s=stand.size(4.0, 0.5),
        ).samples  # fmt: skip
        bound_s = stand.size(*BOUND) * timed["unpruned", 1].median_ms / 1e3
        found["bound_ms"] = 1e3 * bound_s
        for name in ("unpruned", "drop", "bipartite"):
            seconds = {rows: [ms / 1e3 for ms in timed[name, rows].ms] for rows in sizes}
            rate = greatest_rate(seconds, bound_s)
            found[name] = {
                "median_ms": {rows: timed[name, rows].median_ms for rows in sizes},
                "greatest_rate": rate,
                **({} if rate == 0 else _really(stand, runs, name, sizes, SHARE * rate, seconds)),
            }
    return found


def _really(
    stand: Stand,
    runs: Mapping[tuple[str, int], Callable[[], Any]],
    name: str,
    sizes: Sequence[int],
    rate: float,
    seconds: Mapping[int, Sequence[float]],
) -> dict[str, Any]:
    def run(rows: int) -> None:
        runs[name, rows]()
        stand.synchronize()

    count = max(50, int(rate * stand.size(1.5, 0.3)))
    took = serve(arrivals(rate, count, seed=1), sizes, run, time.perf_counter, _spin)
    return {
        "rate": rate, "requests": count, "p95_ms": 1e3 * float(np.quantile(took, 0.95)),
        "p95_played_ms": 1e3 * p95_played(rate, seconds),
    }  # fmt: skip


def _spin(until: float) -> None:
    while time.perf_counter() < until:
        pass


def _logits(model: Any, inputs: Mapping[str, Any]) -> Any:
    return model(**inputs).logits


def _under(handle: Any, schedule: Schedule, run: Callable[[], Any]) -> Any:
    if handle.schedule != schedule:
        handle.set(schedule)
    return run()


def steps(stand: Stand) -> Iterator[Step]:
    """Two models."""
    for place, name in enumerate(stand.size(("deit-small", "bert-base"), ("deit-small",))):
        yield Step(
            "serving", name, stand.size((85.0, 65.0), (85.0,))[place], stand.size(20.0, 3.0),
            partial(under_a_bound, stand, SUBJECTS[name]),
        )  # fmt: skip
