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
from typing import Any, Generic, TypeVar

import torch

from prunesearch.core.appended import Appended
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

    @classmethod
    def among_runtimes(cls, run: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> Job:
        """One that is timed among those of other runtimes: it runs once untimed before.

        Threads of a runtime go on spinning for a while when its forward is over. On two cores, with two threads each,
        an eager forward that took 31 ms took 65 ms right behind one of ONNX Runtime.
        """

        def settle() -> None:
            prepare()
            run()

        return cls(run, settle)


@dataclass(frozen=True)
class Measurement(Generic[K]):
    """The samples of every job, in the jobs' order; how quiet the machine was; seconds spent."""

    samples: dict[K, Samples]
    noise: Noise
    seconds: float


class Sitting:
    """What one process does of a measurement that others may have begun, and what came of it in all of them.

    Args:
        keep: where timings are kept; None: nowhere.
        now: tells seconds.
    """

    def __init__(self, keep: Appended | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._keep, self._now = keep, now
        self._start, self._watch = now(), OthersWatch()
        self._before_s: float = 0.0
        self._others_s: float | None = 0.0  # of the cores' time
        for spent, others in self.of("spent")[-1:]:
            self._before_s, self._others_s = spent, others

    def of(self, kind: str) -> list[Any]:
        """What was noted before under that word, in its order."""
        return [] if self._keep is None else [rest for word, *rest in self._keep.found if word == kind]

    @property
    def seconds(self) -> float:
        """Spent so far, in all sittings."""
        return self._before_s + self._now() - self._start

    @property
    def others(self) -> float | None:
        """Share of this process's cores that others took, over all sittings; None if unknown."""
        share = self._watch.share()
        if share is None or self._others_s is None:
            return None
        spent = self.seconds
        return (self._others_s + share * (spent - self._before_s)) / spent if spent > 0 else share

    def note(self, kind: str, *rest: Any) -> None:
        """Keep a record of plain data; it is written when half a second has gone by."""
        if self._keep is not None:
            self._keep.add([kind, *rest])
            if self._keep.due:
                self.write()

    @property
    def again(self) -> bool:
        """Whether another process has begun to time."""
        return bool(self.of("begun"))

    def __enter__(self) -> Sitting:
        self.note("begun")
        self.write()
        return self

    def __exit__(self, *error: object) -> None:
        self.write()

    def write(self) -> None:
        """Write what was noted, and how long it took."""
        if self._keep is None:
            return
        others, spent = self.others, self.seconds
        self._keep.add(["spent", spent, None if others is None else others * spent])
        self._keep.flush()


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
    keep: Appended | None = None,
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
        keep: where timings are kept as they come; those that are there count, of the same jobs in the same order. Each
            job is run once untimed then before it is timed, in place of the round.
    """
    rng, order, place = random.Random(seed), list(jobs), {key: n for n, key in enumerate(jobs)}
    samples: dict[K, Samples] = {key: Samples() for key in jobs}
    sitting = Sitting(keep)
    before = sitting.of("timed")
    for n, ms in before:
        samples[list(jobs)[n]].ms.append(ms)
    warm: set[K] = set()
    with undisturbed(), sitting, passing(label, time_budget_s) as tick:
        for round_ in range(-1, max_rounds):  # round -1 is the warm-up
            rng.shuffle(order)
            left = order[max(0, len(before) - round_ * len(order)) :] if sitting.again else order
            for key in left:
                if round_ < 0 or key not in warm:
                    _time_once(jobs[key], clock)
                    warm.add(key)
                if round_ >= 0:
                    took = _time_once(jobs[key], clock)
                    samples[key].ms.append(took)
                    sitting.note("timed", place[key], took)
                tick()
            if round_ + 1 < min_rounds or (round_ + 1) * len(order) < len(before):
                continue
            spent = sitting.seconds
            next_end = spent * (round_ + 3) / (round_ + 2)
            if next_end > time_budget_s or all(s.median_error() < tolerance for s in samples.values()):
                break
    return Measurement(samples, judge_noise(samples[sentinel].ms, sitting.others), sitting.seconds)


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
