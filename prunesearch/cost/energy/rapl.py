"""Energy of Intel and AMD CPUs on Linux: RAPL, as the kernel's powercap files tell it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.devices.counter import Unavailable
from prunesearch.cost.energy.counters import Reading

_SYSFS = Path("/sys/class")
_SENSORS = ("coretemp", "k10temp", "zenpower")


class RaplCounter:
    """The packages' energy together. DRAM is in it only where the package's counter has it.

    The files wrap around at `max_energy_range_uj`; a package that takes 200 W gets there in 5 minutes on older CPUs, so
    two readings must be closer than that.

    Args:
        packages: powercap folders of the packages.
        sensors: files with a package's temperature in millidegrees.
        clock: seconds now.

    Raises:
        OSError: if a file cannot be read.
    """

    name = "rapl"
    update_period_s = None

    def __init__(
        self, packages: Sequence[Path], sensors: Sequence[Path] = (), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.covers = f"CPU packages ({len(packages)})"
        self._files = [package / "energy_uj" for package in packages]
        self._ranges_uj = [_number(package / "max_energy_range_uj") for package in packages]
        self._last_uj = [_number(file) for file in self._files]
        self._sensors, self._clock = sensors, clock
        self._total_uj = 0

    def read(self) -> Reading:
        """See `EnergyCounter`."""
        try:
            values = [_number(file) for file in self._files]
        except OSError as error:
            raise PruneSearchError(f"RAPL can no longer be read ({error.strerror}): run again") from None
        now = self._clock()
        for value, last, full in zip(values, self._last_uj, self._ranges_uj, strict=True):
            self._total_uj += value - last if value >= last else value - last + full
        self._last_uj = values
        return Reading(now, self._total_uj / 1e3)

    def temperature_c(self) -> float | None:
        """See `EnergyCounter`; the hottest package."""
        try:
            return max((_number(sensor) / 1e3 for sensor in self._sensors), default=None)
        except OSError:
            return None

    def close(self) -> None:
        """See `EnergyCounter`."""


def open_rapl(device: torch.device, sysfs: Path = _SYSFS) -> RaplCounter | Unavailable | None:
    """Open the counters of all CPU packages; None for a device that is no CPU, and where there is no Linux.

    Args:
        device: `cpu`.
        sysfs: `/sys/class`, or a folder like it.
    """
    if device.type != "cpu" or not sysfs.is_dir():
        return None
    zones = sorted((sysfs / "powercap").glob("intel-rapl:*"))  # AMD's too; intel-rapl-mmio:0 is a twin of intel-rapl:0
    try:
        # the others are parts of a package (core, uncore, dram) or hold all of them (psys)
        packages = [zone for zone in zones if (zone / "name").read_text(encoding="ascii").startswith("package")]
        if not packages:
            return Unavailable(
                f"the CPU's energy counter (RAPL) is not in {sysfs / 'powercap'}, as in most virtual machines and "
                "containers: measure on the bare machine, with the kernel module intel_rapl_msr loaded"
            )
        return RaplCounter(packages, _find_sensors(sysfs / "hwmon"))
    except PermissionError as error:
        return Unavailable(
            f"the CPU's energy counter {error.filename} may only be read by root: run as root, or let all users read "
            "it: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
        )
    except (OSError, ValueError) as error:
        return Unavailable(f"the CPU's energy counter cannot be read ({error}): measure on another machine")


def _find_sensors(hwmon: Path) -> list[Path]:
    """The first sensor of each CPU, which is its package's."""
    found = []
    for chip in sorted(hwmon.glob("hwmon*")):
        sensor = chip / "temp1_input"
        if (chip / "name").is_file() and (chip / "name").read_text(encoding="ascii").strip() in _SENSORS:
            found += [sensor] if sensor.is_file() else []
    return found


def _number(file: Path) -> int:
    return int(file.read_text(encoding="ascii"))
