"""The device whose costs count: the one at hand, or one that is known by its profile alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prunesearch.core.tables.registry import ATTENTIONS
from prunesearch.cost.devices.device import at_hand, is_device, kind_of
from prunesearch.cost.tables.device_profile import Profile, find_profile
from prunesearch.study.config import RunConfig
from prunesearch.tasks.loading import check_attention


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
        anywhere = [known for known, row in ATTENTIONS.entries().items() if row.anywhere]
        return check_attention(name if self.here or name in anywhere else anywhere[0])

    def dtype(self, name: str) -> str:
        """The dtype to evaluate quality in: the one asked for, but a CPU stands in for another device in float32."""
        return name if self.here else kind_of(self.device).stands_in or name

    def conditions(self, config: RunConfig) -> dict[str, Any]:
        """What a profile's table must have been measured under; a CPU that is at hand, with the cores it has now."""
        local = kind_of(self.device)
        stated = {name: value for name, value in local.conditions().items() if value is not None and self.here}
        return {
            "device": local.name if self.profile is None else str(self.profile.device.get("kind")),
            "batch_size": config.batch_size,
            "dtype": config.dtype,
            "attention": check_attention(config.attention),
            "mode": config.mode,
            "concurrency": config.concurrency,
            **stated,
        }


def resolve_target(device: str) -> Target:
    """Find out what `device` names: a torch device, a profile or an alias of one; capitals do not matter.

    Raises:
        PruneSearchError: naming the nearest profile, if it is none of them.
    """
    if is_device(device):
        return Target(device.lower(), None, True)
    profile = find_profile(device)
    return Target(at_hand().first, profile, is_here(profile))


def is_here(profile: Profile) -> bool:
    """Whether the device of a profile is the one at hand, as far as its name, and a CPU's cores, can tell."""
    kind = at_hand()
    mine = kind.identity()
    if profile.device.get("kind") != kind.name or not mine:
        return False
    if profile.spec is not None:
        return profile.spec.is_called(mine["name"], mine.get("sm_count"))
    return "name" in profile.device and all(profile.device.get(k, v) == v for k, v in mine.items())


def measurable(device: str) -> tuple[str, str] | None:
    """For a device at hand that `--device` names by an estimated profile: what torch calls it, and its name."""
    kind = at_hand()
    if is_device(device) or not kind.accelerator:
        return None
    profile = find_profile(device)
    return (kind.name, kind.identity()["name"]) if profile.status == "estimated" and is_here(profile) else None
