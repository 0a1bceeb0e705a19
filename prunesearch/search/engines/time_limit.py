"""A trial that never ends: it is stopped after a time, recorded as failed, and the search goes on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LEAST_S = 60.0
TIMES = 20.0  # what the unpruned model takes: a schedule makes it faster, unless its texts never end


class TrialTimeoutError(RuntimeError):
    """A trial took longer than it may."""


def trial_limit(unpruned_s: float) -> float:
    """Seconds that a trial may take, by those that the unpruned model takes on the same rows."""
    return max(LEAST_S, TIMES * unpruned_s)


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Within the block, what runs for longer ends in a `TrialTimeoutError`.

    An alarm of the system ends it: in the main thread, where there are such alarms (not on Windows), and as soon as
    whatever runs outside of Python comes back. Elsewhere nothing is limited.
    """
    alarms = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if seconds is None or not alarms:
        yield
        return

    rung: list[TrialTimeoutError] = []

    def ring(*_: Any) -> None:
        rung.append(TrialTimeoutError(f"no result within {seconds:g} s"))
        raise rung[0]

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)  # on a machine that is busy it may ring before the next line
        yield
    except Exception as error:
        if rung and error is not rung[0]:  # a library caught it, and raised an error of its own
            raise rung[0] from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
