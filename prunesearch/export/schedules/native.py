"""prunesearch's own format: the schedule, with a note of where its numbers come from. Lossless."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prunesearch.core.errors import CorruptFileError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import DECODER, ENCODER
from prunesearch.export.schedules.format import Format, ModelShape, Read
from prunesearch.export.schedules.parsing import json_object

if TYPE_CHECKING:
    from prunesearch.study.front import Front
    from prunesearch.study.front_items import Point


def provenance_of(point: Point, front: Front) -> dict[str, Any]:
    """Where a point comes from: study, model, device, conditions, and what was measured of it."""
    return {
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
        "quality": {name: getattr(point.quality, name) for name in ("value", "low", "high")},
        "difference": {name: getattr(point.difference, name) for name in ("value", "low", "high")},
        "costs": {name: amount.model_dump() for name, amount in point.costs.items()},
        "speedup": point.speedup,
        **({} if point.tuned is None else {"tuned": point.tuned.model_dump(), "weights": point.to_plan().weights}),
    }


def imported_json(read: Read, source: Format, shape: ModelShape | None, file: str) -> str:
    """Return an imported schedule as native JSON, with its origin, the shape it was counted on and the notes."""
    origin: dict[str, Any] = {"imported_from": source.name, "file": file}
    if shape is not None:
        origin |= {"depth": shape.depth, "tokens": shape.tokens, "protected": shape.protected, **shape.provenance}
    return schedule_json(read.schedule, origin, read.notes)


def _write(schedule: Plan | Schedule, shape: ModelShape, remarks: Sequence[str]) -> str:
    return schedule_json(schedule, shape.provenance, remarks)


def schedule_json(schedule: Plan | Schedule, provenance: Mapping[str, Any], remarks: Sequence[str] = ()) -> str:
    """Return JSON that `Schedule.from_json`, of a plan with changes `Plan.from_json`, reads back without loss.

    The extra keys `provenance` and `remarks` are for people and tools; the schedule reader passes over them.
    """
    data = schedule.to_dict()
    if provenance:
        data["provenance"] = dict(provenance)
    if remarks:
        data["remarks"] = list(remarks)
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _read(text: str, shape: ModelShape | None, entry: str | None) -> Read:
    """Read a native schedule; with a shape, its blocks must exist."""
    try:
        schedule = Schedule.from_dict(json_object(text))
    except OverflowError:
        raise CorruptFileError("a number is too large for a schedule") from None
    if shape is not None:
        schedule.check_depth(shape.depth)
    return Read(schedule)


JSON = Format(
    name="json",
    tool="prunesearch",
    write=_write,
    read=_read,
    limits="it can say every schedule",
    parts=(ENCODER, DECODER),
    lossless=True,
    source="prunesearch/core/plans/schedule.py",
)
