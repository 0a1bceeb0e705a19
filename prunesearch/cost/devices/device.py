"""Where a measurement was taken: the facts without which a latency means nothing."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.devices.gpu_state import describe_gpu


def describe_device(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Describe the device and the software on it, in plain JSON types.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.

    Returns:
        `name`, `kind`, core counts, `threads` (torch intra-op), `load_1m` (running processes), `memory_gb`, versions,
        `date` (ISO 8601, UTC), and on CUDA the compute capability, the GPU's memory and what `describe_gpu` says.

    Raises:
        PruneSearchError: for a device that cannot be timed here.
    """
    target = torch.device(device)
    if target.type not in ("cpu", "cuda"):
        raise PruneSearchError(f"a device must be cpu or cuda to be timed, but got '{target}'")
    if target.type == "cuda" and not torch.cuda.is_available():
        raise PruneSearchError(f"device '{target}' is not available: torch sees no CUDA GPU; use --device cpu")
    facts: dict[str, Any] = {"kind": target.type, "name": cpu_name()}
    if target.type == "cuda":
        facts.update(_describe_cuda(target), cpu=cpu_name())
    facts.update(
        cores_physical=_physical_cores(),
        cores_logical=os.cpu_count(),
        affinity=usable_cores(),
        threads=torch.get_num_threads(),
        load_1m=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        memory_gb=_memory_gb(),
        os=platform.platform(),
        isa=torch.backends.cpu.get_cpu_capability(),
        mkldnn=bool(torch.backends.mkldnn.is_available()),  # type: ignore[no-untyped-call]
        python=platform.python_version(),
        torch=str(torch.__version__),
        transformers=version("transformers"),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return facts


def cpu_name() -> str:
    """The CPU's model name, or the machine type where the system does not tell."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def usable_cores() -> int:
    """Logical cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _describe_cuda(target: torch.device) -> dict[str, Any]:
    facts = torch.cuda.get_device_properties(target)
    return {
        "name": facts.name,
        "capability": f"{facts.major}.{facts.minor}",
        "sm_count": facts.multi_processor_count,
        "gpu_memory_gb": round(facts.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        **describe_gpu(target),
    }


def _cpuinfo(field: str) -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), None)


def _physical_cores() -> int | None:
    """Distinct (socket, core) pairs; None where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
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
