from __future__ import annotations

import itertools

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.search.space.moves import neighbours, schedule_of, sites_of
from tests.support.fakes import make_space


def test_sites_and_back() -> None:
    space = make_space()
    schedule = Schedule([Stage(0, 0.75, "value_norm"), Stage(2, 0.25, merge="bipartite")])
    sites = sites_of(space, schedule)
    assert [(i, g) for i, g, _ in sites] == [(0, 1), (2, 3)]
    assert schedule_of(space, sites) == schedule


def test_neighbours_lie_in_the_space_and_are_new() -> None:
    space = make_space()
    schedule = Schedule([Stage(0, 0.75, "value_norm"), Stage(2, 0.25, merge="bipartite")])
    found = neighbours(space, schedule, range(len(space.methods)))
    assert len(found) == len(set(found))
    assert schedule not in found
    assert all(space.encode(s) is not None for s in found)


def test_every_kind_of_move_is_made() -> None:
    space = make_space()
    first, second = Stage(1, 0.75, "value_norm"), Stage(2, 0.25, "value_norm")
    found = set(neighbours(space, Schedule([first, second]), [0]))
    swapped = space.stage(1, 1, space.methods[0])
    expected = {
        "dropped": [second],
        "shifted": [Stage(0, 0.75, "value_norm"), second],
        "deepened": [Stage(1, 0.5, "value_norm"), second],
        "eased": [first, Stage(2, 0.5, "value_norm")],
        "swapped": [swapped, second],
        "joined": [Stage(1, 0.25, "value_norm")],
        "split": [Stage(0, 0.75, "value_norm"), Stage(1, 0.5, "value_norm"), second],
    }
    for name, stages in itertools.islice(expected.items(), 6):
        assert Schedule(stages) in found, name
    one = set(neighbours(space, Schedule([Stage(1, 0.25, "value_norm")]), [0]))
    assert Schedule([Stage(0, 0.5, "value_norm"), Stage(1, 0.25, "value_norm")]) in one


def test_the_unpruned_model_grows_a_stage() -> None:
    space = make_space()
    found = neighbours(space, Schedule(), [0, 1])
    assert found
    assert all(len(s) == 1 for s in found)
    assert {s.stages[0].layer for s in found} == set(space.layers)


def test_no_more_stages_than_the_space_has() -> None:
    space = make_space(max_stages=1)
    found = neighbours(space, Schedule([Stage(2, 0.25, "value_norm")]), [0])
    assert max(len(s) for s in found) == 1
