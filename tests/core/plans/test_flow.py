"""Flows: the walk over a forward, judged by a slow one written for the purpose."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunesearch as ps
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.stage import Place
from prunesearch.core.tables.token_tables import MERGES, SCORERS
from prunesearch.cost.costs import sum_of_pieces

CLOSED = {"deadline": None, "derandomize": True, "database": None}
SIZING = {"fuse", "nearest", "soft", "bipartite"}


@st.composite
def schedules(draw: st.DrawFn, depth: int = 8) -> ps.Schedule:
    layers = sorted(draw(st.sets(st.integers(0, depth - 1), max_size=4)))
    shares = draw(st.lists(st.integers(1, 1000), min_size=len(layers), max_size=len(layers), unique=True))
    pairs = zip(layers, sorted(shares, reverse=True), strict=True)
    scorers, merges = st.sampled_from(list(SCORERS)), st.sampled_from(list(MERGES))
    return ps.Schedule([ps.Stage(i, share / 1000, draw(scorers), draw(merges)) for i, share in pairs])


def slow_walk(schedule: ps.Schedule, depth: int, tokens: int, protected: int) -> list[tuple[Any, ...]]:
    """Every token by itself: a row of booleans that says which are left, and whether any may be several."""
    row, several, found = [True] * tokens, False, []
    for block in range(depth):
        entering, before, taking = sum(row), several, None
        for stage in schedule:
            if stage.layer != block:
                continue
            share = Fraction(round(stage.keep * 1000), 1000)
            left = protected + max(ceil(share * (tokens - protected)), 1 if tokens > protected else 0)
            while sum(row) > left:  # protected tokens are never among those that go
                row[row.index(True)] = False
                taking, several = stage, before or stage.merge in SIZING
        found.append((block, entering, sum(row), before, taking))
    return found


@settings(max_examples=300, **CLOSED)
@given(schedule=schedules(), tokens=st.integers(1, 120), share=st.floats(0, 1))
def test_a_flow_is_that_of_a_slow_walk(schedule: ps.Schedule, tokens: int, share: float) -> None:
    protected = int(share * tokens)
    flow = schedule.flow(ps.Geometry(8, tokens, protected))
    steps = [(step.layer, step.n_in, step.n_out, step.sized, step.stage) for step in flow]
    assert steps == slow_walk(schedule, 8, tokens, protected)
    assert flow.counts == [step.n_out for step in flow] == schedule.counts(8, tokens, protected)
    assert flow.n_out == flow.counts[-1]
    assert len(flow) == 8
    assert [step.place for step in flow] == [Place("encoder", i) for i in range(8)]


def test_a_stage_that_takes_nothing_is_none() -> None:
    schedule = ps.Schedule([ps.Stage(1, 0.95, merge="fuse"), ps.Stage(2, 0.4)])
    flow = schedule.flow(ps.Geometry(4, 11, 1))
    assert [step.stage is None for step in flow] == [True, True, False, True]
    assert not any(step.sized for step in flow)  # nothing was fused: 10 of 10 stayed
    longer = flow.on(ps.Geometry(4, 101, 1))
    assert [step.n_out for step in longer] == [101, 96, 41, 41]
    assert [step.sized for step in longer] == [False, False, True, True]
    assert flow.on(flow.geometry) is flow


def test_a_geometry_is_a_list_of_parts() -> None:
    geometry = ps.Geometry(3, 17, 1)
    assert [(part.name, part.depth) for part in geometry.parts] == [("encoder", 3)]
    assert list(geometry.places) == [Place("encoder", block) for block in range(3)]
    assert geometry.reducible == 16
    assert geometry == ps.Geometry(3, 17, 1)
    assert len({geometry, ps.Geometry(3, 17, 1), ps.Geometry(3, 17, 2)}) == 2


@pytest.mark.parametrize(
    ("numbers", "rule"),
    [((0, 17, 1), "`depth >= 1`"), ((3, 17, 18), "`0 <= protected <= tokens`"), ((3, 17, -1), "but got -1 of 17")],
)
def test_a_geometry_that_no_model_has(numbers: tuple[int, int, int], rule: str) -> None:
    with pytest.raises(PruneSearchError, match=rule):
        ps.Geometry(*numbers)


def test_a_place_that_the_model_does_not_have() -> None:
    geometry = ps.Geometry(3, 17, 1)
    with pytest.raises(PruneSearchError, match="`layer < 3` must hold"):
        ps.Schedule([ps.Stage(3, 0.5)]).flow(geometry)
    with pytest.raises(PruneSearchError, match=r"no part 'tower' but its encoder: leave the stage at tower/1 out"):
        ps.Schedule([ps.Stage(Place("tower", 1), 0.5)]).flow(geometry)


def test_a_decoder_loses_tokens_before_its_first_block_too() -> None:
    geometry = ps.Geometry(3, 26, 6, "decoder")
    assert [str(place) for place in geometry.places] == ["input/0", "decoder/0", "decoder/1", "decoder/2"]
    at_input = ps.Plan.parse("input/0:0.5 random+drop > decoder/1:0.2 key_norm+drop").flow(geometry)
    assert (at_input.n_in, at_input.entry is not None) == (16, True)
    assert [(step.n_in, step.n_out) for step in at_input] == [(16, 16), (16, 10), (10, 10)]
    assert [str(step.place) for step in at_input] == ["decoder/0", "decoder/1", "decoder/2"]
    named, bare = (ps.Plan.parse(f"{where}:0.5 random+drop").flow(geometry) for where in ("decoder/1", "1"))
    assert named.counts == bare.counts == [26, 16, 16]
    assert bare.entry is None


def test_a_stage_at_the_input_is_priced_as_a_stage() -> None:
    class Told:
        stem, in_tower = 1.0, None

        def attention(self, n: int, sized: bool, layer: int) -> float:
            return n

        def mlp(self, n: int, layer: int) -> float:
            return 0.0

        def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
            return 1000.0 * (n_in - n_out)

        def head(self, n: int) -> float:
            return 0.0

    flow = ps.Plan.parse("input/0:0.5 random+drop").flow(ps.Geometry(3, 26, 6, "decoder"))
    assert sum_of_pieces(Told(), flow) == 1.0 + 3 * 16 + 1000.0 * 10
