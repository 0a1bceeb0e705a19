"""Budgets that nothing keeps, and seeds for one objective or two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.search.costs.objectives import Objective
from prunesearch.search.costs.reach import cheapest_methods, check_reachable, seeds_within
from prunesearch.search.solve.losses import Sensitivities
from tests.support.fakes import LinearCosts, make_space
from tests.support.some import some


@dataclass(frozen=True)
class Millijoules(LinearCosts):
    """Energy that stages hardly cost: another order of schedules than latency's."""

    def reduce(self, scorer: str, merge: str, n_in: int, n_out: int) -> float:
        return 0.01


def losses(space) -> Sensitivities:
    shape = (len(space.layers), len(space.keeps), len(space.methods))
    loss = np.broadcast_to(np.linspace(0, 1, len(space.keeps))[None, :, None], shape)
    return Sensitivities.free(space).with_loss(np.array(loss))


def least_of(space, costs) -> float:
    """By hand: one stage at the first block, to the fewest tokens, by every method."""
    last = len(space.keeps) - 1
    return min(costs.predict(Schedule([space.stage(0, last, m)])) for m in space.methods)


def test_the_cheapest_methods_are_one_with_sizes_and_one_without(costs):
    space = make_space()
    found = cheapest_methods(space, costs)
    assert len(found) == 2
    assert sum(m.endswith("+drop") for m in found) == 1
    assert "bipartite" not in found  # it costs 0.1 more than any other stage


@pytest.mark.parametrize("share", [0.999, 0.5])
def test_a_bound_below_the_least_is_refused_at_once_with_the_least(costs, share):
    space = make_space()
    least = least_of(space, costs)
    objectives = [Objective("latency", costs, share * least)]
    with pytest.raises(PruneSearchError, match="below anything reachable") as error:
        check_reachable(space, objectives, "budget 1ms")
    assert f"{least:.3g} ms" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bound_just_above_the_least_is_let_through(costs):
    space = make_space()
    check_reachable(space, [Objective("latency", costs, 1.001 * least_of(space, costs))], "budget 1ms")
    check_reachable(space, [Objective("latency", costs)], "")


def test_two_objectives_share_the_seeds_and_all_keep_both_bounds(costs):
    space, energy = make_space(), Millijoules()
    limits = 0.95 * costs.predict(Schedule()), 0.9 * energy.predict(Schedule())
    objectives = [Objective("latency", costs, limits[0]), Objective("energy", energy, limits[1])]
    seeds = seeds_within(space, losses(space), objectives, 8, "budget 80%")
    assert 3 <= len(seeds) <= 8
    assert len({s.schedule for s in seeds}) == len(seeds)
    for seed in some(seeds):
        assert costs.predict(seed.schedule) <= limits[0]
        assert energy.predict(seed.schedule) <= limits[1]


def test_a_second_bound_alone_can_refuse(costs):
    space, energy = make_space(), Millijoules()
    tight = Objective("energy", energy, 0.9 * least_of(space, energy), minimised=False)
    with pytest.raises(PruneSearchError, match=r"mJ\) is below anything reachable"):
        seeds_within(space, losses(space), [Objective("latency", costs, 1e9), tight], 8, "budget 1mJ")


class Dear(LinearCosts):
    """A device on which no stage pays."""

    def reduce(self, scorer, merge, n_in, n_out):
        return 100.0


def test_seeds_come_from_a_bound_where_the_front_of_the_objective_has_none(costs):
    space = make_space()
    bound = Objective("memory", costs, 0.7 * costs.predict(Schedule()), minimised=False)
    seeds = seeds_within(space, losses(space), [Objective("latency", Dear()), bound], 8, "budget 1MiB")
    assert seeds
    assert all(bound.fits(seed.schedule) for seed in seeds)


def test_bounds_that_can_be_kept_one_by_one_only_are_not_called_unreachable(costs):
    """What a stage saves in latency it costs in energy: the least of each is within its bound."""
    space, energy = make_space(), Dear()
    whole = costs.predict(Schedule()), energy.predict(Schedule())
    objectives = [
        Objective("latency", costs, 0.7 * whole[0]),
        Objective("energy", energy, whole[1], minimised=False),
    ]
    assert least_of(space, costs) < objectives[0].limit
    with pytest.raises(PruneSearchError, match="each bound can be kept alone, but no schedule was found") as error:
        seeds_within(space, losses(space), objectives, 8, "budget 70% and energy <= 100%")
    message = str(error.value)
    assert "below anything reachable" not in message
    assert f"ms of latency where {objectives[0].limit:.3g} is the most" in message
    assert "\n" not in message
