"""Amounts that leave every row a count of its own: how they are written, and where they cannot be."""

from __future__ import annotations

import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.amount import Cumulative, Threshold
from prunesearch.core.plans.flow import Geometry
from prunesearch.core.plans.schedule import Schedule, refuse_by_row
from prunesearch.core.plans.schedule_text import parse_schedule
from prunesearch.core.plans.stage import Stage

TEXT = "1:0.80 cls_attention+drop > 2:t0.005 attention_received+fuse > 4:p0.9 value_norm+nearest > 6:0.30 random+drop"


def test_what_is_printed_is_read_back() -> None:
    schedule = parse_schedule(TEXT)
    assert str(schedule) == TEXT
    assert [stage.amount for stage in schedule][1:3] == [Threshold(0.005), Cumulative(0.9)]
    assert parse_schedule("3: t 1e-5 value_norm+drop") == Schedule([Stage(3, Threshold(1e-5), "value_norm")])


def test_the_plain_form_holds_all_of_it() -> None:
    schedule = parse_schedule(TEXT)
    assert Schedule.from_json(schedule.to_json()) == schedule
    assert schedule.stages[1].to_dict() == {
        "layer": 2,
        "threshold": 0.005,
        "scorer": "attention_received",
        "merge": "fuse",
    }
    assert schedule.to_dict()["version"] == 2


def test_a_flow_tells_the_most_that_may_be_left() -> None:
    flow = parse_schedule("1:0.50 cls_attention+drop > 2:p0.5 value_norm+fuse > 3:0.30 random+drop").flow(
        Geometry(4, 11, 1)
    )
    assert flow.counts == [11, 6, 6, 4]
    assert [step.stage is not None for step in flow] == [False, True, True, True]
    assert [step.sized for step in flow] == [False, False, False, True]


def test_a_schedule_knows_whether_rows_have_counts_of_their_own() -> None:
    assert parse_schedule("1:0.50 random+drop").by_row is None
    sampled = parse_schedule("1:0.50 random+drop > 2:0.40 cls_attention_value+drop@inverse_cdf")
    assert sampled.by_row is sampled.stages[1]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("1:t0.5 bipartite", "merge 'bipartite' has no scores to count tokens by"),
        ("1:p0.5 position_stride+drop", "'position_stride' says the same of all rows"),
        ("1:0.5 random+drop@inverse_cdf", "'random' says the same of all rows"),
        ("1:p0.5 value_norm+drop@diversity", "must have no selection: leave @diversity out"),
        ("1:p0.5 value_norm+drop > 2:0.3 bipartite", "merge 'bipartite' at layer 2 needs rows of known counts"),
        ("1:p1.5 value_norm+drop", "`0 < cumulative <= 1` must hold"),
        ("1:0.5 value_norm+drop > 2:t0.1 value_norm+drop > 3:0.7 value_norm+drop", "keep must fall strictly"),
        ("2:p0.5 value_norm+drop > 2:p0.4 value_norm+drop", "layers must rise"),
    ],
)
def test_what_cannot_be(text: str, rule: str) -> None:
    with pytest.raises(PruneSearchError, match=rule):
        parse_schedule(text)


@pytest.mark.parametrize("least", [-0.1, float("nan"), True, "0.1"])
def test_a_threshold_is_a_score(least: object) -> None:
    with pytest.raises(PruneSearchError, match="`threshold >= 0` must hold"):
        Threshold(least)  # type: ignore[arg-type]


def test_what_has_no_place_for_counts_of_rows_says_so() -> None:
    refuse_by_row(parse_schedule("1:0.5 value_norm+drop"), "a graph")
    with pytest.raises(PruneSearchError, match=r"a graph needs .* stage '2:p0.9 value_norm\+drop'"):
        refuse_by_row(parse_schedule("2:p0.9 value_norm+drop"), "a graph")
    with pytest.raises(PruneSearchError, match="a list of ratios needs"):
        parse_schedule("2:p0.9 value_norm+drop").to_ratios(4)
