"""Other processes on this machine: how much of it they take, and waiting until they leave it alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

Times = tuple[float, float, float]
OTHERS_LIMIT = 0.15  # share of the cores' time that went to others


class OthersWatch:
    """Measures how much of the machine's CPU time goes to other processes (and to the hypervisor's other guests).

    Args:
        now: seconds since boot over all cores (total; busy, stolen time included), and of this process; None: unknown.
    """

    def __init__(self, now: Callable[[], Times | None] | None = None) -> None:
        self._now = now or cpu_times
        self._begin = self._now()

    def share(self) -> float | None:
        """Share of all cores' time since the start that was busy, but not with this process; None if unknown."""
        end = self._now()
        if self._begin is None or end is None:
            return None
        wall, busy, own = (b - a for a, b in zip(self._begin, end, strict=True))
        return max(0.0, (busy - own) / wall) if wall > 0 else None


def cpu_times() -> Times | None:
    """Seconds since boot over all cores: total, busy (stolen time included); and of this process; None if unknown."""
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
