"""The CPU: work is done when the call returns, threads and cores decide the speed, other processes take them away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

from prunesearch.cost.devices.kind import DeviceKind, Ready
from prunesearch.cost.devices.machine import cpu_name, usable_cores
from prunesearch.cost.devices.others import wait_until_quiet


class Cpu(DeviceKind):
    """See `DeviceKind`. Half precision crawls on most CPUs, and changes quality by far less than a stage does."""

    name: ClassVar[str] = "cpu"
    accelerator: ClassVar[bool] = False
    stands_in: ClassVar[str | None] = "float32"

    def identity(self) -> dict[str, Any]:
        """See `DeviceKind`; one CPU with fewer cores is another."""
        return {"name": cpu_name(), "affinity": usable_cores()}

    def describe(self, device: torch.device) -> dict[str, Any]:
        """See `DeviceKind`."""
        return {"name": cpu_name()}

    def variant(self, facts: Mapping[str, Any]) -> str:
        """The cores that it was measured on, as in `2c`."""
        return f"{facts['affinity']}c"

    def conditions(self) -> dict[str, Any]:
        """Threads of torch and cores that the process may run on."""
        return {"threads": torch.get_num_threads(), "cores": usable_cores()}

    def make_ready(self, run: Callable[[], object], device: torch.device, patience_s: float) -> Ready:
        """Wait for other processes to leave the cores alone."""
        return Ready(waited_s=wait_until_quiet(patience_s))
