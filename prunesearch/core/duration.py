"""Durations as typed: `90s`, `10m`, `2h`."""

from __future__ import annotations

import re
from datetime import timedelta

from prunesearch.core.errors import PruneSearchError

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_PATTERN = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z]+)\s*")


def seconds_of(duration: str | float | timedelta) -> float:
    """Seconds of a duration; a number is one of seconds.

    Raises:
        PruneSearchError: for what is none.
    """
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if not isinstance(duration, str):
        return duration
    match = _PATTERN.fullmatch(duration)
    if match is None or match[2].lower() not in _UNITS:
        raise PruneSearchError(f"a time is written 90s, 10m or 2h, but got '{duration}'")
    return float(match[1]) * _UNITS[match[2].lower()]
