"""prunesearch's own format: the schedule, with a note of where its numbers come from."""

from __future__ import annotations

import json

from prunesearch.results.front import Front, Point


def to_json(point: Point, front: Front) -> str:
    """Return JSON that `Schedule.from_json` reads back without loss.

    The extra key `provenance` is for people and tools; the schedule reader passes over it.
    """
    provenance = {
        "study": front.study,
        "point": point.id,
        "trial": point.trial,
        "created": front.created,
        "prunesearch": front.prunesearch,
        "model": front.to_dict()["model"],
        "device": front.device.name,
        "conditions": front.conditions.model_dump(),
        "cost_table": front.cost_table.status,
        "metric": front.task.metric,
        "quality": point.quality.model_dump(),
        "difference": point.difference.model_dump(),
        "latency": point.latency.model_dump(),
        "energy": None if point.energy is None else point.energy.model_dump(),
        "speedup": point.speedup,
        "gmacs": point.gmacs,
    }
    data = {**point.to_schedule().to_dict(), "provenance": provenance}
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
