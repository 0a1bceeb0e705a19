"""Choosing one point of a front: `best@10ms`, `best@40mJ`, `fastest@0.99`, `knee`, `p3`, or a trial's number.

Choices that compare qualities use the calibration split; the holdout numbers are for reporting. Where the
unpruned model's calibration quality is not in the file, both sides come from the holdout split.
"""

from __future__ import annotations

import math

from prunesearch.core.budget import UNITS, Budget
from prunesearch.core.constraint import relative_bound
from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.study.front import Front, Point, cost_of, dearest_of

_FORMS = "best@10ms (or best@60%, best@2x), fastest@0.99, knee, a point such as p1, or a trial number"


def pick(front: Front, spec: str) -> Point:
    """Return the point that `spec` asks for.

    Args:
        front: the front of a study.
        spec: `best@BUDGET` (highest quality within it), `fastest@SHARE` (lowest latency with at least that
            share, 0 to 1 or in %, of the unpruned quality), `knee` (farthest from the straight line between
            the unpruned model and the fastest point), a point's id, or a trial's number. Ties go to the faster.

    Raises:
        PruneSearchError: for an unknown spec, or when no point satisfies it, with the nearest that is there.
    """
    if not front.points:
        raise PruneSearchError(
            f"the front of study '{front.study}' has no point to pick: {front.verdict.text or 'it is empty'}"
        )
    text = spec.strip()
    chosen = front.point(text)
    if chosen is not None:
        return chosen
    kind, at, value = text.partition("@")
    if kind == "best" and at:
        return _best(front, Budget.parse(value))
    if kind == "fastest" and at:
        return _fastest(front, value)
    if text == "knee":
        return _knee(front)
    if text.isdecimal():
        return _trial(front, int(text))
    known = [p.id for p in front.points] + ["knee", "best@10ms", "fastest@0.99"]
    raise PruneSearchError(f"pick '{spec}' is not understood: {did_you_mean(text, known)}; write {_FORMS}")


def _best(front: Front, budget: Budget) -> Point:
    unit = UNITS[budget.cost(front.objectives[0])]
    costs = {p.id: cost_of(p, unit) if budget.relative else dearest_of(p, unit) for p in front.points}
    limit = budget.limit(cost_of(front.unpruned, unit))
    within = [p for p in front.points if costs[p.id] <= limit]
    if not within:
        least = min(front.points, key=lambda p: costs[p.id])
        reach = math.ceil(costs[least.id] * 100) / 100
        raise PruneSearchError(
            f"no point of study '{front.study}' runs within {budget.text} ({limit:.2f} {unit}): the least is "
            f"{least.id} at {costs[least.id]:.2f} {unit}; pick {least.id} or best@{reach:g}{unit}"
        )
    return min(within, key=lambda p: (-p.calibration.quality, p.latency.ms))


def _fastest(front: Front, value: str) -> Point:
    share = _share(value)
    qualities, reference = _qualities(front), _reference(front)
    floor = relative_bound(share, reference)
    good = [p for p in front.points if qualities[p.id] >= floor]
    if not good:
        nearest = min(front.points, key=lambda p: (-qualities[p.id], p.latency.ms))
        found = qualities[nearest.id]
        # the share of which `relative_bound` makes what the nearest has
        reach = math.floor((1 - (reference - found) / abs(reference)) * 1000) / 1000 if reference else 0.0
        best = f"{reach:g}" if reach > 0 else f"{found:.3g} against {reference:.3g}"
        way_out = f"pick {nearest.id}" + (f" or fastest@{reach:g}" if reach > 0 else "")
        raise PruneSearchError(
            f"no point of study '{front.study}' keeps {share:g} of the unpruned {front.task.metric}: the best "
            f"is {nearest.id} with {best}; {way_out}"
        )
    return min(good, key=lambda p: (p.latency.ms, -qualities[p.id]))


def _share(value: str) -> float:
    """Read `0.99` or `99%`."""
    number = value.strip()
    try:
        share = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise PruneSearchError(
            f"`0 < share <= 1` must hold in fastest@SHARE, but got '{value}': write fastest@0.99 or fastest@99%"
        )
    return share


def _knee(front: Front) -> Point:
    """Distances are taken with both axes scaled to the length 1, and count towards better and faster only."""
    qualities, reference = _qualities(front), _reference(front)
    start = front.unpruned.latency.ms
    fastest = min(front.points, key=lambda p: p.latency.ms)
    run = start - fastest.latency.ms
    rise = max([reference, *qualities.values()]) - min([reference, *qualities.values()])
    run, rise = (run if abs(run) > 0 else 1.0), (rise or 1.0)
    slope = (qualities[fastest.id] - reference) / rise

    def above_chord(point: Point) -> float:
        """Height over the chord; the same factor turns every height into a distance."""
        along = (start - point.latency.ms) / run
        return (qualities[point.id] - reference) / rise - slope * along

    return min(front.points, key=lambda p: (-round(above_chord(p), 12), p.latency.ms))


def _trial(front: Front, number: int) -> Point:
    for point in front.points:
        if point.trial == number:
            return point
    listed = ", ".join(f"{p.trial} ({p.id})" for p in front.points)
    raise PruneSearchError(f"trial {number} is not on the front of study '{front.study}': it has {listed}")


def _qualities(front: Front) -> dict[str, float]:
    """Each point's quality, on the split on which the unpruned model's is known too."""
    if front.unpruned.calibration is None:
        return {p.id: p.quality.value for p in front.points}
    return {p.id: p.calibration.quality for p in front.points}


def _reference(front: Front) -> float:
    """The unpruned model's quality on the split that `_qualities` uses."""
    calibration = front.unpruned.calibration
    return front.unpruned.quality.value if calibration is None else calibration.quality
