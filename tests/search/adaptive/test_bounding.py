"""Bounds on batches of unlike rows, against batches added up one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.search.adaptive.bounding import BatchCosts, RowBudget, row_budget
from prunesearch.search.adaptive.choosing import cheapest
from prunesearch.search.trials.evaluate import Evaluation
from tests.search.adaptive.test_choosing import evaluation

ONE, FULL = {"a": 1.0, "b": 3.0}, {"a": 4.0, "b": 15.0}


@pytest.mark.parametrize("runs_all", [False, True])
def test_batches_take_what_their_plans_take_for_as_many_rows(runs_all: bool) -> None:
    places = torch.tensor([0, 0, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1])
    found = BatchCosts(4, ONE, FULL, before=0.5).each(("a", "b"), places, runs_all=runs_all)

    def of(name: str, count: int) -> float:
        return float(np.interp(count, [1, 4], [ONE[name], FULL[name]])) if count else 0.0

    slow = [sum(places[i : i + 4].tolist()) for i in (0, 4, 8)]
    fast = [4 if runs_all else 4 - n for n in slow]
    assert found == pytest.approx([0.5 + of("a", f) + of("b", s) for f, s in zip(fast, slow, strict=True)])


def test_one_row_takes_what_was_measured_of_one() -> None:
    assert BatchCosts(1, {}, ONE).each(("a", "b"), torch.tensor([1, 0]), runs_all=True) == [4.0, 1.0]


def test_a_percentile_may_be_out_of_reach_where_the_mean_is_not() -> None:
    """A tenth of rows go to the slow plan: cheap on average, and no row in twenty may take as long."""
    right: Evaluation = evaluation([1] * 36 + [0] * 4)
    evaluations = {"a": right, "b": evaluation([1] * 40)}
    sureness = {(("a", "b"), "x"): torch.tensor([[1.0]] * 36 + [[0.0]] * 4)}
    priced = BatchCosts(1, {}, ONE)
    for percentile, fits in ((None, True), (90.0, True), (95.0, False)):
        budget = RowBudget("2ms", percentile)
        limit = budget.limit([9.0])
        assert limit == 2.0
        found = cheapest(
            evaluations,
            sureness,
            ONE,
            1.0,
            runs_all=False,
            within=lambda plans, places, b=budget: priced.keeps(b, 2.0, plans, places, runs_all=False),
        )
        assert (found is not None) == fits
    assert not BatchCosts(1, {}, ONE, tail=1.7).keeps(
        RowBudget("2ms"), 2.0, ("a", "b"), torch.tensor([0, 0, 1]), runs_all=False
    )


def test_bounds_are_of_the_unpruned_models_figure() -> None:
    ms = [1.0] * 90 + [10.0] * 10
    assert RowBudget("2x", 95.0).limit(ms) == 5.0
    assert RowBudget("50%").limit(ms) == pytest.approx(0.95)
    assert RowBudget("2x", 95.0).words == "p95 within 2x"


@pytest.mark.parametrize(
    ("text", "percentile", "said"),
    [("40mJ", None, "bounded in time"), ("2x", 40.0, "50 <= percentile"), (None, 95.0, "add --budget")],
)
def test_what_bounds_nothing_is_refused(text: str | None, percentile: float | None, said: str) -> None:
    with pytest.raises(PruneSearchError, match=said):
        row_budget(text, percentile)
    assert row_budget(None, None) is None
