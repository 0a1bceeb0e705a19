"""Options of halves of blocks in the dynamic programme, the space and the loss model."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from prunesearch.core.plans.flow import Flow
from prunesearch.core.plans.plan import Change, Options, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.core.tables.token_tables import MERGES
from prunesearch.cost.costs import Costs
from prunesearch.search.samplers.surrogate import LossModel
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.solver import solve
from prunesearch.search.space.moves import neighbours
from prunesearch.search.space.plan_space import PlanSpace
from prunesearch.search.space.space import Space
from tests.search.solve.test_dynamic import random_sensitivities
from tests.support.fakes import DEPTH, LinearCosts, make_space

INT8 = (Change.parse("int8"),)
FORMS = {"attention": ("width(heads=2)", "skip(part=attention)"), "mlp": ("width(mlp=32)", "rank(mlp=8)")}
SHARES = {"heads2": 0.6, "none": 0.0, "mlp32": 0.5, "rank8": 0.7}
OPTIONS: Options = {
    (block, half): tuple(Change.parse(f"{block}:{form}") for form in forms)
    for block, half in ((1, "attention"), (1, "mlp"), (3, "mlp"))
    for forms in [FORMS[half]]
}


@dataclass(frozen=True)
class ChangedCosts(LinearCosts):
    """Halves cost their shares; int8 halves everything."""

    changes: tuple[Change, ...] = ()

    def under(self, changes: tuple[Change, ...]) -> Costs:
        return replace(self, changes=changes)

    def _share(self, layer: int, half: str) -> float:
        own = Plan(changes=self.changes).halves.get((layer, half))
        return (0.5 if INT8[0] in self.changes else 1.0) * (1.0 if own is None else SHARES[own.word])

    def attention(self, n: int, sized: bool, layer: int) -> float:
        return self._share(layer, "attention") * super().attention(n, sized, layer)

    def mlp(self, n: int, layer: int) -> float:
        return self._share(layer, "mlp") * super().mlp(n, layer)


@pytest.fixture
def space() -> PlanSpace:
    return PlanSpace(
        make_space(keep=[0.5, 0.25], scorers=["value_norm"], merges=["drop", "bipartite"], max_stages=2),
        [(), INT8],
        options=OPTIONS,
    )


def losses(space: Space, seed: int) -> Sensitivities:
    rng = np.random.default_rng(seed)
    halves = {str(c): float(rng.exponential(0.3)) for known in OPTIONS.values() for c in known}
    return replace(random_sensitivities(space, seed), halves=halves, base={"int8": 0.05})


def every_plan(space: PlanSpace) -> list[Plan]:
    stages = [Schedule()]
    s = space.schedules
    for number in (1, 2):
        for layers in itertools.combinations(range(DEPTH), number):
            for levels in itertools.combinations(range(1, len(s.keeps)), number):
                for methods in itertools.product(s.methods, repeat=number):
                    stages.append(Schedule([s.stage(*one) for one in zip(layers, levels, methods, strict=True)]))
    found = []
    for schedule, whole in itertools.product(stages, space.variants.values()):
        for chosen in itertools.product(*((None, *known) for known in OPTIONS.values())):
            found.append(space.planned(schedule, whole, [c for c in chosen if c is not None]))
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("seed", [0, 1])
def test_seeds_lie_on_the_exhaustive_front(space: PlanSpace, seed: int) -> None:
    """Over every plan: stages, precision, and each form of every half."""
    costs, sensitivities = ChangedCosts(), losses(space.schedules, seed)
    limit = costs.predict(Plan())
    # by cheap sums, for there are many plans
    pairs = np.array([(costs.predict(plan), sensitivities.estimate(plan)) for plan in every_plan(space)])
    seeds = solve(space, sensitivities, costs, limit, 1000)
    assert len(seeds) > 10
    assert any(seed.plan.skips for seed in seeds)
    assert any(seed.plan.halves and len(seed.plan) for seed in seeds)
    bucket = (limit - costs.stem) / (999 - 6 * DEPTH)
    slack = bucket * DEPTH * 1.5 + 1e-9  # each third of a block is rounded to a bucket
    for found in seeds:
        assert found.cost == pytest.approx(costs.predict(found.plan))
        assert found.loss == pytest.approx(sensitivities.estimate(found.plan))
        faster = pairs[pairs[:, 0] <= found.cost - slack, 1]
        assert found.loss <= min(faster, default=float("inf")) + 1e-9
    assert seeds[-1].cost <= pairs[:, 0].min() + slack


def test_without_options_nothing_is_other_than_before(space: PlanSpace) -> None:
    costs, stages = LinearCosts(), space.schedules
    plain = solve(PlanSpace(stages), losses(stages, 0), costs, 100.0, 50)
    assert plain == solve(stages, losses(stages, 0), costs, 100.0, 50)
    assert not any(seed.plan.changes for seed in plain)


def test_parameters_are_read_back_and_any_combination_is_legal(space: PlanSpace) -> None:
    rng = random.Random(0)
    assert {"attention_1", "mlp_1", "mlp_3", "precision"} <= set(space.distributions())
    seen = set()
    for _ in range(200):
        drawn: dict[str, Any] = {}
        for name, distribution in space.distributions().items():
            given: Any = distribution
            known = getattr(given, "choices", None)
            drawn[name] = rng.choice(known) if known else rng.randint(given.low, given.high)
        plan = space.decode(drawn)
        params = space.encode(plan)
        assert params is not None
        assert space.decode(params) == plan
        assert not plan.skips & {(stage.layer, "attention") for stage in plan}
        seen.add(plan)
    assert len(seen) > 150
    assert space.encode(Plan(changes=[Change.parse("0:width(heads=2)")])) is None
    plain = make_space().encode(Schedule())
    assert plain is not None  # of a study of before
    assert PlanSpace(make_space(), options=OPTIONS).decode(plain) == Plan()


def test_a_move_is_one_step_of_one_half_or_of_the_stages(space: PlanSpace) -> None:
    plan = Plan(Schedule([Stage(1, 0.5, "value_norm", "drop")]), [*INT8, Change.parse("3:width(mlp=32)")])
    near = neighbours(space, plan, [0])
    halves = {str(other) for other in near if other.schedule == plan.schedule and other.whole == plan.whole}
    kept = "1:0.50 value_norm+drop | int8"
    assert halves == {
        f"{kept}",
        f"{kept} | 3:rank(mlp=8)",
        f"{kept} | 1:width(heads=2) | 3:width(mlp=32)",
        f"{kept} | 1:width(mlp=32) | 3:width(mlp=32)",
    }
    assert all(space.encode(other) is not None for other in near)
    rng, walked = random.Random(1), plan
    for _ in range(60):
        walked = space.neighbour(walked, rng)
        assert space.encode(walked) is not None
    assert walked.changes != plan.changes


def test_without_stages_only_the_model_changes(space: PlanSpace) -> None:
    bare = PlanSpace(space.schedules.without_stages(), [(), INT8], options=OPTIONS)
    assert not any("layer" in name for name in bare.distributions())
    costs = ChangedCosts()
    free = Sensitivities.free(bare.schedules, OPTIONS)
    seeds = solve(bare, replace(losses(bare.schedules, 0), loss=free.loss), costs, costs.predict(Plan()), 50)
    assert seeds
    assert not any(len(seed.plan) for seed in seeds)
    assert bare.with_methods(bare.schedules.methods[:1]).schedules.max_stages == 0


def test_the_loss_model_learns_what_halves_do_together(space: PlanSpace) -> None:
    """Where they lose three times what they lose each by itself, it comes to say so, of plans it has not seen too."""
    assert {MERGES.entry("drop").makes_sizes} == {False}
    sensitivities = losses(space.schedules, 2)
    plans = [plan for plan in every_plan(space) if len(plan.halves) > 1 and not len(plan) and not plan.whole]
    random.Random(0).shuffle(plans)
    seen, unseen = plans[:12], plans[12:30]
    model = LossModel(space, sensitivities)
    before = np.exp(model.predict(unseen)[0])
    model.fit(seen, np.array([3 * sensitivities.estimate(plan) for plan in seen]))
    after = np.exp(model.predict(unseen)[0])
    wanted = np.array([3 * sensitivities.estimate(plan) for plan in unseen])
    assert abs(np.log(after / wanted)).mean() < 0.3 * abs(np.log(before / wanted)).mean()
    assert model.corrected().halves["1:width(heads=2)"] > 2 * sensitivities.halves["1:width(heads=2)"]
    assert np.allclose(model.corrected().loss, sensitivities.loss, rtol=0.2)


def test_prices_and_flows_agree(space: PlanSpace) -> None:
    costs = ChangedCosts()
    plan = Plan(Schedule([Stage(0, 0.5, "value_norm", "drop")]), [Change.parse("1:skip(part=attention)")])
    flow: Flow = plan.flow(costs.geometry)
    saved = costs.attention(flow.steps[1].n_in, False, 1)
    assert costs.predict(plan) == pytest.approx(costs.predict(plan.schedule) - saved)
