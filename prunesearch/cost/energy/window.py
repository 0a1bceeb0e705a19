"""Energy of forwards: windows of several seconds over a cumulative counter, interleaved, gross and net of idle.

Counters of GPUs are renewed every 20 to 100 ms, and A100 and H100 sample their power a quarter of the time (Yang et al.
2024, "Part-time power measurements"): hence windows of at least 5 s, starts at random phases, several repeats.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, TypeVar

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import passing
from prunesearch.cost.energy.counters import EnergyCounter, Reading
from prunesearch.cost.energy.result import EnergyResult, EnergyWindow, JobWindow, judge_windows
from prunesearch.cost.tables.energy_fit import EnergySource
from prunesearch.cost.timing.loop import undisturbed

MIN_WINDOW_S = 5.0
_POLL_S = 0.01  # of an idle counter: more often would keep the device from being idle
_REST_S = 1.0  # before idle power is measured: what ran before dies away
_LEAD_IN_S = 0.3  # of work before a window begins: clocks and sensors have risen by then
_PACE_S = 0.5  # of work to find out how long a forward takes
_SPARE = 1.01  # windows aim this much beyond their length, so that a little too fast a forward is no second round

K = TypeVar("K", bound=Hashable)


class EnergyMeter:
    """Windows over a counter: `begin_window(name)`, work, wait for the device, `end_window(name)`.

    Args:
        counter: see `open_counter`; the caller closes it.
        clock: seconds now, as the counter's.
        sleep: lets seconds pass.
    """

    def __init__(
        self,
        counter: EnergyCounter,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.counter, self.clock, self.sleep = counter, clock, sleep
        self.update_period_s = counter.update_period_s
        self._begun: dict[str, Reading] = {}

    def begin_window(self, name: str) -> None:
        """Begin a window; windows may overlap.

        Raises:
            PruneSearchError: if one of that name has begun, or the counter cannot be read.
        """
        if name in self._begun:
            raise PruneSearchError(f"energy window '{name}' has begun already: end it first, or choose another name")
        self._begun[name] = self.counter.read()

    def end_window(self, name: str) -> EnergyWindow:
        """End a window. Nothing looks at the counter in between.

        So its `ticks` are those that fit into the window at the update period, which `watch` finds out; before, 1 if
        the counter moved.

        Raises:
            PruneSearchError: if no window of that name has begun, or the counter cannot be read.
        """
        end = self.counter.read()
        begin = self._begun.pop(name, None)
        if begin is None:
            raise PruneSearchError(f"energy window '{name}' must have begun to be ended: call begin_window first")
        moved, seconds = end.energy_mj > begin.energy_mj, end.seconds - begin.seconds
        ticks = int(moved) if self.update_period_s is None else int(moved * seconds / self.update_period_s)
        return self._window(begin, end, ticks)

    def watch(self, seconds: float, tick: Callable[[], object] = lambda: None) -> EnergyWindow:
        """Do nothing for `seconds` but count the updates of the counter: a window of idle energy.

        From it, the counter's update period becomes known (to within 10 ms, its least value).

        Args:
            seconds: length of the window.
            tick: called at every look, some hundred times a second.
        """
        begin = last = self.counter.read()
        changes: list[float] = []
        while last.seconds - begin.seconds < seconds:
            self.sleep(_POLL_S)
            now = self.counter.read()
            if now.energy_mj != last.energy_mj:
                changes.append(now.seconds)
            last = now
            tick()
        if self.update_period_s is None and len(changes) > 1:
            self.update_period_s = (changes[-1] - changes[0]) / (len(changes) - 1)
        return self._window(begin, last, len(changes))

    def _window(self, begin: Reading, end: Reading, ticks: int) -> EnergyWindow:
        energy_mj, seconds = end.energy_mj - begin.energy_mj, end.seconds - begin.seconds
        if energy_mj < 0 or seconds <= 0:
            raise PruneSearchError(
                f"an energy counter must go forward, but '{self.counter.name}' moved by {energy_mj:g} mJ in "
                f"{seconds:g} s: measure again"
            )
        return EnergyWindow(
            energy_mj=energy_mj, seconds=seconds, ticks=ticks, temperature_c=self.counter.temperature_c()
        )


@dataclass(frozen=True)
class EnergyRun(Generic[K]):
    """Energy of every job, in the jobs' order, and what it was measured with."""

    results: dict[K, EnergyResult]
    source: EnergySource
    rows: int
    idle: tuple[EnergyWindow, EnergyWindow]  # before and after
    seconds: float
    date: str

    @property
    def idle_w(self) -> float:
        """Power of the idle device in watts: the mean of before and after."""
        return (self.idle[0].power_w + self.idle[1].power_w) / 2


