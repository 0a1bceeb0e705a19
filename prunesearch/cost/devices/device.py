"""Which device a name or a tensor means, and where a measurement was taken: without it a latency means nothing."""

from __future__ import annotations

import re
from typing import Any

import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.registry import DEVICE_KINDS
from prunesearch.cost.devices.kind import Clock, DeviceKind
from prunesearch.cost.devices.machine import cpu_name, machine_facts

_FORM = re.compile(r"([a-z]+)(:\d+)?")


def is_device(name: str) -> bool:
    """Whether `name` is of the form `cpu`, `cuda` or `cuda:N`, of any kind in `DEVICE_KINDS`, here or not."""
    found = _FORM.fullmatch(name.lower())
    return found is not None and found[1] in DEVICE_KINDS


def device_named(name: str | torch.device) -> torch.device:
    """The torch device called `name`, whether it is here or not.

    Raises:
        PruneSearchError: naming the nearest kind, if it is none.
    """
    text = str(name).lower()
    if not is_device(text):
        DEVICE_KINDS.entry(text.partition(":")[0])  # raises for a kind that is none
        raise PruneSearchError(f"a device must be like {', '.join(_examples())}, but got '{name}'")
    return torch.device(text)


def kind_of(device: str | torch.device) -> DeviceKind:
    """The kind of a device, or of its name.

    Raises:
        PruneSearchError: naming the nearest kind, if it is of none.
    """
    return kind_called(device_named(device).type)


def kind_called(name: str) -> DeviceKind:
    """The kind that `DEVICE_KINDS` has under `name`."""
    made: DeviceKind = DEVICE_KINDS.load(name)()
    return made


def at_hand() -> DeviceKind:
    """The kind of the device that a run takes where nobody names one: an accelerator if there is one, else the CPU."""
    kinds = [kind_called(name) for name in DEVICE_KINDS]
    return next((kind for kind in kinds if kind.accelerator and kind.count()), kind_called("cpu"))


def clock_for(device: str | torch.device) -> Clock:
    """The clock that can time work on `device`."""
    return kind_of(device).clock()


def describe_device(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Describe the device and the software on it, in plain JSON types.

    Args:
        device: a name as `device_named` takes it.

    Returns:
        `name`, `kind`, what the kind of device tells besides, and `machine.machine_facts`.

    Raises:
        PruneSearchError: for a device that cannot be timed here.
    """
    target = device_named(device)
    kind = kind_of(target)
    if not kind.count():
        raise PruneSearchError(f"device '{target}' is not available: {kind.absent()}; use --device cpu")
    cpu = {"cpu": cpu_name()} if kind.accelerator else {}
    return {"kind": kind.name, **kind.describe(target), **cpu, **machine_facts()}


def process_conditions(device: torch.device) -> dict[str, Any]:
    """What of this process decides the speed of `device` (see `DeviceKind.conditions`); of shapes alone, nothing."""
    kind = kind_of(device) if is_device(str(device)) else DeviceKind()
    return kind.conditions()


def _examples() -> list[str]:
    return [form for name in DEVICE_KINDS for form in dict.fromkeys((name, kind_called(name).first))]
