"""CUDA: work runs behind the calls, clocks move with heat and power, and NVML tells why."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch

from prunesearch.cost.devices.gpu_state import describe_gpu, read_gpu_state, settle, throttle_reasons
from prunesearch.cost.devices.kind import Clock, DeviceKind, Ready


class CudaClock:
    """CUDA events in the stream: the marks neither wait for the device nor make it wait.

    In a graph that is being captured a mark becomes a node, which every replay passes anew ("external" events).
    """

    def mark(self) -> torch.cuda.Event:
        """See `Clock`."""
        captured = {"external": True} if torch.cuda.is_current_stream_capturing() else {}
        event = torch.cuda.Event(enable_timing=True, **captured)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def between_ms(self, marks: Sequence[torch.cuda.Event]) -> list[float]:
        """See `Clock`."""
        torch.cuda.synchronize()
        return [float(a.elapsed_time(b)) for a, b in itertools.pairwise(marks)]


class Cuda(DeviceKind):
    """See `DeviceKind`: GPUs of NVIDIA, and of AMD under ROCm, which torch calls by the same name.

    Args:
        cuda: the `torch.cuda` module, or one like it.
    """

    name: ClassVar[str] = "cuda"
    measures_memory: ClassVar[bool] = True

    def __init__(self, cuda: Any = torch.cuda) -> None:
        self.cuda = cuda

    def count(self) -> int:
        """See `DeviceKind`."""
        return int(self.cuda.device_count()) if self.cuda.is_available() else 0

    def absent(self) -> str:
        """See `DeviceKind`."""
        return "torch sees no CUDA GPU"

    def identity(self) -> dict[str, Any]:
        """See `DeviceKind`; its multiprocessors tell siblings of one name apart."""
        if not self.count():
            return {}
        sm_count = self.cuda.get_device_properties(0).multi_processor_count
        return {"name": self.cuda.get_device_name(0), "sm_count": sm_count}

    def describe(self, device: torch.device) -> dict[str, Any]:
        """Name, compute capability, multiprocessors, memory, CUDA's version, and what `describe_gpu` says."""
        facts = self.cuda.get_device_properties(device)
        return {
            "name": facts.name,
            "capability": f"{facts.major}.{facts.minor}",
            "sm_count": facts.multi_processor_count,
            "gpu_memory_gb": round(facts.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            **describe_gpu(device),
        }

    def clock(self) -> Clock:
        """See `DeviceKind`."""
        return CudaClock()

    def synchronize(self, device: torch.device) -> None:
        """See `DeviceKind`."""
        self.cuda.synchronize(device)

    def make_ready(self, run: Callable[[], object], device: torch.device, patience_s: float) -> Ready:
        """Work until its clock is steady."""
        with torch.inference_mode():
            done = settle(run, lambda: read_gpu_state(device), synchronize=lambda: self.synchronize(device))
        return Ready(doubt=done.why)

    def slowed(self, device: torch.device) -> tuple[str, ...]:
        """See `throttle_reasons`."""
        return throttle_reasons(read_gpu_state(device))

    def peak_bytes(self, run: Callable[[], object], device: torch.device) -> int | None:
        """The allocator's peak during `run`, after one that does not count."""
        run()  # a first forward also allocates what stays (workspaces of the matrix library)
        self.cuda.synchronize(device)
        self.cuda.reset_peak_memory_stats(device)
        before = self.cuda.memory_allocated(device)
        run()
        self.cuda.synchronize(device)
        return int(self.cuda.max_memory_allocated(device) - before)
