"""Quality in several views of the rows and class by class: which rows it is of, and what a reader is told."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy import stats
from torch import Tensor

from prunesearch.search.finish.items import paired_difference_to
from prunesearch.search.trials.evaluate import Evaluation, order_of_rows
from prunesearch.study.front_items import ClassQuality, Point, Unpruned
from prunesearch.study.front_records import Verdict
from prunesearch.study.setup import Setting
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import EvalSet
from prunesearch.tasks.batching.groups import groups_in
from prunesearch.tasks.views.view_table import CLEAN

_FEW = 3  # points, below which ranks say nothing
_LEAST_ROWS = 20  # of a class, below which nothing is said of it
_MOST = 20  # classes that are told


def judged_rows(setting: Setting) -> EvalSet:
    """The holdout rows that results are of; of rows in several views as many in each as were asked for."""
    split = setting.task.judging("holdout")
    return split.take(len(split.views) * setting.config.robust_rows) if split.views else split


def searched_rows(setting: Setting) -> EvalSet:
    """The calibration rows that trials may be evaluated on, at most."""
    return setting.task.judging("calibration").take(setting.config.search_samples)


def robust_notes(points: Sequence[Point], unpruned: Unpruned) -> list[str]:
    """What a reader should know of points in several views: their order, and who is best where it is hardest."""
    views = list(unpruned.qualities)[1:]
    if len(points) < 2 or not views:
        return []
    found = []
    clean = [point.qualities[CLEAN].value for point in points]
    rank = rank_correlation(clean, [point.quality.value for point in points])
    if rank is not None:
        found.append(
            f"over {len(views)} views the {len(points)} points are ordered as on clean rows with a rank correlation of "
            f"{rank:.2f}"
        )
    hardest = min(views, key=lambda view: unpruned.qualities[view].value)
    winner, there = _best(points, CLEAN), _best(points, hardest)
    same = "it is too" if winner.id == there.id else f"{there.id} is"
    mine, base = (100 * item.qualities[hardest].value for item in (there, unpruned))
    found.append(
        f"the best point on clean rows is {winner.id}; in {hardest}, hardest for the unpruned model, {same} "
        f"({mine:.1f} %, unpruned {base:.1f} %)"
    )
    staged = [point for point in points if len(point.to_plan())]
    early = rank_correlation([float(first_stage(p)) for p in staged], [held(p, views) for p in staged])
    if early is not None:
        word = "later" if early > 0 else "earlier"
        found.append(
            f"points whose first stage is {word} hold better in the views, beyond what they lose on clean rows: rank "
            f"correlation with the first stage's block {early:+.2f}"
        )
    return found


def _best(points: Sequence[Point], view: str) -> Point:
    """The best in a view; of equals the fastest."""
    return max(points, key=lambda point: (point.qualities[view].value, point.speedup))


def first_stage(point: Point) -> int:
    """The block of its first stage."""
    return min(stage.place.site for stage in point.to_plan())


def held(point: Point, views: Sequence[str]) -> float:
    """How much better its change is over the altered views than on clean rows."""
    changes = {view: found.difference.value for view in views if (found := point.qualities[view]).difference}
    others = [value for view, value in changes.items() if view != CLEAN]
    return sum(others) / len(others) - changes.get(CLEAN, 0.0) if others else 0.0


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None where it says nothing."""
    if len(one) < _FEW or len(set(one)) < 2 or len(set(other)) < 2:
        return None
    found = float(stats.spearmanr(one, other).statistic)
    return found if math.isfinite(found) else None


# -- class by class ----------------------------------------------------------------------------------------------------


def by_parts(
    points: Sequence[Point], task: Task, unpruned: Evaluation, evaluations: Sequence[Evaluation], split: EvalSet
) -> list[Point]:
    """The points with what `classes_of` and `groups_of` say of each."""
    return [
        point.model_copy(
            update={
                "classes": classes_of(task, unpruned, found, split),
                "groups": groups_of(task, unpruned, found, split),
            }
        )
        for point, found in zip(points, evaluations, strict=True)
    ]


def classes_of(task: Task, unpruned: Evaluation, evaluation: Evaluation, split: EvalSet) -> list[ClassQuality]:
    """The classes of rows, the one that lost most first; of rows in several views those that are as they were.

    Empty where rows have no one class each, or are not right or wrong.

    Args:
        task: with its metric and the names of its classes.
        unpruned: the unpruned model on at least these rows, as an `Evaluator` of the split found it.
        evaluation: a plan, likewise.
        split: the rows of `unpruned`.
    """
    labels = split.labels
    numbers = isinstance(labels, Tensor) or all(type(one) is int for one in labels)
    wanted = torch.as_tensor(labels).cpu() if numbers else None
    if wanted is None or wanted.ndim != 1 or not task.label_names or not task.scoring.binary:
        return []
    return _each_of(unpruned, evaluation, wanted[order_of_rows(split)], task.label_names)


