"""Energy of AMD GPUs, Jetson modules and Apple silicon, through the zeus package (an optional extra)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.devices.counter import Unavailable
from prunesearch.cost.energy.counters import Reading

_TEGRA = Path("/etc/nv_tegra_release")  # there is one on every Jetson
_JETSON_PERIOD_S = 0.1  # zeus polls a Jetson's power; the other counters are the hardware's own
_APPLE = {"cpu": ("cpu_total_mj", "CPU cores"), "mps": ("gpu_mj", "GPU cores")}


class ZeusCounter:
    """A cumulative mJ of zeus's device API.

    Args:
        total_mj: reads it.
        covers: what it is of.
        temperature_c: degrees Celsius now.
        raises: what zeus raises where it cannot read.
        update_period_s: where known.
        clock: seconds now.
    """

    name = "zeus"

    def __init__(
        self,
        total_mj: Callable[[], float],
        *,
        covers: str,
        raises: type[Exception],
        temperature_c: Callable[[], float | None] = lambda: None,
        update_period_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.covers, self.update_period_s = covers, update_period_s
        self._total_mj, self._temperature_c, self._clock, self._raises = total_mj, temperature_c, clock, raises

    def read(self) -> Reading:
        """See `EnergyCounter`."""
        try:
            energy = self._total_mj()
        except self._raises as error:
            raise PruneSearchError(f"zeus can no longer read the energy ({error}): run again") from None
        return Reading(self._clock(), float(energy))

    def temperature_c(self) -> float | None:
        """See `EnergyCounter`."""
        return self._temperature_c()

    def close(self) -> None:
        """See `EnergyCounter`."""


def open_zeus(
    device: torch.device,
    *,
    platform: str = sys.platform,
    tegra: Path = _TEGRA,
    hip: str | None = torch.version.hip,
    find: Callable[[str], Any] = import_module,
) -> ZeusCounter | Unavailable | None:
    """Open an AMD GPU (`cuda` on ROCm), a Jetson (`cuda`) or Apple silicon (`cpu`, `mps`); None for other devices.

    Args:
        platform: as `sys.platform`.
        tegra: a file that every Jetson has.
        hip: version of ROCm that torch was built for.
        find: imports the modules of zeus.
    """
    amd = device.type == "cuda" and hip is not None
    jetson = device.type == "cuda" and not amd and tegra.exists()
    apple = device.type in _APPLE and platform == "darwin"
    if not (amd or jetson or apple):
        return None
    try:
        raises, zeus = find("zeus.exception").ZeusBaseError, find("zeus.device")
    except ImportError:
        return Unavailable("the energy of this device is read through zeus: pip install 'prunesearch[energy]'")
    try:
        return _open_amd(zeus, raises, device) if amd else _open_soc(zeus, raises, device, jetson)
    except raises as error:
        return Unavailable(f"zeus finds no energy counter of '{device}' ({str(error).rstrip('.')})")


def _open_amd(zeus: Any, raises: type[Exception], device: torch.device) -> ZeusCounter | Unavailable:
    gpus = zeus.get_gpus()
    index = torch.cuda.current_device() if device.index is None else device.index  # zeus counts as torch does
    if not gpus.supports_get_total_energy_consumption(index):
        return Unavailable("zeus finds the energy counter of this AMD GPU wrong or of two GPUs together")
    return ZeusCounter(
        lambda: gpus.get_total_energy_consumption(index),
        covers="GPU board",
        raises=raises,
        temperature_c=lambda: gpus.get_gpu_temperature(index),
    )


def _open_soc(zeus: Any, raises: type[Exception], device: torch.device, jetson: bool) -> ZeusCounter | Unavailable:
    soc = zeus.get_soc()
    # a Jetson's GPU shares its memory and much else with the CPU: its input tells all that a forward costs
    choices = [("total_energy_mj", "module input"), ("gpu_energy_mj", "GPU rail")] if jetson else [_APPLE[device.type]]
    told = soc.get_available_metrics()
    for metric, covers in choices:
        if metric in told:
            return ZeusCounter(
                lambda metric=metric: getattr(soc.get_total_energy_consumption(), metric),  # type: ignore[misc]
                covers=covers,
                raises=raises,
                update_period_s=_JETSON_PERIOD_S if jetson else None,
            )
    return Unavailable(f"zeus reads no energy of '{device}' here, only {', '.join(sorted(told)) or 'nothing'}")
