"""Energy of NVIDIA GPUs: the board's own counter, or its power polled where there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pynvml
import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.devices.counter import Unavailable
from prunesearch.cost.devices.gpu_state import Gpu, mig_enabled, open_gpu, virtualization
from prunesearch.cost.energy.counters import Reading

POLL_S = 0.05  # boards renew their power every 20 to 100 ms


class TotalEnergy:
    """`nvmlDeviceGetTotalEnergyConsumption`: mJ since the driver was loaded, renewed every 20 to 100 ms."""

    name = "nvml-total-energy"
    update_period_s = None

    def __init__(self, gpu: Gpu, clock: Callable[[], float] = time.monotonic) -> None:
        self._gpu, self._clock = gpu, clock
        # on Grace Hopper the counter is of GPU and CPU together (zeus found it so)
        self.covers = "GPU and CPU module" if "GH200" in (gpu.told("nvmlDeviceGetName") or "") else "GPU board"

    def read(self) -> Reading:
        """See `EnergyCounter`."""
        nvml = self._gpu.nvml
        try:
            energy = nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu.handle)
        except nvml.NVMLError as error:
            raise PruneSearchError(f"the GPU's energy counter can no longer be read ({error}): run again") from None
        return Reading(self._clock(), float(energy))

    def temperature_c(self) -> float | None:
        """See `EnergyCounter`."""
        return self._gpu.temperature_c()

    def close(self) -> None:
        """See `EnergyCounter`."""


class PolledPower:
    """Power polled in a thread of its own, integrated by the trapezoid rule.

    Args:
        power_w: power now in watts; None if it can no longer be read.
        covers: what the power is of.
        temperature_c: degrees Celsius now.
        period_s: seconds between two polls.
        clock: seconds now.
        background: False: poll only when read, for tests.
    """

    name = "nvml-power-polled"

    def __init__(
        self,
        power_w: Callable[[], float | None],
        *,
        covers: str,
        temperature_c: Callable[[], float | None] = lambda: None,
        period_s: float = POLL_S,
        clock: Callable[[], float] = time.monotonic,
        background: bool = True,
    ) -> None:
        self.covers, self.update_period_s = covers, period_s
        self._power_w, self._temperature_c, self._clock = power_w, temperature_c, clock
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._energy_mj = 0.0
        self._last: tuple[float, float] | None = None
        self._thread = threading.Thread(target=self._poll_on, name="power poll", daemon=True) if background else None
        if self._thread is not None:
            self._thread.start()

    def read(self) -> Reading:
        """See `EnergyCounter`."""
        reading = self._poll()
        if reading is None:
            raise PruneSearchError("the GPU's power can no longer be read: run again")
        return reading

    def temperature_c(self) -> float | None:
        """See `EnergyCounter`."""
        return self._temperature_c()

    def close(self) -> None:
        """See `EnergyCounter`."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _poll_on(self) -> None:
        while not self._stop.wait(self.update_period_s) and self._poll() is not None:
            pass

    def _poll(self) -> Reading | None:
        with self._lock:
            power, now = self._power_w(), self._clock()
            if power is None:
                return None
            if self._last is not None:
                then, before = self._last
                self._energy_mj += (before + power) / 2 * (now - then) * 1e3
            self._last = now, power
            return Reading(now, self._energy_mj)


def open_total_energy(
    device: torch.device, nvml: Any = pynvml, hip: str | None = torch.version.hip
) -> TotalEnergy | Unavailable | None:
    """Open the board's energy counter; None for a device that is no NVIDIA GPU (`hip`: torch is built for AMD's)."""
    gpu = _open_whole(device, nvml, hip)
    if not isinstance(gpu, Gpu):
        return gpu
    if gpu.told("nvmlDeviceGetTotalEnergyConsumption") is None:
        return Unavailable("this GPU has no energy counter")
    return TotalEnergy(gpu)


def open_polled_power(
    device: torch.device, nvml: Any = pynvml, hip: str | None = torch.version.hip
) -> PolledPower | Unavailable | None:
    """Poll the board's power from now on; None for a device that is no NVIDIA GPU (`hip`: torch is built for AMD's)."""
    gpu = _open_whole(device, nvml, hip)
    if not isinstance(gpu, Gpu):
        return gpu
    if gpu.power_w() is None:
        return Unavailable("this GPU does not tell its power")
    return PolledPower(gpu.power_w, covers="GPU board", temperature_c=gpu.temperature_c)


def _open_whole(device: torch.device, nvml: Any, hip: str | None) -> Gpu | Unavailable | None:
    """Open a GPU that nobody else has a part of: the counters are of the whole board."""
    if device.type != "cuda" or hip is not None:
        return None
    gpu = open_gpu(device, nvml)
    if isinstance(gpu, Unavailable):
        return gpu
    if mig_enabled(gpu):
        return Unavailable("MIG is enabled, and NVML tells only the energy of all slices together: use a whole GPU")
    how = virtualization(gpu)
    if how not in (None, "none", "passthrough"):
        return Unavailable(f"the GPU is shared ({how}): use a whole GPU, on bare metal or passed through")
    return gpu
