"""Choosing one point of a front: `best@10ms`, `best@40mJ`, `fastest@0.99`, `knee`, `p3`, or a trial's number.

`fastest@` is a promise: the share is kept at 95 % confidence on rows that the search has not seen, by the bounds that
`search.finish.verdict` found for all candidates together. Choices among points use the calibration split, whose numbers
are not those that are reported; where the unpruned model's are not in the file, both sides come from the holdout split.
"""

from __future__ import annotations

import math

from prunesearch.core.budget import Budget
from prunesearch.core.constraint import relative_bound
from prunesearch.core.costs import find_cost
from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.plans.plan import Plan
from prunesearch.core.tables.export_tables import PICKS
from prunesearch.study.front import Front
from prunesearch.study.front_items import CostAmount, FrontItem, Measured, Point
from prunesearch.study.front_records import RowPlans

RULES = ("cascade", "router")  # of several points, chosen row by row
BY_SCORE = ("by-score", "learnt-thresholds")  # one plan, whose stages leave every row a count of its own


def pick(front: Front, spec: str) -> Point:
    """Return the point that `spec` asks for.

    Args:
        front: the front of a study.
        spec: `best@BUDGET` (highest quality within it), `fastest@SHARE` (lowest latency that keeps that share, 0 to 1
            or in %, of the unpruned quality at 95 % confidence), `knee` (farthest from the straight line between the
            unpruned model and the fastest point), a point's id, a trial's number, or `by-score` and `learnt-thresholds`
            (what `adapt` found of stages by row). Ties go to the faster.

    Raises:
        PruneSearchError: for an unknown spec, or when no point satisfies it, with the nearest that is there.
    """
    if not front.points:
        raise PruneSearchError(
            f"the front of study '{front.study}' has no point to pick: {front.verdict.text or 'it is empty'}"
        )
    text = spec.strip()
    if text in BY_SCORE:
        return stages_point(front, text)
    chosen = front.point(text)
    if chosen is not None:
        return chosen
    name, at, value = text.partition("@")
    if name in PICKS and bool(at) == bool(PICKS.entry(name).takes):
        found: Point = PICKS[name](front, value)
        return found
    if text.isdecimal():
        return _trial(front, int(text))
    forms = [f"{name}@{row.takes}" if row.takes else name for name, row in PICKS.entries().items()]
    hint = did_you_mean(text, [*(p.id for p in front.points), *forms])
    raise PruneSearchError(
        f"pick '{spec}' is not understood: {hint}; write {', '.join(forms)}, a point such as p1, or a trial number"
    )


def pick_rule(front: Front, spec: str) -> RowPlans | None:
    """What `prunesearch adapt` found under this name (`cascade`, `router`); None for another name.

    Raises:
        PruneSearchError: if it has not been looked for, or nothing is decided by it.
    """
    if spec not in RULES:
        return None
    if front.adapted is None:
        raise PruneSearchError(f"study '{front.study}' has no {spec} yet: `prunesearch adapt {front.study}` finds it")
    found = next((one for one in front.adapted.contestants if one.name == spec), None)
    if found is None:
        raise PruneSearchError(f"no {spec} kept enough in study '{front.study}': give `adapt` another --keep")
    if 1.0 in found.shares:
        only = found.plans[found.shares.index(1.0)]
        raise PruneSearchError(f"the {spec} sends every row to {only}, so that it decides nothing: export {only}")
    return found


def stages_point(front: Front, name: str) -> Point:
    """A plan of stages by row that `prunesearch adapt` found, as a point that is on no front: it has no one latency.

    Its latency is the mean over batches of unlike rows, of as many rows as the study's where those were timed.

    Raises:
        PruneSearchError: if it has not been looked for, or none kept enough.
    """
    adapted = front.adapted
    found = next((one for one in adapted.contestants if one.name == name), None) if adapted else None
    if adapted is None or found is None or found.plan is None or found.fidelity is None:
        raise PruneSearchError(
            f"study '{front.study}' has no plan of stages by row called {name}: `prunesearch adapt {front.study}"
            f"{' --learn-thresholds' if name != BY_SCORE[0] else ''}` looks for one"
        )
    sizes = [latency.batch_size for latency in found.latencies]
    place = sizes.index(front.conditions.batch_size) if front.conditions.batch_size in sizes else 0
    unpruned = next(one for one in adapted.contestants if one.name == "unpruned").latencies[place].mean
    ms, plan = found.latencies[place].mean, Plan.from_dict(found.plan)
    predicted = found.priced.mean if found.priced and found.priced.batch_size == sizes[place] else None
    return Point(
        id=name,
        trial=-1,
        plan=found.plan,
        text=str(plan),
        qualities={front.task.metric: found.quality},
        costs={"latency": CostAmount(predicted=predicted, measured=Measured(value=ms))},
        fidelity=found.fidelity,
        tokens=[round(found.left.mean)] if found.left else [],
        speedup=unpruned / ms,
    )


