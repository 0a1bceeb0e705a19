"""Numbers of stages by row: as many tokens on average as a fraction leaves, whichever way a number works."""

from __future__ import annotations

import pytest
import torch

from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule_text import parse_schedule
from prunesearch.pruning.apply import apply_
from prunesearch.search.adaptive.by_score import KINDS, RowTwins, convertible, counts_of, fractions, matched
from tests.support.small_models import build, inputs_of


@pytest.mark.parametrize("scale", [1e-6, 0.02, 3.0, 4e4])
def test_a_threshold_is_found_on_whatever_scale_scores_are(scale: float) -> None:
    scores = [scale * (i + 1) / 50 for i in range(50)]
    found = matched(lambda number: sum(score >= number for score in scores), 20, bounded=False)
    assert 19 <= sum(score >= found for score in scores) <= 21


def test_a_share_is_found() -> None:
    assert matched(lambda share: 50 * share**3, 20, bounded=True) == pytest.approx(0.4 ** (1 / 3), abs=0.01)


@pytest.mark.parametrize("letter", KINDS)
def test_a_twin_leaves_as_many_on_average(letter: str) -> None:
    model, rows = build("vit"), [inputs_of("vit", (13,) * 16)]
    fraction = Plan(parse_schedule("1:0.60 cls_attention+fuse > 2:0.30 value_norm+drop"))
    with apply_(model, []) as handle, torch.inference_mode():
        twins = RowTwins(model, handle, rows)
        twin = twins.of(fraction, letter)
        assert twin is not None
        assert all(stage.by_row for stage in twin)
        assert twins.left(twin) == pytest.approx(twins.left(fraction), abs=0.6)
        assert len(set(counts_of(model, handle, twin, rows[0]))) > 1


def test_what_has_no_twin() -> None:
    with apply_(model := build("vit"), []) as handle:
        twins = RowTwins(model, handle, [inputs_of("vit", (13, 13))])
        assert twins.of(Plan(parse_schedule("1:0.6 bipartite > 2:0.3 random+drop")), "p") is None
        behind = Plan(parse_schedule("1:0.6 value_norm+drop > 2:0.3 bipartite"))
        assert twins.of(behind, "p") is None
        before = twins.of(Plan(parse_schedule("1:0.6 bipartite > 2:0.3 value_norm+drop")), "p")
        assert before is not None
        assert [stage.by_row for stage in before] == [False, True]


def test_points_that_have_a_twin_and_stages_by_themselves_are_asked() -> None:
    points = {"p1": Plan(parse_schedule("1:0.6 bipartite")), "p2": Plan(parse_schedule("3:0.6 value_norm+drop"))}
    asked = dict(fractions(points, 8))
    assert "p1" not in asked
    assert asked["p2"] == points["p2"]
    assert {stage.layer for name, plan in asked.items() if name != "p2" for stage in plan} == {2, 4}
    assert all(convertible(stage) for plan in asked.values() for stage in plan)
