from __future__ import annotations

import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.energy.pricing import EnergyCosts
from tests.support.known_device import POWERS_W, ROWS, known_energy, known_table, one_line, true_mj

SCHEDULES = [
    Schedule(),
    Schedule([Stage(0, 0.5)]),
    Schedule([Stage(1, 0.75, "value_norm", "fuse"), Stage(4, 0.25, "cls_attention", "drop")]),
    Schedule([Stage(2, 0.5, merge="bipartite")]),
]


@pytest.fixture(scope="module")
def costs():
    table = known_table()
    return EnergyCosts(table, known_energy())


def test_pieces_cost_their_time_at_their_power_over_the_rows(costs):
    """The known machine: attention 0.2 + 0.02 n (+ 0.05 biased), MLP 0.1 + 0.04 n, `fuse` 0.05 + 0.01 n_in + 0.1."""
    assert costs.attention(50, False, 0) == pytest.approx(20.0 * (0.2 + 0.02 * 50) / 8, rel=1e-4)
    assert costs.attention(50, True, 0) == pytest.approx(20.0 * (0.25 + 0.02 * 50) / 8, rel=1e-4)
    assert costs.mlp(33, 0) == pytest.approx(50.0 * (0.1 + 0.04 * 33) / 8, rel=1e-4)
    assert costs.stem == pytest.approx(30.0 * (0.5 + 0.1 + 0.002 * 65) / 8, rel=1e-4)
    stage = costs.table.reduce("cls_attention", "fuse", 65, 33)
    assert stage > 0
    assert costs.reduce("cls_attention", "fuse", 65, 33) == pytest.approx(10.0 * stage / 8)
    assert costs.reduce("cls_attention", "fuse", 33, 33) == 0


def test_a_head_that_gets_cheaper_saves_energy(costs):
    assert costs.head(65) == 0
    assert costs.head(20) == pytest.approx(30.0 * 0.002 * (20 - 65) / 8, rel=1e-4)
    assert costs.head(20) < 0


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_schedule_costs_the_sum_of_its_pieces(costs, schedule):
    """What the solver adds up is what the search predicts."""
    assert costs.predict(schedule) == pytest.approx(true_mj(costs.table, schedule))
    counts = schedule.counts(6, 65, 1)
    n, total, biased, stages = 65, costs.stem, False, {s.layer: s for s in schedule}
    for layer, n_out in enumerate(counts):
        total += costs.attention(n, biased, 0)
        if n_out < n:
            stage = stages[layer]
            total += costs.reduce(stage.scorer, stage.merge, n, n_out)
            biased = biased or stage.merge != "drop"
        total += costs.mlp(n_out, 0)
        n = n_out
    assert costs.predict(schedule) == pytest.approx(total + costs.head(n))


def test_a_kind_of_piece_without_a_power_is_refused():
    fit = known_energy().model_copy(update={"powers_w": {k: v for k, v in POWERS_W.items() if k != "reduce"}})
    costs = EnergyCosts(known_table(), fit)
    assert costs.predict(Schedule()) > 0
    for ask in (lambda: costs.predict(SCHEDULES[1]), lambda: costs.reduce("cls_attention", "drop", 65, 33)):
        with pytest.raises(PruneSearchError) as error:
            ask()
        one_line(error.value, "power of piece 'reduce' was not measured")


def test_the_batch_counts_once():
    one = EnergyCosts(known_table(), known_energy().model_copy(update={"rows": 1}))
    assert one.predict(Schedule()) == pytest.approx(
        ROWS * EnergyCosts(known_table(), known_energy()).predict(Schedule())
    )
