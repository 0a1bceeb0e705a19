"""Rows in several views: one number of them, mean or worst, against sums written out; bounds that hold."""

from __future__ import annotations

import pytest
import torch

from prunesearch.core.constraint import Constraint
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.search.finish.items import metric_value, paired_difference_to
from prunesearch.search.trials.constraints import QualityConstraints
from prunesearch.search.trials.evaluate import Evaluation, Evaluator, InViews
from prunesearch.tasks.batching.mixed_views import mixed

HARD = [[1, 1, 1, 0], [1, 0, 0, 0]]  # right answers on clean rows and in fog
EASY = [[1, 1, 1, 1], [1, 1, 0, 0]]


def found(right: list[list[int]], over: str, kl: float = 0.1) -> Evaluation:
    """Rows of both views in turn, as they are evaluated."""
    rows = torch.tensor(right, dtype=torch.float32)
    views = InViews(("clean", "fog"), torch.arange(8) % 2, torch.arange(8) // 2, over)
    losses = torch.tensor([kl, 3 * kl]).repeat(4)
    return Evaluation(rows.T.reshape(8, 1), losses, rows.T.reshape(8).bool(), views=views)


def test_the_mean_and_the_worst_of_views() -> None:
    mean, worst = found(HARD, "mean"), found(HARD, "worst")
    assert (mean.quality, worst.quality) == (0.5, 0.25)
    assert (mean.loss, worst.loss) == (pytest.approx(0.2), pytest.approx(0.3))
    assert {name: there.quality for name, there in mean.in_views.items()} == {"clean": 0.75, "fog": 0.25}
    assert (mean.agreement, worst.agreement) == (0.5, 0.25)
    few = mean.first(4)
    assert few.in_views["fog"].n == 2
    assert few.quality == (1 + 0.5) / 2
    assert Evaluation(few.statistics, few.kl, few.agrees).in_views == {}


def test_a_change_over_views_is_bounded_by_the_changes_in_them() -> None:
    for over in ("mean", "worst"):
        before, after = found(EASY, over), found(HARD, over)
        change = paired_difference_to(before, after)
        each = [paired_difference_to(before.in_views[v], after.in_views[v]) for v in ("clean", "fog")]
        assert change.value == pytest.approx(after.quality - before.quality)
        assert change.low is not None
        assert change.high is not None
        assert change.low <= change.value <= change.high
        assert change.at_least is not None
        assert change.at_least <= change.value
        if over == "mean":  # rows in several views say more than those of one
            assert change.low >= min(one.low for one in each)
            assert change.high - change.low < sum(one.high - one.low for one in each) / 2
        value = metric_value(after, 0.4)
        assert (value.value, value.calibration) == (after.quality, 0.4)
        assert value.low <= value.value <= value.high


def test_a_bound_on_one_view_is_judged_there() -> None:
    bound = Constraint.parse("quality@fog >= 0.97*unpruned@fog")
    assert (bound.name, bound.view, bound.text) == ("quality", "fog", "quality@fog >= 0.97*unpruned@fog")
    broken = QualityConstraints([bound, Constraint.parse("quality@clean >= 0.7")], found(EASY, "mean"))
    said = broken(Plan(), found(HARD, "mean"))
    assert said["quality@fog >= 0.97*unpruned@fog"] == pytest.approx(0.97 * 0.5 - 0.25)
    assert said["quality@clean >= 0.7"] == pytest.approx(0.7 - 0.75)
    assert Constraint.parse("quality@fog >= 0.9*unpruned").view == "fog"
    for text, why in {
        "latency@fog <= 5ms": "a cost has none",
        "quality@fog >= 0.9*unpruned@snow": "a bound is on one view",
        "quality >= 0.9*unpruned@snow": "write 'quality@snow",
    }.items():
        with pytest.raises(PruneSearchError, match=why):
            Constraint.parse(text)


def test_an_evaluator_finds_in_each_view_what_one_of_that_view_alone_does(vit_task, handle) -> None:
    shifted = vit_task.splits["holdout"]
    pieces = [(b.inputs["pixel_values"].flip(-1), b) for b in shifted.batches]
    other = shifted.batches.__class__([type(b)({"pixel_values": x}, b.labels, b.index) for x, b in pieces])
    other_set = type(shifted)("holdout@flipped", other)
    split = mixed({"clean": shifted, "flipped": other_set}, "holdout", "worst")
    plan = Plan(Schedule([Stage(0, 0.4)]))
    whole = Evaluator(vit_task, handle, split).evaluate(plan)
    alone = [Evaluator(vit_task, handle, view).evaluate(plan) for view in (shifted, other_set)]
    assert whole.n == 24
    for name, want in zip(("clean", "flipped"), alone, strict=True):
        there = whole.in_views[name]
        assert there.quality == pytest.approx(want.quality)
        assert there.loss == pytest.approx(want.loss)
        assert there.agreement == pytest.approx(want.agreement)
    assert whole.quality == min(one.quality for one in alone)
    assert whole.loss == pytest.approx(max(one.loss for one in alone))
    unpruned = Evaluator(vit_task, handle, split).unpruned()
    assert unpruned.in_views["flipped"].quality == Evaluator(vit_task, handle, other_set).unpruned().quality
