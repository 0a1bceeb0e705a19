"""The solver against an exhaustive search of the same additive model."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from prunesearch.core.plans.flow import Geometry, Tower
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Place
from prunesearch.search.solve.losses import Sensitivities
from prunesearch.search.solve.seed import spread
from prunesearch.search.solve.solver import solve
from prunesearch.search.space.moves import neighbours, schedule_of
from prunesearch.search.space.space import Space
from tests.support.fakes import DEPTH, TOKENS, LinearCosts, small_space_file


def random_sensitivities(space: Space, seed: int) -> Sensitivities:
    rng = np.random.default_rng(seed)
    steps = rng.exponential(1.0, (len(space.layers), len(space.keeps), len(space.methods)))
    steps[:, 0, :] = 0.0
    steps /= np.arange(1, len(space.layers) + 1)[:, None, None]
    return Sensitivities.free(space).with_loss(steps.cumsum(1))


def all_schedules(space: Space) -> list[Schedule]:
    found = [Schedule()]
    for number in range(1, space.max_stages + 1):
        for layers in itertools.combinations(range(DEPTH), number):
            for levels in itertools.combinations(range(1, len(space.keeps)), number):
                for methods in itertools.product(space.methods, repeat=number):
                    sites = zip(layers, levels, methods, strict=True)
                    found.append(Schedule([space.stage(la, g, m) for la, g, m in sites]))
    return found


@dataclass(frozen=True)
class OfDecoder(LinearCosts):
    """As `LinearCosts`, of a decoder that reads pictures."""

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.depth, self.tokens, self.protected, "decoder")


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_stages_before_the_first_block_are_solved_for_too(seed: int) -> None:
    costs = OfDecoder()
    file = small_space_file(scorers=["text_attention", "key_norm"], merges=["drop"], input=True, max_stages=2)
    space = file.fit(DEPTH, costs.tokens, costs.protected)
    sensitivities = random_sensitivities(space, seed)
    every = [Schedule()]
    for number in (1, 2):
        for sites in itertools.combinations(range(-1, DEPTH), number):
            for levels in itertools.combinations(range(1, len(space.keeps)), number):
                for methods in itertools.product(space.methods, repeat=number):
                    if sites[0] == -1 and methods[0].startswith("text_attention"):
                        continue  # nothing attends there
                    stages = zip(sites, levels, methods, strict=True)
                    every.append(Schedule([space.stage(*stage) for stage in stages]))
    pairs = [(costs.predict(s), sensitivities.estimate(s)) for s in every]
    seeds = solve(space, sensitivities, costs, costs.predict(Schedule()), 1000)
    slack = (costs.predict(Schedule()) - costs.stem) / (499 - 2 * DEPTH - 1) * (DEPTH + 1) / 2 + 1e-9
    assert any(str(found.schedule).startswith("input/0") for found in seeds)
    for found in seeds:
        assert found.schedule in every
        assert found.cost == pytest.approx(costs.predict(found.schedule))
        faster = [loss for latency, loss in pairs if latency <= found.cost - slack]
        assert found.loss <= min(faster, default=float("inf")) + 1e-9


@dataclass(frozen=True)
class BehindTower(LinearCosts):
    """As `LinearCosts`, of a decoder behind a tower of two blocks, the first of which leads to its pictures."""

    tower: ClassVar[Tower] = Tower(2, 17, 1, 1, 1)

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.depth, self.tokens, self.protected, "decoder", self.tower)

    @property
    def in_tower(self) -> LinearCosts:
        return LinearCosts(self.tower.depth, self.tower.tokens, self.tower.protected, 2.0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stages_in_a_tower_are_solved_for_too(seed: int) -> None:
    costs = BehindTower()
    methods = {"scorers": ["text_attention", "key_norm"], "merges": ["drop"], "tower": ["bipartite", "key_norm+drop"]}
    file = small_space_file(input=True, max_stages=2, **methods)
    space = file.fit(DEPTH, costs.tokens, costs.protected, tower=costs.tower)
    assert [str(Place.of_site(layer, "decoder")) for layer in space.layers[:3]] == ["tower/0", "input/0", "decoder/0"]
    sensitivities = random_sensitivities(space, seed)
    every = [Schedule()]
    for number in (1, 2):
        for sites in itertools.combinations(range(len(space.layers)), number):
            for levels in itertools.combinations(range(1, len(space.keeps)), number):
                for chosen in itertools.product(range(len(space.methods)), repeat=number):
                    if all(space.takes(*one) for one in zip(sites, chosen, strict=True)):
                        stages = zip(sites, levels, chosen, strict=True)
                        every.append(schedule_of(space, list(stages)))
    pairs = [(costs.predict(s), sensitivities.estimate(s)) for s in every]
    seeds = solve(space, sensitivities, costs, costs.predict(Schedule()), 1000)
    passes = DEPTH + costs.tower.depth + 2
    slack = (costs.predict(Schedule()) - costs.stem) / (499 - 2 * passes) * passes / 2 + 1e-9
    assert any(str(found.schedule).startswith("tower/0") for found in seeds)
    for found in seeds:
        assert found.schedule in every
        assert found.cost == pytest.approx(costs.predict(found.schedule))
        faster = [loss for latency, loss in pairs if latency <= found.cost - slack]
        assert found.loss <= min(faster, default=float("inf")) + 1e-9


def test_methods_of_a_tower_stay_in_it_and_others_behind_it() -> None:
    methods = {"scorers": ["text_attention", "key_norm"], "merges": ["drop"], "tower": ["bipartite", "key_norm+drop"]}
    space = small_space_file(input=True, **methods).fit(DEPTH, TOKENS, 1, tower=Tower(3, 17, 1, 1, 2))
    assert (space.in_tower, space.in_blocks) == (
        ["key_norm+drop", "bipartite"],
        ["text_attention+drop", "key_norm+drop"],
    )
    rng, seen = random.Random(0), set[tuple[str, str]]()
    names = [name for name in space.distributions() if name.startswith("layer")]
    for _ in range(300):
        params = space.plain(rng)
        params.update({name: rng.randrange(len(space.layers)) for name in names})
        schedule = space.decode(params)
        assert space.encode(schedule) is not None
        for found in (schedule, *(p.schedule for p in neighbours(space, schedule, range(len(space.methods))))):
            seen |= {(stage.place.part, stage.method) for stage in found}
    text, keys = "text_attention+drop", "key_norm+drop"
    wanted = {("tower", "bipartite"), ("tower", keys), ("input", keys), ("decoder", keys), ("decoder", text)}
    assert seen == wanted


def test_methods_that_need_a_block_are_never_before_the_first() -> None:
    space = small_space_file(scorers=["text_attention", "key_norm"], merges=["drop"], input=True).fit(DEPTH, TOKENS, 1)
    rng = random.Random(0)
    names = [name for name in space.distributions() if name.startswith("layer")]
    for _ in range(200):
        params = space.plain(rng)
        params.update({name: rng.randrange(len(space.layers)) for name in names})
        schedule = space.decode(params)
        assert space.encode(schedule) is not None
        near = [plan.schedule for plan in neighbours(space, schedule, range(len(space.methods)))]
        for found in (schedule, *near):
            assert not any(stage.place.part == "input" and stage.reads_attention for stage in found)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_seeds_lie_on_the_exhaustive_front(space: Space, costs: LinearCosts, seed: int) -> None:
    sensitivities = random_sensitivities(space, seed)
    pairs = [(costs.predict(s), sensitivities.estimate(s)) for s in all_schedules(space)]
    limit = costs.predict(Schedule())
    seeds = solve(space, sensitivities, costs, limit, 1000)
    assert len(seeds) > 5
    bucket = (limit - costs.stem) / (499 - 2 * DEPTH)
    slack = bucket * DEPTH / 2 + 1e-9  # each block's cost is rounded to a bucket
    for found in seeds:
        assert found.cost == pytest.approx(costs.predict(found.schedule))
        assert found.loss == pytest.approx(sensitivities.estimate(found.schedule))
        faster = [loss for latency, loss in pairs if latency <= found.cost - slack]
        assert found.loss <= min(faster, default=float("inf")) + 1e-9
    fastest = min(latency for latency, _ in pairs)
    assert seeds[-1].cost <= fastest + slack


def test_seeds_respect_the_limit_and_fall_in_latency(space: Space, costs: LinearCosts) -> None:
    limit = 0.7 * costs.predict(Schedule())
    seeds = solve(space, random_sensitivities(space, 3), costs, limit, 8)
    latencies = [s.cost for s in seeds]
    assert 3 <= len(seeds) <= 8
    assert latencies == sorted(latencies, reverse=True)
    assert max(latencies) <= limit
    losses = [s.loss for s in seeds]
    assert losses == sorted(losses)


def test_the_unpruned_model_is_a_seed_where_nothing_is_faster(space: Space) -> None:
    class Stubborn(LinearCosts):
        def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
            return 100.0

    costs = Stubborn()
    seeds = solve(space, random_sensitivities(space, 0), costs, costs.predict(Schedule()), 8)
    assert [s.schedule for s in seeds] == [Schedule()]


def test_no_seed_below_anything_reachable(space: Space, costs: LinearCosts) -> None:
    assert solve(space, random_sensitivities(space, 0), costs, 1.5, 8) == []


def test_spread_keeps_the_ends_and_the_order() -> None:
    assert spread([10.0, 9.0, 5.0, 4.9, 1.0], 3, lambda x: x) == [10.0, 5.0, 1.0]
    assert spread([3.0, 1.0], 5, lambda x: x) == [3.0, 1.0]
