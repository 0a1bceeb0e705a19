"""A kind of device: everything that differs between a CPU, a GPU and what comes next, in one class.

A new kind is a class derived from `DeviceKind` and a row in `DEVICE_KINDS`; nothing else asks what a device is. What a
method here does by itself suits a device whose calls return when the work is done, and which tells nothing of itself.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch


class Clock(Protocol):
    """Takes marks while work runs, and says afterwards how far apart they were."""

    def mark(self) -> Any:
        """Mark now, at the cost of under a microsecond."""

    def between_ms(self, marks: Sequence[Any]) -> list[float]:
        """Milliseconds between consecutive marks, once all work has ended."""


class WallClock:
    """`perf_counter_ns`, for work that is done when the call returns (CPU)."""

    mark = staticmethod(time.perf_counter_ns)

    def between_ms(self, marks: Sequence[int]) -> list[float]:
        """See `Clock`."""
        return [(b - a) / 1e6 for a, b in itertools.pairwise(marks)]


@dataclass(frozen=True)
class Ready:
    """How a device came to be ready for a measurement: seconds waited, and what speaks against it all the same."""

    waited_s: float = 0.0
    doubt: str = ""


class DeviceKind:
    """One kind of device. `name` is its row in `DEVICE_KINDS` and what torch calls the type of its tensors.

    Attributes:
        accelerator: it stands beside the CPU, is numbered, and is preferred where it is here.
        stands_in: dtype in which quality is evaluated on it for another device; None: the one asked for.
        measures_memory: `peak_bytes` tells.
    """

    name: ClassVar[str]
    accelerator: ClassVar[bool] = True
    stands_in: ClassVar[str | None] = None
    measures_memory: ClassVar[bool] = False

    # -- what is here ----------------------------------------------------------------------------------

    def count(self) -> int:
        """Devices of this kind that torch can use here."""
        return 1

    def absent(self) -> str:
        """Why there is none here and what to do, in a clause; asked where `count` is 0."""
        return f"torch sees no {self.name} device"

    def identity(self) -> dict[str, Any]:
        """Facts of the first device by which a profile of it is known again; `name` among them. Empty without one."""
        return {"name": self.name} if self.count() else {}

    def describe(self, device: torch.device) -> dict[str, Any]:
        """Facts of a device in plain JSON types, `name` among them, beside those of the machine."""
        return {"name": self.name}

    def variant(self, facts: Mapping[str, Any]) -> str:
        """What, besides its name, tells a described device from others of that name, for a profile's name."""
        return ""

    @property
    def first(self) -> str:
        """What `--device` takes for the first one."""
        return f"{self.name}:0" if self.accelerator else self.name

    def profile_name(self, facts: Mapping[str, Any]) -> str:
        """A folder name made from what `describe` said: `nvidia-h200`."""
        name = re.sub(r"[^a-z0-9]+", "-", str(facts["name"]).lower()).strip("-") or self.name
        return "-".join(filter(None, (name, self.variant(facts))))

    # -- measuring -------------------------------------------------------------------------------------

    def conditions(self) -> dict[str, Any]:
        """What of the process decides its speed: `threads` and `cores`; None where they do not matter."""
        return {"threads": None, "cores": None}

    def clock(self) -> Clock:
        """A clock that times work on it."""
        return WallClock()

    def synchronize(self, device: torch.device) -> None:
        """Wait until it has done all work."""

    def make_ready(self, run: Callable[[], object], device: torch.device, patience_s: float) -> Ready:
        """Bring it into the state in which it is measured.

        Args:
            run: work for it; it may return before the work is done.
            device: which one.
            patience_s: seconds to wait at most for others to leave it alone.
        """
        return Ready()

    def slowed(self, device: torch.device) -> tuple[str, ...]:
        """Why what it does now runs slower than it should (heat, a power brake), by name; empty where all is well."""
        return ()

    def peak_bytes(self, run: Callable[[], object], device: torch.device) -> int | None:
        """The most memory that `run` held at a time, less what was held before; None where it does not tell."""
        return None
