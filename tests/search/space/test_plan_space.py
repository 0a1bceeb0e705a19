"""Spaces of plans: one more parameter, and everything that a space of schedules does."""

from __future__ import annotations

import random

import pytest
from optuna.distributions import CategoricalDistribution

from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.search.space.moves import neighbours
from prunesearch.search.space.plan_space import PlanSpace
from tests.support.fakes import make_space

INT8, BF16 = (Change.parse("int8"),), (Change.parse("bfloat16"),)
STAGES = Schedule([Stage(1, 0.5, "value_norm"), Stage(2, 0.25, "value_norm")])


@pytest.fixture
def space() -> PlanSpace:
    return PlanSpace(make_space(), [(), INT8, BF16])


def test_precision_is_one_more_parameter(space: PlanSpace) -> None:
    found = space.distributions()
    assert found.pop("precision") == CategoricalDistribution(["float32", "int8", "bfloat16"])
    assert found == make_space().distributions()


@pytest.mark.parametrize("changes", [(), INT8, BF16])
def test_what_is_written_as_parameters_is_read_back(space: PlanSpace, changes: tuple[Change, ...]) -> None:
    for schedule in (Schedule(), STAGES):
        params = space.encode(Plan(schedule, changes))
        assert params is not None
        assert space.decode(params) == Plan(schedule, changes)
    assert space.encode(Plan(STAGES, [Change.parse("float16")])) is None
    assert space.encode(Plan(STAGES, weights="tuned")) is None


def test_without_a_choice_the_parameters_are_those_of_a_study_of_schedules() -> None:
    alone, schedules = PlanSpace(make_space()), make_space()
    assert alone.distributions() == schedules.distributions()
    assert alone.encode(Plan(STAGES)) == schedules.encode(STAGES)
    rng = random.Random(0)
    assert alone.plain(rng).keys() == schedules.distributions().keys()
    assert alone.decode(schedules.encode(STAGES) or {}) == STAGES


def test_a_trial_of_before_is_in_the_models_own_precision(space: PlanSpace) -> None:
    params = make_space().encode(STAGES)
    assert params is not None
    assert space.decode(params) == Plan(STAGES)


def test_the_precision_stays_where_tokens_shrink(space: PlanSpace) -> None:
    plan: Plan | None = Plan(Schedule([Stage(1, 0.75, "value_norm")]), INT8)
    seen = 0
    while plan is not None:
        assert plan.changes == INT8
        plan, seen = space.shrink(plan), seen + 1
    assert seen > 1


def test_moves_change_either(space: PlanSpace) -> None:
    plan = Plan(STAGES, INT8)
    found = neighbours(space, plan, [0])
    assert [p for p in found if p.schedule == STAGES] == [Plan(STAGES), Plan(STAGES, BF16)]
    stages = [p.schedule for p in found if p.schedule != STAGES]
    assert stages == [p.schedule for p in neighbours(make_space(), STAGES, [0])]
    assert all(p.changes == INT8 for p in found if p.schedule != STAGES)
    rng = random.Random(0)
    near = [space.neighbour(plan, rng) for _ in range(200)]
    assert all((p.schedule == STAGES) or p.changes == INT8 for p in near)
    assert {p.variant for p in near} == {"", "int8", "bfloat16"}
    assert {space.decode(space.plain(rng)).variant for _ in range(50)} == {"", "int8", "bfloat16"}


def test_the_unpruned_model_in_every_precision(space: PlanSpace) -> None:
    assert space.unpruned == [Plan(), Plan(changes=INT8), Plan(changes=BF16)]
    assert space.with_methods(["bipartite"]).unpruned == space.unpruned
