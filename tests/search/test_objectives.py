from __future__ import annotations

import math

import pytest
from fakes import LinearCosts
from known_device import known_energy, known_table, one_line, true_mj, true_total

from prunesearch.core.budget import Budget
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.schedule import Schedule, Stage
from prunesearch.cost.energy_costs import EnergyCosts
from prunesearch.search.config import RunConfig
from prunesearch.search.objectives import Objective, make_objectives, parse_objectives

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


def test_units_and_bounds_of_an_objective():
    costs = LinearCosts()
    price = costs.predict(HALF)
    assert Objective("latency", costs).unit == "ms"
    assert Objective("energy", costs).unit == "mJ"
    assert Objective("latency", costs, price).fits(HALF)
    assert not Objective("latency", costs, price * 0.999).fits(HALF)
    assert Objective("energy", costs).fits(Schedule())


def test_objectives_are_read():
    assert parse_objectives("latency") == ["latency"]
    assert parse_objectives(" energy , latency ") == ["energy", "latency"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("enrgy", ["unknown objective 'enrgy'", "did you mean 'energy'?"]),
        ("quality", ["unknown objective 'quality'", "quality is always one"]),
        ("", ["unknown objective ''", "energy, latency"]),
        ("latency,", ["unknown objective ''"]),
        ("energy,energy", ["named once", "energy,energy"]),
    ],
)
def test_objectives_that_cannot_be_are_one_line(text, words):
    with pytest.raises(PruneSearchError) as error:
        parse_objectives(text)
    one_line(error.value, *words)


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"objectives": ["energy"]}, True),
        ({"objectives": ["latency", "energy"], "budget": "10ms"}, True),
        ({"objectives": ["latency"], "budget": "40mJ"}, True),
        ({"budget": "40mJ"}, True),
        ({"objectives": ["latency"], "budget": "40%"}, False),
        ({}, False),
    ],
)
def test_who_needs_energy(settings, needed):
    assert RunConfig.build(**settings).needs_energy is needed


def test_a_budget_in_mj_makes_energy_the_objective_unless_another_is_named():
    assert RunConfig.build(budget="40mJ").minimised == ["energy"]
    assert RunConfig.build(budget="1.5J").minimised == ["energy"]
    assert RunConfig.build(budget="40ms").minimised == ["latency"]
    assert RunConfig.build().minimised == ["latency"]
    assert RunConfig.build(budget="40mJ", objectives=["latency"]).minimised == ["latency"]
