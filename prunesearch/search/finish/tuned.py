"""Points whose weights were trained: they take the places in a front of what they were; the verdict is made anew."""

from __future__ import annotations

from collections.abc import Sequence

from prunesearch.search.finish.candidates import hypervolume
from prunesearch.search.finish.need import rows_note
from prunesearch.search.finish.robustness import class_note, group_note, with_worst_class
from prunesearch.search.finish.verdict import Judge, with_promises
from prunesearch.study.front import Front, trust
from prunesearch.study.front_items import Point
from prunesearch.study.front_records import Verdict

_KEPT = ("plan", "text", "qualities", "fidelity", "classes", "groups", "rows", "tuned")  # of a point that was tuned


def with_tuned(front: Front, tuned: Sequence[Point], *, blind: bool) -> Front:
    """A front with some of its points, by their ids, as they are on trained weights.

    Promises of tuned points are a sequence of tests of their own on the same holdout rows, after those of the search.
    They are held to the lower end of the two-sided 95 % interval, one-sided 97.5 %; what was promised before of points
    that are as they were stands.

    Args:
        front: as it was.
        tuned: points that are better on their trained weights; none changes nothing.
        blind: whether the unpruned model's quality is too low to tell schedules apart.
    """
    if not tuned:
        return front
    made = {point.id: point for point in map(_stricter, tuned)}
    points = [made.get(point.id, point) for point in front.points]
    promised = {
        point.id: point for point in with_promises([p for p in points if p.recovered is not None], front.objectives[0])
    }
    points = [promised.get(point.id, point) for point in points]
    return front.model_copy(
        update={
            "points": points,
            "notes": _notes(front, points),
            "verdict": _verdict(front, points, list(promised.values()), blind),
            "hypervolume": hypervolume(points, front.unpruned, front.objectives[0]),
        }
    )


def keep_tuned(front: Front, before: Front, *, blind: bool) -> Front:
    """A front that was made anew, with what was tuned of the one before: points of the same plans, on their weights."""
    known = {point.to_plan().on_own_weights: point for point in before.points if point.recovered is not None}
    found = []
    for point in front.points:
        old = known.get(point.to_plan().on_own_weights)
        if old is not None:
            kept = {name: getattr(old, name) for name in _KEPT}
            found.append(point.model_copy(update=kept))
    return with_tuned(front, found, blind=blind)


def _notes(front: Front, points: Sequence[Point]) -> list[str]:
    """Those of the front, with what its points are of now: their holdout rows, and their worst classes."""
    now = {said(front.points): said(points) for said in (rows_note, class_note, group_note)}
    return [kept for note in front.notes if (kept := now.get(note, note))]


def _stricter(point: Point) -> Point:
    first, quality = next(iter(point.qualities.items()))
    difference = point.difference.model_copy(update={"at_least": point.difference.low})
    return point.model_copy(
        update={"qualities": {**point.qualities, first: quality.model_copy(update={"difference": difference})}}
    )


def _verdict(front: Front, points: Sequence[Point], tuned: Sequence[Point], blind: bool) -> Verdict:
    """The better of what was promised of points that are as they were, and of what is promised of tuned ones."""
    judge = Judge(
        front.unpruned,
        front.task.metric,
        front.conditions.batch_size,
        front.objectives[0],
        front.budget,
        front.constraints,
        "" if front.measured else trust(front.cost_table),
        blind=blind,
    )
    sure = judge.promise(tuned)
    plain = [point for point in points if point.recovered is None]
    before = next((point for point in plain if point.id == front.verdict.point), None)
    if before is not None and (sure is None or judge.gain(before) >= judge.gain(sure)):
        return front.verdict
    return with_worst_class(judge.verdict(points, tuned if sure is not None else plain), points)
