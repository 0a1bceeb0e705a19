"""Durations as typed: `90s`, `10m`, `2h`."""

from __future__ import annotations

import re
from datetime import timedelta

from prunesearch.core.errors import PruneSearchError

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
# it can be read in one way alone: what can be in two takes a time that grows with the square of the digits
NUMBER = r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_PATTERN = re.compile(rf"({NUMBER})\s*([a-zA-Z\u00b5\u03bc]+)")
# the micro sign, the Greek letter that looks like it, and the sign of multiplication
_SIGNS = str.maketrans({"\u00b5": "u", "\u03bc": "u", "\u00d7": "x"})


def plain_unit(unit: str) -> str:
    """A unit as it is looked up: in lower case, with letters for the signs that tables print."""
    return unit.translate(_SIGNS).lower()


def seconds_of(duration: str | float | timedelta) -> float:
    """Seconds of a duration; a number is one of seconds.

    Raises:
        PruneSearchError: for what is none.
    """
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if not isinstance(duration, str):
        return duration
    match = _PATTERN.fullmatch(duration.strip())
    if match is None or plain_unit(match[2]) not in _UNITS:
        raise PruneSearchError(f"a time is written 90s, 10m or 2h, but got '{duration}'")
    return float(match[1]) * _UNITS[plain_unit(match[2])]
