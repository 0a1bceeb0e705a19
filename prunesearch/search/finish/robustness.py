"""Quality in several views of the rows: which rows it is of, and what a reader is told."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import stats

from prunesearch.study.front_items import Point, Unpruned
from prunesearch.study.setup import Setting
from prunesearch.tasks.batching.batches import EvalSet
from prunesearch.tasks.views.view_table import CLEAN

_FEW = 3  # points, below which ranks say nothing


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
