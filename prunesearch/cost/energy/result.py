"""What is said about energy windows: mJ per inference with an interval, and whether they can be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field
from scipy.stats import t as student_t  # type: ignore[attr-defined]

from prunesearch.cost.shape import Record

TICKS_LIMIT = 30  # counter updates in a window; fewer, and its edges are off by more than 3 %
SPREAD_LIMIT = 0.03  # standard deviation of a job's windows, relative to their median
IDLE_DRIFT_LIMIT = 0.1  # change of idle power during the run, relative to the job's power
TEMPERATURE_LIMIT_C = 10.0  # between a job's coldest and hottest window; leakage grows with heat
KEPT_LIMIT = 2  # windows that did not throttle

# the standard error of a median is this much that of a mean (normal samples, many of them; less for few)
_MEDIAN_TO_MEAN = math.sqrt(math.pi / 2)


class EnergyWindow(Record):
    """Energy between two readings. `ticks`: updates of the counter in between; `temperature_c`: at the end."""

    energy_mj: float = Field(ge=0)
    seconds: float = Field(gt=0)
    ticks: int = Field(ge=0)
    temperature_c: float | None = None

    @property
    def power_w(self) -> float:
        """Mean power in watts."""
        return self.energy_mj / 1e3 / self.seconds


class JobWindow(EnergyWindow):
    """A window in which one job ran `forwards` times; `throttled`: why the GPU was slowed down, by name."""

    forwards: int = Field(ge=1)
    throttled: list[str] = Field(default_factory=list)


class EnergyResult(Record):
    """Energy of a job in mJ per inference, which is one row of the batch.

    `energy_mj` is gross, the median over windows, between `low_mj` and `high_mj` at 95 % (None for one window only);
    `net_mj` is what is left of it without the power of the idle device. `power_w` is the median power. `valid` is False
    if the number should not be built on, and `why` says all that is wrong. `windows` are all windows taken; those that
    throttled are not in the medians as long as two are left.
    """

    energy_mj: float = Field(ge=0)
    low_mj: float | None = Field(ge=0)
    high_mj: float | None = Field(ge=0)
    net_mj: float
    power_w: float = Field(ge=0)
    forwards: int = Field(ge=1)
    windows: list[JobWindow] = Field(min_length=1)
    valid: bool
    why: str


def judge_windows(windows: Sequence[JobWindow], idle: tuple[EnergyWindow, EnergyWindow], rows: int) -> EnergyResult:
    """Sum up one job's windows.

    Args:
        windows: at least one.
        idle: windows without work, before and after.
        rows: rows in the job's batch.
    """
    kept = [window for window in windows if not window.throttled]
    used = kept if len(kept) >= KEPT_LIMIT else list(windows)
    idle_w = (idle[0].power_w + idle[1].power_w) / 2
    gross = np.array([w.energy_mj / (w.forwards * rows) for w in used])
    net = [(w.energy_mj - idle_w * w.seconds * 1e3) / (w.forwards * rows) for w in used]
    median, power_w = float(np.median(gross)), float(np.median([w.power_w for w in used]))
    deviation = float(np.std(gross, ddof=1)) if len(gross) > 1 else None
    low_mj: float | None = None
    high_mj: float | None = None
    if deviation is not None:
        reach = float(student_t.ppf(0.975, len(gross) - 1)) * _MEDIAN_TO_MEAN * deviation / math.sqrt(len(gross))
        low_mj, high_mj = max(median - reach, 0.0), median + reach
    spread = deviation / median if deviation is not None and median > 0 else None
    why = _doubts(windows, used, power_w=power_w, idle=idle, spread=spread)
    return EnergyResult(
        energy_mj=median,
        low_mj=low_mj,
        high_mj=high_mj,
        net_mj=float(np.median(net)),
        power_w=power_w,
        forwards=sum(w.forwards for w in used),
        windows=list(windows),
        valid=not why,
        why="; ".join(why),
    )


def _doubts(
    windows: Sequence[JobWindow],
    used: Sequence[JobWindow],
    *,
    power_w: float,
    idle: tuple[EnergyWindow, EnergyWindow],
    spread: float | None,
) -> list[str]:
    before_w, after_w = (window.power_w for window in idle)
    found = []
    ticks = min(window.ticks for window in used)
    if ticks < TICKS_LIMIT:
        found.append(f"a window saw {ticks} updates of the energy counter, {TICKS_LIMIT} are needed")
    if len(used) < KEPT_LIMIT:
        found.append(f"only {len(used)} window was taken, {KEPT_LIMIT} are needed")
    if spread is not None and spread > SPREAD_LIMIT:
        found.append(f"energy differs by {spread:.1%} (standard deviation) from window to window")
    if abs(after_w - before_w) > IDLE_DRIFT_LIMIT * power_w:
        found.append(f"idle power went from {before_w:.1f} W to {after_w:.1f} W")
    if power_w <= (before_w + after_w) / 2:
        found.append(f"{power_w:.1f} W at work are no more than when idle: another device's counter, or a busy device")
    degrees = [window.temperature_c for window in used if window.temperature_c is not None]
    if degrees and max(degrees) - min(degrees) > TEMPERATURE_LIMIT_C:
        found.append(f"temperature went from {min(degrees):.0f} to {max(degrees):.0f} degrees Celsius")
    slowed = [window for window in windows if window.throttled]
    if len(windows) - len(slowed) < KEPT_LIMIT and slowed:
        names = ", ".join(sorted({name for window in slowed for name in window.throttled}))
        found.append(f"the GPU throttled in {len(slowed)} of {len(windows)} windows ({names})")
    return found
