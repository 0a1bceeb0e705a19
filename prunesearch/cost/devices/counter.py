"""Energy counters as the rest sees them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unavailable:
    """There is no counter, or it does not tell of this device alone: why, and the way out, in one line."""

    reason: str
