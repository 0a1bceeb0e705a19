"""Which process a running trial belongs to, and whether that process is gone.

A process is known by host, PID namespace, PID and start time: two containers of a host may share a PID, and a PID is
used again. Of a process on another machine nothing can be seen; its heartbeat in the database tells.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

_ZOMBIE = "ended"


def this_worker() -> str:
    """`host|namespace|pid|start` of this process."""
    return f"{_place()}|{os.getpid()}|{_started(os.getpid()) or ''}"


def is_gone(worker: str) -> bool:
    """Whether a process of this machine runs no longer; False if that cannot be seen from here."""
    where, _, start = worker.rpartition("|")
    place, _, pid = where.rpartition("|")
    if place != _place() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # of another user, but alive
        return False
    now = _started(int(pid))
    return bool(start) and now is not None and now != start


def _place() -> str:
    """This machine as processes see it; the namespace is empty where there is no such thing."""
    try:
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        namespace = ""
    return f"{socket.gethostname()}|{namespace}"


def _started(pid: int) -> str | None:
    """When a process began, in clock ticks since the machine did; None where the system does not say."""
    try:
        # the name, in brackets, may hold blanks
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # a zombie has ended and waits for its parent to notice
    return _ZOMBIE if fields[0] == "Z" else fields[19]
