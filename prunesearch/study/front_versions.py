"""Older versions of `front.json`, rewritten to the present one: nothing in them is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule

Data = dict[str, Any]

_COST_OF_UNIT = {"ms": "latency", "mJ": "energy", "GMACs": "macs", "MiB": "memory"}  # as versions 2 and 3 had them


def _to_4(data: Data) -> Data:
    """Costs by name in one shape, qualities by name; versions 2 and 3, of which the latter added defaults."""
    metric = data["task"]["metric"]
    new = {**data, "version": 4, "combined": None}
    new["unpruned"] = _item(data["unpruned"], metric)
    new["points"] = [_item(point, metric) for point in data["points"]]
    budget = data.get("budget")
    if budget is not None:
        new["budget"] = {name: value for name, value in budget.items() if name != "unit"}
        new["budget"]["cost"] = _COST_OF_UNIT[budget.get("unit", "ms")]
    return new


def _item(item: Data, metric: str) -> Data:
    moved = ("quality", "difference", "calibration", "fidelity", "latency", "loads", "energy", "memory", "gmacs")
    new = {name: value for name, value in item.items() if name not in moved}
    seen = item.get("calibration")
    quality = {**item["quality"], "calibration": None if seen is None else seen["quality"]}
    if "difference" in item:
        quality["difference"] = item["difference"]
    new["qualities"] = {metric: quality}
    if "schedule" in new:
        new["plan"] = Plan(Schedule.from_dict(new.pop("schedule"))).to_dict()
    near = item.get("fidelity")
    if near is not None:
        new["fidelity"] = {**near, "calibration_kl": item["calibration"]["kl"]}
    costs = {"latency": _latency(item["latency"]), "macs": {"predicted": item["gmacs"]}}
    for name, read in (("energy", _energy), ("memory", _memory)):
        if item.get(name) is not None:
            costs[name] = read(item[name])
    new["costs"] = costs
    new["loads"] = [{"latency": _latency(latency)} for latency in item.get("loads", [])]
    return new


def _latency(old: Data) -> Data:
    percentile = old.get("percentile_ms")
    if old["median_ms"] is None:
        return {"predicted": old["predicted_ms"], "measured": None}
    measured = {"value": old["median_ms"], "p10": old["p10_ms"], "p90": old["p90_ms"]}
    if percentile is not None:
        measured |= {"value": percentile, "median": old["median_ms"]}
    return {"predicted": old["predicted_ms"], "measured": measured}


def _energy(old: Data) -> Data:
    measured = old["measured"]
    return {
        "predicted": old["predicted_mj"],
        "measured": None if measured is None else {**measured, "net": old["net_mj"]},
    }


def _memory(old: Data) -> Data:
    measured = old["measured_mib"]
    return {"predicted": old["predicted_mib"], "measured": None if measured is None else {"value": measured}}


UPGRADES: dict[int, Callable[[Data], Data]] = {2: _to_4, 3: _to_4}
