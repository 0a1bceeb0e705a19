from __future__ import annotations

import math

import pytest

from prunesearch.core.budget import Budget
from prunesearch.core.constraint import Constraint
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.energy.pricing import EnergyCosts
from prunesearch.search.costs.latency import Scaled
from prunesearch.search.costs.objectives import Objective, make_objectives
from tests.support.fakes import LinearCosts
from tests.support.known_device import known_energy, known_table, true_mj, true_total

HALF = Schedule([Stage(0, 0.5)])


@pytest.fixture(scope="module")
def costs():
    table = known_table(energy=known_energy())
    return {"latency": table, "energy": EnergyCosts(table, table.energy)}


def made(names, budget, costs):
    found = make_objectives(names, None if budget is None else Budget.parse(budget), costs)
    return {o.name: (o.limit, o.minimised) for o in found}


MS, MJ = true_total(Schedule()), true_mj(known_table(), Schedule())
INF = math.inf
CASES = [
    (["latency"], None, {"latency": (MS, True)}),
    (["energy"], None, {"energy": (MJ, True), "latency": (INF, False)}),
    (["latency", "energy"], None, {"latency": (MS, True), "energy": (INF, True)}),
    (["latency"], "50%", {"latency": (MS / 2, True)}),
    (["energy"], "50%", {"energy": (MJ / 2, True), "latency": (INF, False)}),
    (["energy", "latency"], "4x", {"energy": (MJ / 4, True), "latency": (INF, True)}),
    (["energy"], "40mJ", {"energy": (40.0, True), "latency": (INF, False)}),
    (["energy"], "10ms", {"energy": (MJ, True), "latency": (10.0, False)}),
    (["latency"], "40mJ", {"latency": (MS, True), "energy": (40.0, False)}),
    (["latency", "energy"], "0.1J", {"latency": (MS, True), "energy": (100.0, True)}),
    (["latency", "energy"], "10ms", {"latency": (10.0, True), "energy": (INF, True)}),
]


@pytest.mark.parametrize(("names", "budget", "expected"), CASES, ids=[f"{','.join(n)} {b}" for n, b, _ in CASES])
def test_who_is_minimised_and_who_bounds(names, budget, expected, costs):
    found = made(names, budget, costs)
    assert found.keys() == expected.keys()
    for name, (limit, minimised) in expected.items():
        assert found[name] == (pytest.approx(limit, rel=1e-4), minimised), name
    assert next(iter(found)) == names[0]


def limits(names, budget, *constraints, costs, loads=None):
    parsed = None if budget is None else Budget.parse(budget)
    found = make_objectives(names, parsed, costs, [Constraint.parse(c) for c in constraints], loads)
    return {o.name: round(o.limit, 6) for o in found}


def test_constraints_on_costs_bound_like_the_budget():
    half, whole = Scaled(LinearCosts(), 0.5), LinearCosts()
    ms = round(whole.predict(Schedule()), 6)
    costs = {"latency": whole, "macs": half}
    assert limits(["latency"], None, "macs <= 50%", costs=costs) == {"latency": ms, "macs": round(ms / 4, 6)}
    assert limits(["latency"], "10ms", "latency <= 8ms", costs=costs) == {"latency": 8.0}
    assert limits(["latency"], "10ms", "latency <= 12ms", costs=costs) == {"latency": 10.0}
    assert limits(["macs"], "50%", "quality >= 0.9", costs=costs) == {"macs": round(ms / 4, 6), "latency": INF}


def test_a_bound_in_ms_holds_for_every_load_and_a_share_for_all_together():
    whole = LinearCosts()
    ms = round(whole.predict(Schedule()), 6)
    loads = {"b1-n17": Scaled(whole, 0.2), "b8-n17": whole}
    found = limits(["latency"], "10ms", costs={"latency": whole}, loads=loads)
    assert found == {"latency": ms, "latency@b1-n17": 10.0, "latency@b8-n17": 10.0}
    found = limits(["latency"], "50%", costs={"latency": whole}, loads=loads)
    assert found == {"latency": ms / 2, "latency@b1-n17": INF, "latency@b8-n17": INF}
    assert {o.unit for o in make_objectives(["latency"], None, {"latency": whole}, (), loads)} == {"ms"}


def test_units_and_bounds_of_an_objective():
    costs = LinearCosts()
    price = costs.predict(HALF)
    assert Objective("latency", costs).unit == "ms"
    assert Objective("energy", costs).unit == "mJ"
    assert Objective("latency", costs, price).fits(HALF)
    assert not Objective("latency", costs, price * 0.999).fits(HALF)
    assert Objective("energy", costs).fits(Schedule())
