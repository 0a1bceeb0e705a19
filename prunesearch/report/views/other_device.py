"""A front on another device, priced by that device's cost table: quality does not depend on the device."""

from __future__ import annotations

from typing import Any

from prunesearch.core.costs import find_cost
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.device_profile import find_profile, profile_folders
from prunesearch.report.views.study_view import StudyView
from prunesearch.study.front import Front
from prunesearch.study.front_items import CostAmount, FrontItem, Point, Unpruned
from prunesearch.study.front_records import Device
from prunesearch.study.front_records import TableInfo as Summary


def other_devices(study: StudyView) -> dict[str, CostTable]:
    """Tables of measured profiles that can price this study's schedules, by the profile's name.

    Estimated devices are not among them: an estimate needs the model itself (`prunesearch transfer`).
    """
    if study.front is None or study.table is None:
        return {}
    found = {}
    conditions = {**study.table.conditions}
    for name in profile_folders():
        try:
            profile = find_profile(name)
            asked = {**conditions, **({"device": profile.device["kind"]} if "kind" in profile.device else {})}
            for free in ("threads", "cores"):
                asked.pop(free, None)  # another machine has its own
            table = profile.find(study.table.shape, asked, study.front.model.id)
            if table is not None and profile.device.get("name") != study.device:
                for point in study.front.points:
                    table.predict(point.to_plan())
                found[name] = table
        except PruneSearchError:
            continue
    return found


def front_on(front: Front, table: CostTable, name: str) -> Front:
    """The same schedules with the latencies that `table` predicts on the device called `name`."""

    def priced(item: FrontItem, plan: Plan) -> dict[str, Any]:
        """What changes of an item: other costs that belong to a device are not known of this one."""
        costs = {n: amount for n, amount in item.costs.items() if not find_cost(n).on_device}
        return {"costs": {"latency": CostAmount(predicted=table.predict(plan)), **costs}, "loads": []}

    unpruned: Unpruned = front.unpruned.model_copy(update=priced(front.unpruned, Plan()))
    points: list[Point] = []
    for point in front.points:
        change = priced(point, point.to_plan())
        speedup = unpruned.latency.value / change["costs"]["latency"].value
        points.append(point.model_copy(update={**change, "speedup": speedup}))
    kind = str(table.device.get("kind", front.device.kind))
    return front.model_copy(
        update={
            "device": Device(name=name, kind=kind),
            "cost_table": Summary(**table.summary()),
            "objectives": ["latency"],
            "percentile": None,
            "loads": [],
            "budget": None,
            "unpruned": unpruned,
            "points": sorted(points, key=lambda p: -p.latency.value),
        }
    )
