"""The table of ways to learn: what is compared with what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from learning import Judged, _row, best_within, ladder_of, show

import prunesearch as ps
from prunesearch.core.plans.plan import Plan
from prunesearch.search.trials.evaluate import Evaluation


def right(*rows: int) -> Evaluation:
    hits = torch.tensor(rows, dtype=torch.float64)[:, None]
    return Evaluation(hits, torch.zeros(len(rows)), hits[:, 0].bool())


def judged(ms: float, seen: float, *rows: int) -> Judged:
    return Judged(ps.Schedule([ps.Stage(1, seen, "value_norm", "drop")]), ms, seen, right(*rows))


def test_a_way_is_judged_by_the_plan_that_calibration_rows_choose_among_the_fast_ones() -> None:
    tried = [judged(4.0, 0.9, 1, 1, 1, 1), judged(2.0, 0.5, 1, 1, 1, 0), judged(1.0, 0.6, 1, 0, 0, 0)]
    assert best_within(tried, 3.0) is tried[2]  # though the other is better on the holdout rows
    assert best_within(tried, 4.0) is tried[0]
    assert best_within(tried, 0.5) is None


def test_differences_are_paired_with_both_references_and_with_frozen(capsys: Any) -> None:
    user, equal = right(1, 1, 0, 0), right(1, 1, 1, 0)
    one, frozen = judged(1.0, 0.5, 1, 1, 1, 1), judged(1.0, 0.4, 1, 0, 0, 0)
    row = _row("elastic", 1.5, one, frozen, user, equal)
    assert row["quality"] == 1.0
    assert [row[key][0] for key in ("to_user", "to_equal", "to_frozen")] == pytest.approx([0.5, 0.25, 0.75])
    assert _row("elastic", 1.5, None, frozen, user, equal) == {"way": "elastic", "speedup": 1.5}
    found = {"metric": "accuracy", "holdout": 4, "user": 0.5, "equal": 0.75, "rows": [row]}
    show({**found, "spent": {"elastic": {"steps": 10, "seconds": 3.0}}})
    assert "+75.0" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["tome", "evit", "dynamicvit", "random"])
def test_a_rivals_ladder_is_of_plans_that_take_ever_fewer_tokens(name: str) -> None:
    shape = (4, 65, 1)
    ladder = ladder_of(name, shape)
    assert all(isinstance(plan, Plan) for plan in ladder)  # as an elastic training takes them
    tokens = [sum(plan.schedule.counts(*shape)) for plan in ladder]
    assert tokens == sorted(tokens, reverse=True)
    assert 3 < len(set(tokens)) <= 12