@dataclass
class _Runner(Generic[K]):
    """Runs jobs for windows of `window_s`; `pace_s` is what a forward takes."""

    meter: EnergyMeter
    jobs: Mapping[K, Callable[[], object]]
    window_s: float
    synchronize: Callable[[], object]
    slowed: Callable[[], Iterable[str]]
    pace_s: dict[K, float] = field(default_factory=dict)

    def expected_s(self, repeats: int, jitter_s: float) -> float:
        """Seconds that a measurement takes, about."""
        each = _SPARE * self.window_s + _LEAD_IN_S + jitter_s / 2
        return 2 * (self.window_s + _REST_S) + len(self.jobs) * (2 * _PACE_S + repeats * each)

    def find_pace(self, key: K) -> None:
        """Find out how long a forward takes, doubling their number until it can be told; the first one warms up."""
        forwards, run, clock = 1, self.jobs[key], self.meter.clock
        run()
        self.synchronize()
        while True:
            start = clock()
            for _ in range(forwards):
                run()
            self.synchronize()
            spent = clock() - start
            if spent >= _PACE_S:
                self.pace_s[key] = spent / forwards
                return
            forwards *= 2

    def take_window(self, key: K, pause_s: float) -> JobWindow:
        """Pause, lead in, then one window. The device is waited for once, at its end (again only if it came early)."""
        run, clock, pace = self.jobs[key], self.meter.clock, self.pace_s[key]
        gc.collect()
        self.meter.sleep(pause_s)
        for _ in range(math.ceil(_LEAD_IN_S / pace)):
            run()
        self.synchronize()
        self.meter.begin_window("job")
        start, forwards, reasons = clock(), 0, set[str]()
        left = self.window_s * _SPARE
        while left > 0:
            batch = math.ceil(left / pace)
            for _ in range(batch):
                run()
            reasons.update(self.slowed())  # before waiting: the device is still at work
            self.synchronize()
            forwards += batch
            left = self.window_s - (clock() - start)
        window = self.meter.end_window("job")
        self.pace_s[key] = window.seconds / forwards
        return JobWindow(**window.model_dump(), forwards=forwards, throttled=sorted(reasons))


def measure_energy(
    meter: EnergyMeter,
    jobs: Mapping[K, Callable[[], object]],
    *,
    rows: int,
    window_s: float = MIN_WINDOW_S,
    repeats: int = 3,
    jitter_s: float = 0.2,
    seed: int = 0,
    synchronize: Callable[[], object] = lambda: None,
    slowed: Callable[[], Iterable[str]] = tuple,
    label: str = "measuring energy",
) -> EnergyRun[K]:
    """Measure the energy of forwards: idle, then all jobs `repeats` times in ever new random order, then idle.

    Args:
        meter: of the device that the jobs run on.
        jobs: one forward each; it may return before the device has done it.
        rows: rows in a job's batch; energy is per row, which is one inference.
        window_s: least length of a window in seconds.
        repeats: windows of each job.
        jitter_s: before each window lies a random pause of up to this many seconds, so that windows begin anywhere
            between two updates of the counter.
        seed: of the order and the pauses.
        synchronize: waits until the device has done all work; called at both ends of a window, never between forwards.
        slowed: says while the device works why it is slow; windows of which it says so are thrown away if enough others
            are left.
        label: for the progress bar on stderr, which moves on after each window.

    Raises:
        PruneSearchError: for arguments that cannot be, or a counter that fails.
    """
    _check(jobs, rows=rows, window_s=window_s, repeats=repeats, jitter_s=jitter_s)
    rng, start = random.Random(seed), meter.clock()
    windows: dict[K, list[JobWindow]] = {key: [] for key in jobs}
    runner = _Runner(meter, jobs, window_s, synchronize, slowed)
    with undisturbed(), passing(label, runner.expected_s(repeats, jitter_s)) as tick:
        for key in jobs:
            runner.find_pace(key)
            tick()
        # after work, as the one at the end: some GPUs fall into a deeper sleep when unused for long
        meter.sleep(_REST_S)
        before = meter.watch(window_s, tick)
        for _ in range(repeats):
            for key in rng.sample(list(jobs), len(jobs)):
                windows[key].append(runner.take_window(key, rng.uniform(0, jitter_s)))
                tick()
        meter.sleep(_REST_S)
        after = meter.watch(window_s, tick)
    return EnergyRun(
        results={key: judge_windows(windows[key], (before, after), rows) for key in jobs},
        source=EnergySource(
            name=meter.counter.name, covers=meter.counter.covers, update_period_s=meter.update_period_s
        ),
        rows=rows,
        idle=(before, after),
        seconds=meter.clock() - start,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _check(
    jobs: Mapping[K, Callable[[], object]], *, rows: int, window_s: float, repeats: int, jitter_s: float
) -> None:
    rules: Sequence[tuple[bool, str, object]] = (
        (len(jobs) > 0, "jobs >= 1", len(jobs)),
        (rows >= 1, "rows >= 1", rows),
        (math.isfinite(window_s) and window_s >= MIN_WINDOW_S, f"{MIN_WINDOW_S:g} <= window_s", window_s),
        (repeats >= 2, "repeats >= 2", repeats),
        (math.isfinite(jitter_s) and jitter_s >= 0, "0 <= jitter_s", jitter_s),
    )
    for holds, rule, value in rules:
        if not holds:
            raise PruneSearchError(f"`{rule}` must hold for an energy measurement, but got {value}")
