"""Schedules: the rounding rule, what is refused, conversions, and JSON."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import prunesearch as ps
from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.amount import kept_count
from prunesearch.core.plans.stage import parse_method
from prunesearch.core.tables.token_tables import MERGES, SCORERS

DIFFRATE = [197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3]
CLOSED = {"deadline": None, "derandomize": True, "database": None}


@st.composite
def schedules(draw: st.DrawFn, depth: int = 12) -> ps.Schedule:
    layers = sorted(draw(st.sets(st.integers(0, depth - 1), max_size=5)))
    floats = st.floats(1e-6, 1.0, exclude_min=True, allow_nan=False)
    keeps = draw(st.lists(floats, min_size=len(layers), max_size=len(layers), unique=True))
    scorers, merges = st.sampled_from(list(SCORERS)), st.sampled_from(list(MERGES))
    pairs = zip(layers, sorted(keeps, reverse=True), strict=True)
    return ps.Schedule([ps.Stage(i, k, draw(scorers), draw(merges)) for i, k in pairs])


# -- rounding ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "reducible", "kept"),
    [
        (0.07, 100, 7),
        (0.29, 100, 29),
        (0.7, 196, 138),
        (0.5, 196, 98),
        (0.51, 100, 51),
        (1.0, 7, 7),
        (0.01, 3, 1),
        (0.5, 0, 0),
    ],
)
def test_kept_count(keep: float, reducible: int, kept: int) -> None:
    assert kept_count(keep, reducible) == kept


@settings(max_examples=500, **CLOSED)
@given(digits=st.integers(1, 10_000), reducible=st.integers(0, 20_000))
def test_kept_count_is_exact_for_decimals(digits: int, reducible: int) -> None:
    keep = digits / 10_000
    assert kept_count(keep, reducible) == math.ceil(Fraction(digits, 10_000) * reducible)


@settings(max_examples=300, **CLOSED)
@given(keep=st.floats(0, 1, exclude_min=True), reducible=st.integers(0, 5000))
def test_a_stage_never_leaves_nothing_and_never_more_than_there_is(keep: float, reducible: int) -> None:
    assert min(reducible, 1) <= kept_count(keep, reducible) <= reducible


def test_the_device_rounds_alike() -> None:
    import torch

    from prunesearch.pruning.forward.tokens import kept_counts

    places = torch.arange(0, 3000)
    for keep in [d / 100 for d in range(1, 101)] + [1 / 3, 2 / 7, 1e-12]:
        assert kept_counts(keep, places, 2999).tolist() == [kept_count(keep, r) for r in range(3000)]


# -- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "rule"),
    [
        ({"layer": -1, "keep": 0.5}, r"`layer` must be an integer >= 0, but got -1"),
        ({"layer": 1.0, "keep": 0.5}, r"`layer` must be an integer >= 0, but got 1\.0"),
        ({"layer": True, "keep": 0.5}, r"`layer` .* got True"),
        ({"layer": 0, "keep": 0.0}, r"`0 < keep <= 1` must hold, but got keep=0\.0"),
        ({"layer": 0, "keep": 1.01}, r"`0 < keep <= 1` must hold, but got keep=1\.01"),
        ({"layer": 0, "keep": float("nan")}, r"`0 < keep <= 1` must hold, but got keep=nan"),
        ({"layer": 0, "keep": "0.5"}, r"`keep` must be a number .* '0\.5'"),
        ({"layer": 0, "keep": True}, r"`keep` must be a number .* True"),
        ({"layer": 0, "keep": 0.5, "scorer": "cls_atention"}, r"scorer 'cls_atention': did you mean 'cls_attention'\?"),
        ({"layer": 0, "keep": 0.5, "merge": "bipartit"}, r"merge 'bipartit': did you mean 'bipartite'\?"),
        ({"layer": 0, "keep": 0.5, "merge": ["drop"]}, r"\['drop'\]"),
        ({"layer": 0, "keep": 0.5, "scorer": None}, "None"),
    ],
)
def test_a_bad_stage(stage: dict[str, Any], rule: str) -> None:
    with pytest.raises(PruneSearchError, match=rule) as error:
        ps.Stage(**stage)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("stages", "rule"),
    [
        ([ps.Stage(3, 0.7), ps.Stage(3, 0.5)], "layers must rise from stage to stage, but layer 3 follows 3"),
        ([ps.Stage(3, 0.7), ps.Stage(1, 0.5)], "layer 1 follows 3"),
        ([ps.Stage(3, 0.7), ps.Stage(5, 0.7)], r"keep must fall strictly .* 0\.7 at layer 5 follows 0\.7 at layer 3"),
        ([ps.Stage(3, 0.7), ps.Stage(5, 0.8)], r"0\.8 at layer 5 follows 0\.7"),
        ([(3, 0.7)], r"list of Stage, but got \(3, 0\.7\)"),
    ],
)
def test_a_bad_schedule(stages: list[Any], rule: str) -> None:
    with pytest.raises(PruneSearchError, match=rule):
        ps.Schedule(stages)


def test_a_layer_beyond_the_model() -> None:
    schedule = ps.Schedule([ps.Stage(12, 0.5)])
    with pytest.raises(PruneSearchError, match="`layer < 12` must hold for a model of 12 blocks, but got layer=12"):
        schedule.counts(12, 197, 1)
    assert schedule.counts(13, 197, 1)[-1] == 99


@pytest.mark.parametrize("protected", [-1, 198])
def test_protected_tokens_out_of_range(protected: int) -> None:
    with pytest.raises(PruneSearchError, match=f"but got {protected} of 197"):
        ps.Schedule().counts(12, 197, protected)


def test_a_schedule_is_a_value() -> None:
    one, two = ps.Schedule([ps.Stage(1, 0.5)]), ps.Schedule([ps.Stage(1, 0.5)])
    assert one == two
    assert len({one, two, ps.Schedule()}) == 2
    assert one != "1:0.50"
    assert len(one) == 1
    assert [s.layer for s in one] == [1]
    assert str(ps.Schedule()) == "unpruned"
    schedule = ps.Schedule([ps.Stage(3, 0.7, merge="fuse"), ps.Stage(6, 0.5, merge="bipartite")])
    assert str(schedule) == "3:0.70 cls_attention+fuse > 6:0.50 bipartite"


def test_methods() -> None:
    for scorer in SCORERS:
        for merge in MERGES:
            stage = ps.Stage(0, 0.5, scorer, merge)
            parsed = parse_method(stage.method)
            assert ps.Stage(0, 0.5, *parsed).method == stage.method
    with pytest.raises(PruneSearchError, match="write it as SCORER\\+fuse"):
        parse_method("fuse")
    with pytest.raises(PruneSearchError, match="did you mean"):
        parse_method("value_nrm+fuse")
    with pytest.raises(PruneSearchError, match=r"a method is SCORER\+MERGE, or a merge alone, but got 'value_norm\+'"):
        parse_method("value_norm+")


# -- conversions ---------------------------------------------------------------------------------------


def test_counts_of_evit() -> None:
    ratios = [1.0] * 12
    for layer in (3, 6, 9):
        ratios[layer] = 0.7
    schedule = ps.Schedule.from_ratios(ratios, merge="fuse")
    assert schedule.counts(12, 197, 1) == [197] * 3 + [139] * 3 + [98] * 3 + [69] * 3
    assert schedule.to_ratios(12) == pytest.approx(ratios)


def test_diffrates_published_counts() -> None:
    schedule = ps.Schedule.from_counts(DIFFRATE, 197)
    assert schedule.counts(12, 197, 1) == DIFFRATE
    assert schedule.to_counts(12, 197) == DIFFRATE
    assert [s.layer for s in schedule] == list(range(1, 12))  # block 0 keeps all: no stage
    assert sum(schedule.to_removed(12, 197)) == 194


def test_tomes_published_removals() -> None:
    schedule = ps.Schedule.from_removed([13] * 12, 197)
    assert schedule.counts(12, 197, 1) == [197 - 13 * (i + 1) for i in range(12)]
    assert schedule.to_removed(12, 197) == [13] * 12
    assert {s.merge for s in schedule} == {"bipartite"}


@settings(max_examples=200, **CLOSED)
@given(data=st.data(), tokens=st.integers(3, 1200), protected=st.integers(0, 2), depth=st.integers(1, 24))
def test_counts_and_removals_go_there_and_back(data: st.DataObject, tokens: int, protected: int, depth: int) -> None:
    drawn = data.draw(st.lists(st.integers(protected + 1, tokens), min_size=depth, max_size=depth))
    counts = sorted(drawn, reverse=True)
    schedule = ps.Schedule.from_counts(counts, tokens, protected)
    assert schedule.counts(depth, tokens, protected) == counts
    removed = schedule.to_removed(depth, tokens, protected)
    assert ps.Schedule.from_removed(removed, tokens, protected).counts(depth, tokens, protected) == counts
    assert sum(removed) == tokens - counts[-1]


@settings(max_examples=200, **CLOSED)
@given(schedule=schedules())
def test_ratios_go_there_and_back(schedule: ps.Schedule) -> None:
    ratios = schedule.to_ratios(12)
    assume(all(r < 1 for r in (ratios[s.layer] for s in schedule)))
    back = ps.Schedule.from_ratios(ratios)
    assert [s.layer for s in back] == [s.layer for s in schedule]
    assert [s.keep for s in back] == pytest.approx([s.keep for s in schedule], rel=1e-12)


@settings(max_examples=200, **CLOSED)
@given(schedule=schedules(), tokens=st.integers(2, 500), protected=st.integers(0, 2))
def test_counts_never_rise(schedule: ps.Schedule, tokens: int, protected: int) -> None:
    counts = schedule.counts(12, tokens, protected)
    assert all(a >= b for a, b in zip([tokens, *counts], counts, strict=False))
    assert counts[-1] >= min(protected + 1, tokens)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: ps.Schedule.from_counts([10, 12], 20), "must not rise, but block 1 keeps 12 of 10"),
        (lambda: ps.Schedule.from_counts([21], 20), "block 0 keeps 21 of 20"),
        (lambda: ps.Schedule.from_counts([5, 1], 20), "more than the 1 protected tokens, but block 1 keeps 1"),
        (lambda: ps.Schedule.from_removed([3, -1], 20), "must be >= 0, but block 1 has -1"),
        (lambda: ps.Schedule.from_removed([30], 20), "block 0 keeps -10"),
        (lambda: ps.Schedule.from_ratios([1.0, 0.0]), r"`0 < ratio <= 1` must hold, but block 1 has 0\.0"),
        (lambda: ps.Schedule.from_ratios([1.2]), r"block 0 has 1\.2"),
    ],
)
def test_bad_lists(make: Any, rule: str) -> None:
    with pytest.raises(PruneSearchError, match=rule):
        make()


# -- JSON ----------------------------------------------------------------------------------------------


@settings(max_examples=200, **CLOSED)
@given(schedule=schedules())
def test_json_loses_nothing(schedule: ps.Schedule) -> None:
    back = ps.Schedule.from_json(schedule.to_json())
    assert back == schedule
    assert [s.keep.hex() for s in back] == [s.keep.hex() for s in schedule]
    assert ps.Schedule.from_dict(json.loads(schedule.to_json(indent=None))) == schedule


def good() -> dict[str, Any]:
    return ps.Schedule([ps.Stage(1, 0.5)]).to_dict()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"format": "other"}, "format"),
        ({"version": 2}, "version must be 1, but got 2"),
        ({"version": None}, "version must be 1, but got None"),
        ({"stages": "none"}, "list of objects"),
        ({"stages": [1]}, "list of objects"),
        ({"stages": [{"layer": 1}]}, r"exactly the keys .* \['layer'\]"),
        ({"stages": [{**ps.Stage(1, 0.5).to_dict(), "params": {}}]}, r"exactly the keys"),
        ({"stages": [{**ps.Stage(1, 0.5).to_dict(), "extra": 1}]}, "extra"),
        ({"stages": [{**ps.Stage(1, 0.5).to_dict(), "merge": {}}]}, "merge"),
        ({"stages": [{**ps.Stage(1, 0.5).to_dict(), "keep": 2}]}, "keep=2"),
    ],
)
def test_a_broken_file(change: dict[str, Any], rule: str) -> None:
    with pytest.raises(PruneSearchError, match=rule):
        ps.Schedule.from_dict({**good(), **change})


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"a"', '{"format": "prunesearch.schedule", "vers'])
def test_text_that_is_no_schedule(text: str) -> None:
    with pytest.raises(CorruptFileError):
        ps.Schedule.from_json(text)
