"""The device whose costs count: the one at hand, or one that is known by its profile alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from prunesearch.cost.devices.device import cpu_name, usable_cores
from prunesearch.cost.tables.device_profile import Profile, find_profile
from prunesearch.study.config import RunConfig
from prunesearch.tasks.loading import check_attention

_TORCH = re.compile(r"(cpu|cuda)(:\d+)?")


@dataclass(frozen=True)
class Target:
    """What `--device` came to.

    Attributes:
        device: torch device at hand, on which quality is evaluated (and costs are measured, if `here`).
        profile: where costs are read from, or estimated with; None: they are measured now.
        here: True if the device at hand is the one whose costs count.
    """

    device: str
    profile: Profile | None
    here: bool

    def attention(self, name: str) -> str:
        """The attention implementation to load the model with: the one asked for where the device can be at hand."""
        asked = check_attention(name)
        return asked if self.here or asked in ("sdpa", "eager") else "sdpa"

    def dtype(self, name: str) -> str:
        """The dtype to evaluate quality in: the one asked for, but float32 on a CPU that stands in for another device.

        Half precision crawls on most CPUs, and changes quality by far less than a stage does.
        """
        return name if self.here or self.device != "cpu" else "float32"

    def conditions(self, config: RunConfig) -> dict[str, Any]:
        """What a profile's table must have been measured under; a CPU that is at hand, with the cores it has now."""
        kind = "cpu" if self.profile is None else str(self.profile.device.get("kind"))
        cpu = {"threads": torch.get_num_threads(), "cores": usable_cores()} if self.here and kind == "cpu" else {}
        return {
            "device": kind,
            "batch_size": config.batch_size,
            "dtype": config.dtype,
            "attention": check_attention(config.attention),
            "mode": config.mode,
            "concurrency": config.concurrency,
            **cpu,
        }


def resolve_target(device: str) -> Target:
    """Find out what `device` names: a torch device, a profile or an alias of one.

    Raises:
        PruneSearchError: naming the nearest profile, if it is none of them.
    """
    if _TORCH.fullmatch(device):
        return Target(device, None, True)
    profile = find_profile(device)
    local = "cuda:0" if torch.cuda.is_available() else "cpu"
    return Target(local, profile, is_here(profile))


def is_here(profile: Profile) -> bool:
    """Whether the device of a profile is the one at hand, as far as its name, and a CPU's cores, can tell."""
    if profile.device.get("kind") == "cuda":
        if not torch.cuda.is_available():
            return False
        name = torch.cuda.get_device_name(0)
        if profile.spec is not None:
            return profile.spec.is_called(name, torch.cuda.get_device_properties(0).multi_processor_count)
        return name == profile.device.get("name")
    same_name = cpu_name() == profile.device.get("name")
    return same_name and profile.device.get("affinity") == usable_cores() and not torch.cuda.is_available()


def measurable(device: str) -> str | None:
    """The name CUDA gives a device that `--device` names by an estimated profile although it is at hand; else None."""
    if _TORCH.fullmatch(device) or not torch.cuda.is_available():
        return None
    profile = find_profile(device)
    return torch.cuda.get_device_name(0) if profile.status == "estimated" and is_here(profile) else None
