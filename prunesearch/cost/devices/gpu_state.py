"""What NVML tells of an NVIDIA GPU: clocks, power, temperature and why it runs slower than it could. Read only."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pynvml
import torch

from prunesearch.cost.devices.counter import Unavailable

# names of NVML's clock event reasons, formerly throttle reasons; the constants are nvmlClocksEventReason<value>
_REASONS = {
    "gpu_idle": "GpuIdle",
    "applications_clocks_setting": "ApplicationsClocksSetting",
    "sw_power_cap": "SwPowerCap",
    "hw_slowdown": "HwSlowdown",
    "sync_boost": "SyncBoost",
    "sw_thermal_slowdown": "SwThermalSlowdown",
    "hw_thermal_slowdown": "HwThermalSlowdown",
    "hw_power_brake_slowdown": "HwPowerBrakeSlowdown",
    "display_clock_setting": "DisplayClockSetting",
}
THROTTLED = ("hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown")
_CHUNK_S = 0.5  # of work between two looks at the clock
_LOOKS = 4  # that must agree


@dataclass(frozen=True)
class GpuState:
    """One look at a GPU; None where it does not tell. `reasons`: why its clocks are not higher, by name."""

    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    power_w: float | None
    power_limit_w: float | None
    temperature_c: float | None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gpu:
    """A GPU's NVML handle. `is_mig`: it is a slice of a GPU."""

    nvml: Any
    handle: Any
    is_mig: bool = False

    def told(self, query: str, *args: Any) -> Any:
        """The answer to an NVML query; None where this GPU, its driver or this pynvml does not have it."""
        ask = getattr(self.nvml, query, None)
        if ask is None:
            return None
        try:
            return ask(self.handle, *args)
        except self.nvml.NVMLError:
            return None

    def temperature_c(self) -> float | None:
        """Temperature of the GPU in degrees Celsius."""
        sensor = self.nvml.NVML_TEMPERATURE_GPU
        told = self.told("nvmlDeviceGetTemperatureV", sensor)  # not in drivers before 2025
        return _float(self.told("nvmlDeviceGetTemperature", sensor) if told is None else told)

    def power_w(self) -> float | None:
        """Power of the board in watts: this moment's where the driver tells it, else the driver's running average."""
        fields = self.told("nvmlDeviceGetFieldValues", [self.nvml.NVML_FI_DEV_POWER_INSTANT])
        if fields is not None and fields[0].nvmlReturn == self.nvml.NVML_SUCCESS:
            return float(fields[0].value.uiVal) / 1e3
        return _watts(self.told("nvmlDeviceGetPowerUsage"))

    def reasons(self) -> tuple[str, ...]:
        """Why the clocks are not higher, by name; see `_REASONS`."""
        bits = self.told("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # drivers before 535
            bits = self.told("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        known = {name: getattr(self.nvml, f"nvmlClocksEventReason{suffix}") for name, suffix in _REASONS.items()}
        return tuple(name for name, bit in known.items() if bits & bit)

    def state(self) -> GpuState:
        """Look at the GPU now."""
        return GpuState(
            sm_clock_mhz=self.told("nvmlDeviceGetClockInfo", self.nvml.NVML_CLOCK_SM),
            memory_clock_mhz=self.told("nvmlDeviceGetClockInfo", self.nvml.NVML_CLOCK_MEM),
            power_w=self.power_w(),
            power_limit_w=_watts(self.told("nvmlDeviceGetEnforcedPowerLimit")),
            temperature_c=self.temperature_c(),
            reasons=self.reasons(),
        )


def open_gpu(device: str | torch.device, nvml: Any = pynvml) -> Gpu | Unavailable:
    """Find the GPU that torch calls `device` in NVML.

    By its UUID: torch counts only the GPUs that CUDA_VISIBLE_DEVICES shows, in CUDA's order; NVML counts all, in PCI
    order.

    Args:
        device: `cuda` or `cuda:N`.
        nvml: the `pynvml` module, or one like it.
    """
    target = torch.device(device)
    if target.type != "cuda" or torch.version.hip is not None:
        return Unavailable(f"device '{target}' is not an NVIDIA GPU")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Unavailable(f"NVML does not answer ({error}): it comes with the NVIDIA driver")
    uuid = _cuda_uuid(target)
    if uuid is None:
        return Unavailable(f"torch sees no GPU '{target}'")
    for prefix in ("GPU-", "MIG-"):
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(prefix + uuid)
        except nvml.NVMLError:
            continue
        return Gpu(nvml, handle, is_mig=prefix == "MIG-")
    return Unavailable(f"NVML does not know GPU {uuid}, which torch calls '{target}'")


def read_gpu_state(device: str | torch.device, nvml: Any = pynvml) -> GpuState | None:
    """Look at `device` now; None for what is no NVIDIA GPU or where NVML does not answer."""
    gpu = open_gpu(device, nvml)
    return gpu.state() if isinstance(gpu, Gpu) else None


def describe_gpu(device: str | torch.device, nvml: Any = pynvml) -> dict[str, Any]:
    """Facts of a GPU that its timings depend on, in plain JSON types, for a profile's provenance.

    Returns:
        `driver`, `power_limit_w`, `power_limit_default_w`, `max_sm_clock_mhz`, `max_memory_clock_mhz`, `persistence`,
        `ecc`, `mig`, `virtualization` (none, passthrough, vgpu, ...), `p_state`, and the clocks, the temperature and
        the `reasons` of this moment; None where the GPU does not tell. `{"unavailable": reason}` without NVML.
    """
    gpu = open_gpu(device, nvml)
    if isinstance(gpu, Unavailable):
        return {"unavailable": gpu.reason}
    state = gpu.state()
    ecc = gpu.told("nvmlDeviceGetEccMode")
    p_state = gpu.told("nvmlDeviceGetPerformanceState")
    return {
        "driver": nvml.nvmlSystemGetDriverVersion(),
        "power_limit_w": state.power_limit_w,
        "power_limit_default_w": _watts(gpu.told("nvmlDeviceGetPowerManagementDefaultLimit")),
        "max_sm_clock_mhz": gpu.told("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        "max_memory_clock_mhz": gpu.told("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM),
        "persistence": _flag(gpu.told("nvmlDeviceGetPersistenceMode")),
        "ecc": _flag(ecc[0] if ecc is not None else None),
        "mig": mig_enabled(gpu),
        "virtualization": virtualization(gpu),
        "p_state": f"P{p_state}" if p_state is not None else None,
        "sm_clock_mhz": state.sm_clock_mhz,
        "memory_clock_mhz": state.memory_clock_mhz,
        "temperature_c": state.temperature_c,
        "reasons": list(state.reasons),
    }


def mig_enabled(gpu: Gpu) -> bool:
    """True for a slice of a GPU, and for a GPU that is cut into slices."""
    modes = gpu.told("nvmlDeviceGetMigMode")  # (now, after the next reset)
    return gpu.is_mig or (modes is not None and modes[0] == gpu.nvml.NVML_DEVICE_MIG_ENABLE)


def virtualization(gpu: Gpu) -> str | None:
    """How the GPU comes to this machine: `none` (bare metal), `passthrough`, `vgpu`, `host_vgpu`, `host_vsga`."""
    mode = gpu.told("nvmlDeviceGetVirtualizationMode")
    names = ("none", "passthrough", "vgpu", "host_vgpu", "host_vsga")
    known = {getattr(gpu.nvml, f"NVML_GPU_VIRTUALIZATION_MODE_{name.upper()}"): name for name in names}
    return known.get(mode)


def throttle_reasons(state: GpuState | None) -> tuple[str, ...]:
    """Those of the state's reasons that spoil a measurement: heat, the power brake, hardware slowdown.

    The software power cap is none of them: at full load a GPU runs at its power limit.
    """
    return tuple(name for name in state.reasons if name in THROTTLED) if state is not None else ()


@dataclass(frozen=True)
class Settled:
    """How a warm-up ended; `why` says what was missing if not `settled`. `states`: the looks, half a second apart."""

    settled: bool
    why: str
    seconds: float
    states: list[GpuState | None] = field(default_factory=list)


def settle(
    run: Callable[[], object],
    read: Callable[[], GpuState | None],
    *,
    synchronize: Callable[[], object] = lambda: None,
    min_s: float = 2.0,
    max_s: float = 30.0,
    tolerance: float = 0.02,
    clock: Callable[[], float] = time.monotonic,
) -> Settled:
    """Run work until the SM clock is steady: the last four looks, half a second apart, agree.

    Args:
        run: work for the GPU; it may return before the work is done.
        read: one look; it happens while the work runs.
        synchronize: waits for the work; called once in half a second.
        min_s: seconds of work in any case; all there is where the clock cannot be read.
        max_s: seconds after which a clock that still moves is given up.
        tolerance: largest relative difference of SM clocks that are called equal (clocks step by 15 MHz).
        clock: seconds now.
    """
    states: list[GpuState | None] = []
    start = clock()
    while True:
        chunk = clock()
        while clock() - chunk < _CHUNK_S:
            run()
        states.append(read())
        synchronize()
        spent = clock() - start
        if spent < min_s:
            continue
        clocks = [state.sm_clock_mhz for state in states[-_LOOKS:] if state is not None and state.sm_clock_mhz]
        if not clocks:
            return Settled(False, "the SM clock cannot be read", spent, states)
        if len(clocks) == _LOOKS and max(clocks) - min(clocks) <= tolerance * max(clocks):
            return Settled(True, "", spent, states)
        if spent >= max_s:
            return Settled(False, f"the SM clock still moved after {spent:.0f} s: {clocks} MHz", spent, states)


def _float(value: Any) -> float | None:
    return float(value) if value is not None else None


def _watts(milliwatts: int | None) -> float | None:
    return milliwatts / 1e3 if milliwatts is not None else None


def _flag(value: int | None) -> bool | None:
    return bool(value) if value is not None else None


def _cuda_uuid(device: torch.device) -> str | None:
    """The UUID of the GPU (of the slice, with MIG) that torch calls `device`, without prefix; None if there is none."""
    if not torch.cuda.is_available():
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    return str(torch.cuda.get_device_properties(index).uuid) if index < torch.cuda.device_count() else None
