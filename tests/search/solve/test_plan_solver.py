"""The front of plans against all of them: every schedule of a small space in every precision, one by one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from prunesearch.core.pareto import non_dominated
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.search.samplers.surrogate import LossModel
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.solver import solve
from prunesearch.search.space.plan_space import PlanSpace
from prunesearch.search.space.space import Space
from tests.support.fakes import LinearCosts, make_space

INT8 = (Change.parse("int8"),)


@dataclass(frozen=True)
class TwoPrecisions(LinearCosts):
    """int8 makes products twice as fast, and stages no faster."""

    share: float = 1.0

    def under(self, changes: tuple[Change, ...]) -> TwoPrecisions:
        return TwoPrecisions(share=0.5 if changes else 1.0)

    def attention(self, n: int, sized: bool, layer: int) -> float:
        return self.share * super().attention(n, sized, layer)

    def mlp(self, n: int, layer: int) -> float:
        return self.share * super().mlp(n, layer)


def sensitivities_of(space: Space) -> Sensitivities:
    loss = np.zeros((len(space.layers), len(space.keeps), len(space.methods)))
    for i, g, m in itertools.product(*map(range, loss.shape)):
        loss[i, g, m] = (1 - space.keeps[g]) * (1 + 0.3 * m) / (1 + i)
    return Sensitivities(space.layers, space.keeps, space.methods, loss, loss, 1, 1, base={"int8": 0.05})


def every_plan(space: PlanSpace) -> list[Plan]:
    stages = space.schedules
    cells = list(itertools.product(range(len(stages.layers)), range(1, len(stages.keeps)), stages.methods))
    found = [Schedule()]
    for number in (1, 2):
        for chosen in itertools.combinations(cells, number):
            rising = all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(chosen))
            if rising:
                found.append(Schedule(stages.stage(stages.layers[i], g, m) for i, g, m in chosen))
    return [Plan(schedule, changes) for schedule in found for changes in space.variants.values()]


@pytest.fixture
def space() -> PlanSpace:
    return PlanSpace(make_space(max_stages=2, merges=["drop"], scorers=["cls_attention", "value_norm"]), [(), INT8])


def test_nothing_in_the_space_beats_a_seed(space: PlanSpace) -> None:
    costs, losses = TwoPrecisions(), sensitivities_of(space.schedules)
    limit = costs.predict(Plan())
    seeds = solve(space, losses, costs, limit, 1000)
    everything = [(costs.predict(plan), losses.estimate(plan)) for plan in every_plan(space)]
    front = {everything[i] for i, kept in enumerate(non_dominated(everything)) if kept}
    assert {seed.plan.variant for seed in seeds} == {"", "int8"}
    assert Plan(changes=INT8) in [seed.plan for seed in seeds]
    for seed in seeds:
        assert seed.cost == pytest.approx(costs.predict(seed.plan))
        assert seed.loss == pytest.approx(losses.estimate(seed.plan))
    # up to the width of a bucket, every plan of the true front has a seed as good
    for cost, loss in front:
        assert any(seed.cost <= cost * 1.01 and seed.loss <= loss + 1e-9 for seed in seeds)


def test_a_limit_holds_for_plans(space: PlanSpace) -> None:
    costs, losses = TwoPrecisions(), sensitivities_of(space.schedules)
    limit = 0.55 * costs.predict(Plan())
    seeds = solve(space, losses, costs, limit, 1000)
    assert seeds
    assert all(costs.predict(seed.plan) <= limit for seed in seeds)
    assert seeds[0].plan.variant == "int8"


def test_the_loss_model_knows_what_precision_loses_and_learns_the_rest(space: PlanSpace) -> None:
    losses = sensitivities_of(space.schedules)
    plans = [plan for plan in every_plan(space) if len(plan)][::7]
    model = LossModel(space, losses)
    mean, _ = model.predict([Plan(changes=INT8)])
    assert np.exp(mean[0]) == pytest.approx(0.05, rel=0.01)
    truth = np.array([losses.estimate(p) * (1.4 if p.changes else 1.0) for p in plans])
    before, _ = model.predict(plans)
    model.fit(plans, truth)
    after, _ = model.predict(plans)
    errors = [np.abs(guess - np.log(truth)).mean() for guess in (before, after)]
    assert errors[1] < 0.5 * errors[0]
