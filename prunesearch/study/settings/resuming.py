"""Whether a study that was begun with other settings can go on, and settings that mean the same in any folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunesearch.core.budget import Budget
from prunesearch.core.errors import PruneSearchError

PATHS = ("model", "data", "weights")
# Settings that may differ when a study is resumed: they change how long it goes on, not what its trials mean.
_FREE_TO_CHANGE = (
    "accuracy",
    "trials",
    "timeout_s",
    "patience_s",
    "race",
    "engine",
    "workers",
    "ray_address",
    "storage",
    "start_from",
)
# and those that nothing depends on before the first trial, so that a budget that was refused can be raised
_FREE_BEFORE_TRIALS = ("budget", "objectives", "constraints", "percentile", "across", "sampler", "seeds", "skip_bad")


def check_same(
    before: Mapping[str, Any], now: Mapping[str, Any], study: str, *, tried: bool, found: tuple[str, ...] = ()
) -> None:
    """Raise if a study that was begun with the settings `before` cannot go on with `now`.

    Args:
        before: as its folder has them, of any version.
        now: all of them, `located`.
        study: its name, for the message.
        tried: whether it has evaluated schedules.
        found: settings that the data decide.
    """
    before = {**before, **located(before), **_settled(before)}
    if before.get("given") != now["given"]:
        raise PruneSearchError(
            f"study '{study}' is of {_model_of(before)}, but got {_model_of(now)}: give the same one to resume it, "
            "or another --study"
        )
    if before.get("given_digest") not in (None, now["given_digest"]):
        same = "the same files" if before.get("given") is None else "the same objects"
        raise PruneSearchError(
            f"study '{study}' was begun with other weights or other rows of {_model_of(before)}: give {same} to resume "
            "it, or another --study"
        )
    free = {"given_digest", *_FREE_TO_CHANGE, *found, *(() if tried else _FREE_BEFORE_TRIALS)}
    name = next((k for k in now if k not in free and k in before and before[k] != now[k]), None)
    if name is not None:
        raise PruneSearchError(
            f"study '{study}' was begun with {name}={before[name]!r}, but got {now[name]!r}: "
            "give the same settings to resume it, or another --study"
        )


def located(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings that name files, with absolute paths where these are there."""
    found: dict[str, Any] = {name: _absolute(settings[name]) for name in PATHS if settings.get(name) is not None}
    if settings.get("start_from"):
        found["start_from"] = [_absolute(name) for name in settings["start_from"]]
    space = settings.get("space")
    if space is not None:  # a folder of that name is none
        found["space"] = os.path.abspath(space) if Path(space).is_file() else space
    return found


def _settled(before: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that were once written as they were asked for: with capitals, and None for what the budget decides."""
    found: dict[str, Any] = {}
    if before.get("device") is not None:
        found["device"] = str(before["device"]).lower()
    if "objectives" in before and before["objectives"] is None:
        budget = before.get("budget")
        found["objectives"] = ["latency" if budget is None else Budget.parse(budget).cost("latency")]
    return found


def _model_of(settings: Mapping[str, Any]) -> str:
    if settings.get("given") is not None:
        return f"a caller's own model ({settings['given']})"
    return "the demo" if settings.get("model") is None else f"model {settings['model']}"


def _absolute(names: str) -> str:
    """`a` or `calibration,holdout` with absolute paths to what is here; Hub ids stay."""
    if Path(names).exists():  # a comma may be part of a name
        return os.path.abspath(names)
    parts = names.split(",")
    return ",".join(os.path.abspath(part) if Path(part).exists() else part.rstrip("/") for part in parts)
