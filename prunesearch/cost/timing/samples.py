"""What is said about a heap of timings: percentiles, how sure the median is, and whether the machine was quiet."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SPREAD_LIMIT = 0.25  # p90 / median - 1 of the sentinel
DRIFT_LIMIT = 0.04  # between any two quarters of the run
OTHERS_LIMIT = 0.15  # share of the cores' time that went to others
_Z95 = 1.96


@dataclass
class Samples:
    """Every timing of one thing, in milliseconds, in the order taken."""

    ms: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ms)

    @property
    def median_ms(self) -> float:
        """The median."""
        return float(np.median(self.ms))

    @property
    def p10_ms(self) -> float:
        """The 10 % quantile."""
        return float(np.quantile(self.ms, 0.1))

    @property
    def p90_ms(self) -> float:
        """The 90 % quantile."""
        return float(np.quantile(self.ms, 0.9))

    def quantile_ms(self, share: float) -> float:
        """The quantile of `share`, 0 to 1."""
        return float(np.quantile(self.ms, share))

    def median_error(self) -> float:
        """Half the width of the median's 95 % interval (order statistics), relative to it; inf below 6 samples."""
        n = len(self.ms)
        if n < 6:  # two-sided, the extremes of 5 samples hold the median in 94 % of all cases
            return math.inf
        ordered = np.sort(self.ms)
        reach = _Z95 * math.sqrt(n) / 2
        low = ordered[max(math.floor(n / 2 - reach), 0)]
        high = ordered[min(math.ceil(n / 2 + reach), n) - 1]
        return float((high - low) / 2 / np.median(ordered))


@dataclass(frozen=True)
class Noise:
    """How quiet the machine was.

    `spread` is p90 / median - 1 of a piece of work repeated all through the run, `drift` the largest difference between
    its medians over quarters of the run, `others` the share of this process's cores that other processes took
    (None where the system does not tell); `why` names what was over its limit.
    """

    spread: float
    drift: float
    others: float | None
    noisy: bool
    why: str


def judge_noise(sentinel: Sequence[float], others: float | None = None) -> Noise:
    """Judge a run by the timings of its sentinel, in the order taken."""
    if len(sentinel) < 8:
        return Noise(math.inf, math.inf, others, True, f"only {len(sentinel)} timings of the sentinel, 8 are needed")
    values = np.asarray(sentinel)
    median = float(np.median(values))
    spread = float(np.quantile(values, 0.9)) / median - 1
    quarters = [float(np.median(part)) for part in np.array_split(values, 4)]
    drift = (max(quarters) - min(quarters)) / median
    reasons = []
    if spread > SPREAD_LIMIT:
        reasons.append(f"the same work took {spread:.0%} more than its median in one of ten timings")
    if drift > DRIFT_LIMIT:
        reasons.append(f"its median moved by {drift:.1%} during the run")
    if others is not None and others > OTHERS_LIMIT:
        reasons.append(f"other processes took {others:.0%} of the CPU time")
    return Noise(spread, drift, others, bool(reasons), "; ".join(reasons))


class OthersWatch:
    """Measures how much of the machine's CPU time goes to other processes (and to the hypervisor's other guests)."""

    def __init__(self) -> None:
        self._begin = self._now()

    def share(self) -> float | None:
        """Share of all cores' time since the start that was busy, but not with this process; None if unknown."""
        end = self._now()
        if self._begin is None or end is None:
            return None
        wall, busy, own = (b - a for a, b in zip(self._begin, end, strict=True))
        return max(0.0, (busy - own) / wall) if wall > 0 else None

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """Seconds since boot over all cores: total, busy (stolen time included); and of this process."""
        try:
            line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
        except (OSError, IndexError):
            return None
        ticks = [int(word) for word in line.split()[1:9]]  # user nice system idle iowait irq softirq steal
        hertz = os.sysconf("SC_CLK_TCK")
        total = sum(ticks)
        return total / hertz, (total - ticks[3] - ticks[4]) / hertz, time.process_time()


def wait_until_quiet(
    patience_s: float, share: Callable[[], float | None] | None = None, sleep: Callable[[float], None] = time.sleep
) -> float:
    """Wait until other processes leave the cores alone, at most `patience_s` seconds; returns the seconds waited.

    Args:
        patience_s: 0 returns at once.
        share: watches for a second and says which share of the cores' time went to others; for tests.
        sleep: waits; for tests.
    """

    def watched() -> float | None:
        watch = OthersWatch()
        sleep(1.0)
        return watch.share()

    look = share or watched
    for waited in range(int(patience_s)):
        taken = look()
        if taken is None or taken <= OTHERS_LIMIT:
            return float(waited)
    return patience_s
