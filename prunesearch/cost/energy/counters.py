"""Energy counters: what on this machine tells how much energy was used, by name, in the order tried.

A new meter is a class with the members of `EnergyCounter`, a function that opens it, and a row in
`COUNTERS` (`core/tables/registry.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch

from prunesearch.core.tables.names import Registry, Row
from prunesearch.core.tables.registry import COUNTERS
from prunesearch.cost.devices.counter import Unavailable
from prunesearch.cost.devices.device import device_named


@dataclass(frozen=True)
class Reading:
    """`energy_mj` used since an origin of the counter's own, as told at `seconds` on the counter's clock."""

    seconds: float
    energy_mj: float


class EnergyCounter(Protocol):
    """Cumulative energy of one device. What moves the counter is stated, so that no two are compared unawares."""

    @property
    def name(self) -> str:
        """Its row in `COUNTERS`, or `replay`."""

    @property
    def covers(self) -> str:
        """What the energy is of: the GPU board, the CPU packages, ..."""

    @property
    def update_period_s(self) -> float | None:
        """Seconds between two updates of the counter where that is known beforehand; None: to be measured."""

    def read(self) -> Reading:
        """Read the counter; raises `PruneSearchError` if it can no longer be read."""

    def temperature_c(self) -> float | None:
        """Temperature of the device in degrees Celsius; None where it does not tell."""

    def close(self) -> None:
        """End what the counter runs in the background."""


# given a device: its counter, why there is none, or None if this kind of counter has nothing to do with such a device
Opener = Callable[[torch.device], EnergyCounter | Unavailable | None]


def open_counter(device: str | torch.device, counters: Registry[Row] = COUNTERS) -> EnergyCounter | Unavailable:
    """Open the first of `counters` that tells the energy of `device`; the caller closes it.

    Returns:
        The counter, or `Unavailable` with the reason of every counter that is made for such a device.

    Raises:
        PruneSearchError: if `device` is no device.
    """
    target = device_named(device)
    reasons: list[str] = []
    for name in counters:
        found = cast(Opener, counters.load(name))(target)
        if isinstance(found, Unavailable):
            reasons.append(found.reason)
        elif found is not None:
            return found
    if not reasons:
        return Unavailable(f"no energy counter is made for device '{target}': known are {', '.join(counters)}")
    return Unavailable("; ".join(dict.fromkeys(reasons)))
