"""`Space.at_edges`: levels move to the right edges of plateaus."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunesearch.core.plans.amount import kept_count
from prunesearch.cost.tables.plateaus import CurvePoint, Plateau, plateaus
from prunesearch.search.space.space import Space
from tests.support.fakes import make_space, small_space_file


def test_every_level_moves_to_the_right_edge_of_its_plateau():
    """17 tokens, one protected: the levels keep 13, 9 and 5."""
    space = make_space()
    assert space.counts == [17, 13, 9, 5]
    moved = space.at_edges([Plateau(1, 6, 1.0), Plateau(7, 9, 2.0), Plateau(10, 15, 3.0), Plateau(16, 17, 4.0)])
    assert moved.counts == [17, 15, 9, 6]
    assert moved.keeps == [1.0, 14 / 16, 8 / 16, 5 / 16]
    assert (moved.methods, moved.layers, moved.max_stages) == (space.methods, space.layers, space.max_stages)
    assert space.counts == [17, 13, 9, 5]


def test_levels_on_one_plateau_become_one():
    moved = make_space().at_edges([Plateau(1, 10, 1.0), Plateau(11, 17, 3.0)])
    assert moved.counts == [17, 10]


def test_a_level_on_the_plateau_of_the_whole_sequence_goes():
    moved = make_space().at_edges([Plateau(1, 9, 1.0), Plateau(10, 17, 2.0)])
    assert moved.counts == [17, 9]


def test_where_nothing_saves_anything_the_space_stays():
    """Something has to be tried; the verdict will say that unpruned is best."""
    space = make_space()
    assert space.at_edges([Plateau(1, 17, 1.0)]) is space


def test_counts_outside_of_every_plateau_stay():
    assert make_space().at_edges([]).counts == [17, 13, 9, 5]
    assert make_space().at_edges([Plateau(8, 10, 1.0)]).counts == [17, 13, 10, 5]


def test_a_curve_without_steps_changes_nothing():
    space = make_space()
    curve = [CurvePoint(n, 1.0 + 0.3 * n) for n in (5, 9, 13, 17)]
    assert space.at_edges(plateaus(curve)).counts == space.counts


def test_a_staircase_of_tiles_is_climbed_at_its_edges():
    """Latency in steps of 8 tokens: 13 costs as much as 16, and 9 too."""
    curve = [CurvePoint(n, 1.0 + -(-n // 8)) for n in range(1, 18)]
    assert make_space().at_edges(plateaus(curve)).counts == [17, 16, 8]


@given(
    tokens=st.integers(3, 600),
    protected=st.integers(0, 2),
    keep=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=9),
    steps=st.sets(st.integers(1, 600), max_size=40),
)
def test_moved_counts_are_edges_whatever_the_rounding(tokens, protected, keep, steps):
    """An edge of n tokens must come back as exactly n, not n + 1, through the fraction that a schedule stores."""
    file = small_space_file(keep=keep)
    if all(kept_count(k, tokens - protected) == tokens - protected for k in keep):
        return
    space = Space(file, 4, tokens, protected)
    edges = sorted({n for n in steps if n < tokens} | {tokens})
    cut = [Plateau(low + 1, high, 1.0) for low, high in zip([0, *edges[:-1]], edges, strict=True)]
    moved = space.at_edges(cut)
    expected = {min(e for e in edges if e >= n) for n in space.counts[1:]} - {tokens}
    if expected:
        assert set(moved.counts) == expected | {tokens}
        for level in range(1, len(moved.keeps)):
            stage = moved.stage(0, level, space.methods[0])
            assert protected + kept_count(stage.keep, tokens - protected) == moved.counts[level]
    else:
        assert moved is space


@pytest.mark.parametrize("moves", [[Plateau(1, 6, 1.0), Plateau(7, 17, 2.0)]])
def test_schedules_of_the_moved_space_are_encoded_and_decoded(moves):
    moved = make_space().at_edges(moves)
    for params in ({"layer": 1, "level": 1}, {"layer": 3, "level": 1}):
        full = {f"{k}_{s}": 0 for k in ("layer", "level") for s in range(3)}
        full |= {f"method_{s}": moved.methods[0] for s in range(3)}
        full |= {"layer_0": params["layer"], "level_0": params["level"]}
        schedule = moved.decode(full)
        assert moved.decode(moved.encode(schedule)) == schedule
        assert schedule.counts(4, 17, 1)[-1] == 6