def plans_of(front: Front, spec: str) -> list[Plan]:
    """The plans of the points that `spec` names: one, or those of a cascade or router."""
    rule = pick_rule(front, spec)
    points = [pick(front, spec)] if rule is None else [p for p in front.points if p.id in rule.plans]
    return [point.to_plan() for point in points]


def best(front: Front, value: str) -> Point:
    """The point of the highest quality within a budget such as `10ms`, `60%` or `2x`."""
    budget = Budget.parse(value)
    row = find_cost(budget.cost(front.objectives[0]))
    costs = {p.id: p.cost(row.name).value if budget.relative else p.dearest(row.name) for p in front.points}
    limit = budget.limit(front.unpruned.cost(row.name).value)
    within = [p for p in front.points if costs[p.id] <= limit]
    if not within:
        least = min(front.points, key=lambda p: costs[p.id])
        reach = math.ceil(costs[least.id] * 100) / 100
        raise PruneSearchError(
            f"no point of study '{front.study}' runs within {budget.text} ({limit:.2f} {row.unit}): the least is "
            f"{least.id} at {costs[least.id]:.2f} {row.unit}; pick {least.id} or best@{reach:g}{row.unit}"
        )
    qualities = _qualities(front)
    return min(within, key=lambda p: (-qualities[p.id], p.latency.value))


def fastest(front: Front, value: str) -> Point:
    """The point of the lowest latency that keeps a share of the unpruned quality, at 95 % confidence."""
    share = _share(value)
    base, least = front.unpruned.quality.value, _promised(front)
    floor = relative_bound(share, base) - base
    good = [p for p in front.points if p.id in least and least[p.id] >= floor]
    if good:
        return min(good, key=lambda p: (p.latency.value, -p.quality.value))
    guess = [p for p in front.points if p.difference.value >= floor]
    said = ""
    if guess:
        quickest = min(guess, key=lambda p: p.latency.value)
        said = f" (by point estimate {quickest.id} does, which flatters)"
    way_out = f"pick {quickest.id}" if guess else f"pick {front.points[0].id}"
    if least:
        nearest = max(least, key=lambda name: least[name])
        # the share of which `relative_bound` makes what the nearest is sure to have
        reach = math.floor((1 + least[nearest] / abs(base)) * 1000) / 1000 if base else 0.0
        way_out = f"pick fastest@{reach:g} or {nearest}" if reach > 0 else f"pick {nearest}"
    raise PruneSearchError(
        f"no point of study '{front.study}' keeps {share:g} of the unpruned {front.task.metric} at 95 % confidence"
        f"{said}: {way_out}"
    )


def _promised(front: Front) -> dict[str, float]:
    """What can be promised of each point's difference to the unpruned model.

    Files of before version 4 do not say; from them, the least lower end of the intervals of a point and all slower
    ones. These are two-sided, so that they promise less.
    """
    known = {p.id: p.difference.promised for p in front.points if p.difference.promised is not None}
    if known or any(p.difference.at_least is not None for p in front.points):
        return known
    least, found = math.inf, {}
    for point in front.points:
        least = min(least, point.difference.bound)
        found[point.id] = least
    return found


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


def knee(front: Front, value: str) -> Point:
    """The point farthest from the line between the unpruned model and the fastest point.

    Distances are taken with both axes scaled to the length 1, and count towards better and faster only.
    """
    qualities, reference = _qualities(front), _reference(front)
    start = front.unpruned.latency.value
    quickest = min(front.points, key=lambda p: p.latency.value)
    run = start - quickest.latency.value
    rise = max([reference, *qualities.values()]) - min([reference, *qualities.values()])
    run, rise = (run if abs(run) > 0 else 1.0), (rise or 1.0)
    slope = (qualities[quickest.id] - reference) / rise

    def above_chord(point: Point) -> float:
        """Height over the chord; the same factor turns every height into a distance."""
        along = (start - point.latency.value) / run
        return (qualities[point.id] - reference) / rise - slope * along

    return min(front.points, key=lambda p: (-round(above_chord(p), 12), p.latency.value))


def _trial(front: Front, number: int) -> Point:
    for point in front.points:
        if point.trial == number:
            return point
    listed = ", ".join(f"{p.trial} ({p.id})" for p in front.points)
    raise PruneSearchError(f"trial {number} is not on the front of study '{front.study}': it has {listed}")


def _qualities(front: Front) -> dict[str, float]:
    """Each point's quality, on the split on which the unpruned model's is known too."""
    return {p.id: _seen(p, front) for p in front.points}


def _reference(front: Front) -> float:
    """The unpruned model's quality on the split that `_qualities` uses."""
    return _seen(front.unpruned, front)


def _seen(item: FrontItem, front: Front) -> float:
    seen = item.quality.calibration
    return item.quality.value if seen is None or front.unpruned.quality.calibration is None else seen