def groups_of(task: Task, unpruned: Evaluation, evaluation: Evaluation, split: EvalSet) -> list[ClassQuality]:
    """The groups of rows likewise, whatever the metric; empty where no column says them.

    Args:
        task: with the groups of its rows.
        unpruned, evaluation, split: as of `classes_of`.
    """
    values = task.groups.get("holdout")
    if values is None:
        return []
    mine = groups_in(split, values)
    names = sorted(set(mine))
    places = {name: place for place, name in enumerate(names)}
    wanted = torch.tensor([places[name] for name in mine])
    return _each_of(unpruned, evaluation, wanted[order_of_rows(split)], names)


def _each_of(unpruned: Evaluation, evaluation: Evaluation, wanted: Tensor, names: Sequence[str]) -> list[ClassQuality]:
    """What is told of the parts of rows, by the place of each row's name, int64 `[n]`; the one that lost most first."""
    wanted = wanted[: evaluation.n]
    base = unpruned.first(evaluation.n)
    if evaluation.views is not None:
        clean = evaluation.views.of == evaluation.views.names.index(CLEAN)
        wanted, base, evaluation = wanted[clean], base.in_views[CLEAN], evaluation.in_views[CLEAN]
    found = [_part(base, evaluation, wanted == place, place, names) for place in sorted(set(wanted.tolist()))]
    told = [one for one in found if one.rows >= _LEAST_ROWS]
    return sorted(told, key=lambda one: (one.change, one.quality))[:_MOST] if len(told) > 1 else []


def _part(base: Evaluation, found: Evaluation, mine: Tensor, place: int, names: Sequence[str]) -> ClassQuality:
    before, after = (part_of(one, mine.nonzero().flatten()) for one in (base, found))
    ends = paired_difference_to(before, after).ends
    return ClassQuality(
        name=names[place] if place < len(names) else str(place),
        rows=after.n,
        quality=after.quality,
        change=after.quality - before.quality,
        low=None if ends is None else ends[0],
        high=None if ends is None else ends[1],
    )


def part_of(evaluation: Evaluation, rows: Tensor) -> Evaluation:
    """Of some rows in one view, int64 `[m]`."""
    return Evaluation(evaluation.statistics[rows], evaluation.kl[rows], evaluation.agrees[rows], evaluation.metric)


def worst_class(parts: Sequence[ClassQuality], what: str = "classes") -> str:
    """`cat -3.9 points (95 % interval -9.2 to +1.4; 62.7 % of 51 rows), the most of 10 classes`."""
    one, ends = parts[0], ""
    if one.low is not None and one.high is not None:
        ends = f"95 % interval {100 * one.low:+.1f} to {100 * one.high:+.1f}; "
    return (
        f"{one.name} {100 * one.change:+.1f} points ({ends}{100 * one.quality:.1f} % of {one.rows:,} rows), the most "
        f"of {len(parts)} {what}"
    )


def with_worst_class(verdict: Verdict, points: Sequence[Point]) -> Verdict:
    """The verdict with the class, and the group, that the recommended point costs most."""
    point, text = next((point for point in points if point.id == verdict.point), None), verdict.text
    if point is not None and point.classes and point.classes[0].change < 0:
        text += f" Class by class it costs {worst_class(point.classes)}."
    if point is not None and point.groups and point.groups[0].change < 0:
        text += f" Group by group it costs {worst_class(point.groups, 'groups')}."
    return verdict.model_copy(update={"text": text})


def class_note(points: Sequence[Point]) -> str | None:
    """The class that each point costs most, in a line; None where classes are not known."""
    return _most([(point.id, point.classes) for point in points], "class")


def group_note(points: Sequence[Point]) -> str | None:
    """The group likewise."""
    return _most([(point.id, point.groups) for point in points], "group")


def part_notes(points: Sequence[Point]) -> list[str]:
    """Both, where they are known."""
    return [note for note in (class_note(points), group_note(points)) if note]


def _most(points: Sequence[tuple[str, Sequence[ClassQuality]]], what: str) -> str | None:
    told = [f"{name} {parts[0].name} {100 * parts[0].change:+.1f}" for name, parts in points if parts]
    return f"{what} that loses most, points of rows as they are: {', '.join(told)}" if told else None
