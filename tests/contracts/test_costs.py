"""Every cost that can be told before an evaluation prices schedules in its own unit, by pieces; judge: plain sums."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from prunesearch.core.costs import COSTS, find_cost
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.costs import Costs
from prunesearch.pruning.apply import apply_
from prunesearch.search.costs.bench import Bench
from prunesearch.search.costs.latency import LoadCosts
from prunesearch.study.config import RunConfig
from prunesearch.study.setup import make_setting
from tests.support.known_device import known_energy, known_table, settings, write_model

# of any model, before it is evaluated
KNOWN = [name for name, row in COSTS.entries().items() if row.known == "before" and not row.written]
# each takes more than the one before
LADDER = [Schedule(), Schedule([Stage(1, 0.5)]), Schedule([Stage(0, 0.5)]), Schedule([Stage(0, 0.25), Stage(2, 0.1)])]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root: Path = tmp_path_factory.mktemp("costs")
    write_model(root)
    setting = make_setting(RunConfig(**settings(root)))
    table = known_table(energy=known_energy())
    with apply_(setting.task.model, Schedule()) as handle:
        yield Bench(setting, handle, [LoadCosts(8, setting.task.tokens, 1.0, table)])


def priced(bench: Bench, name: str) -> Costs:
    found: Costs | None = find_cost(name).make_pricing().costs(bench)
    assert found is not None
    return found


@pytest.mark.parametrize("name", KNOWN)
def test_a_schedule_that_takes_more_costs_no_more(name: str, bench: Bench) -> None:
    costs = priced(bench, name)
    amounts = [costs.predict(schedule) for schedule in LADDER]
    assert all(math.isfinite(amount) and amount > 0 for amount in amounts)
    assert amounts == sorted(amounts, reverse=True)
    assert costs.predict(Plan()) == costs.price(Schedule().flow(costs.geometry)) == amounts[0]


@pytest.mark.parametrize("name", KNOWN)
def test_the_pieces_of_a_forward_add_up_to_its_price_or_less(name: str, bench: Bench) -> None:
    costs = priced(bench, name)
    for schedule in LADDER:
        flow = schedule.flow(costs.geometry)
        total = costs.stem + costs.head(flow.n_out)
        for step in flow:
            total += costs.attention(step.n_in, step.sized, step.layer) + costs.mlp(step.n_out, step.layer)
            if step.stage is not None:
                total += costs.reduce(step.stage.scorer, step.stage.merge, step.n_in, step.n_out)
        assert total <= costs.price(flow) * (1 + 1e-6)
