"""The machine around a device: its CPU, its memory, the software on it."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

_CPUINFO = Path("/proc/cpuinfo")


def machine_facts() -> dict[str, Any]:
    """Core counts, `threads` (torch intra-op), `load_1m` (running processes), `memory_gb`, versions and the `date`."""
    return {
        "cores_physical": physical_cores(),
        "cores_logical": os.cpu_count(),
        "affinity": usable_cores(),
        "threads": torch.get_num_threads(),
        "load_1m": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "memory_gb": _memory_gb(),
        "os": platform.platform(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "mkldnn": bool(torch.backends.mkldnn.is_available()),  # type: ignore[no-untyped-call]
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": version("transformers"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_name(cpuinfo: Path = _CPUINFO) -> str:
    """The CPU's model name, or the machine type where the system does not tell."""
    return _cpuinfo_field(cpuinfo, "model name") or platform.processor() or platform.machine()


def usable_cores() -> int:
    """Logical cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo_field(cpuinfo: Path, field: str) -> str | None:
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), None)


def physical_cores(cpuinfo: Path = _CPUINFO) -> int | None:
    """Distinct (socket, core) pairs; None where the system does not tell."""
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return None
    pairs = set()
    for entry in text.split("\n\n"):
        fields = dict(line.split(":", 1) for line in entry.splitlines() if ":" in line)
        named = {k.strip(): v.strip() for k, v in fields.items()}
        if "core id" in named:
            pairs.add((named.get("physical id"), named["core id"]))
    return len(pairs) or None


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
