"""What is said about a heap of timings: percentiles, how sure the median is, and whether the machine was quiet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from prunesearch.cost.devices.others import OTHERS_LIMIT

SPREAD_LIMIT = 0.25  # p90 / median - 1 of the sentinel
DRIFT_LIMIT = 0.04  # between any two quarters of the run
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
