"""A percentile of a forward, and one latency for several loads."""

from __future__ import annotations

import numpy as np
import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.tables.percentile import tail_of
from prunesearch.search.costs.latency import Across, LoadCosts, Scaled
from tests.support.fakes import DEPTH, LinearCosts, make_space
from tests.support.known_device import known_table, one_line

SCHEDULE = Schedule([Stage(1, 0.5, "cls_attention", "fuse"), Stage(2, 0.25, "value_norm", "drop")])


def with_samples(samples):
    """A table whose unseen schedules took so many ms."""
    table = known_table()
    kept = [[1e3 * ms for ms in row] for row in samples]
    validation = table.validation.model_copy(update={"samples_us": kept})
    return table.model_copy(update={"validation": validation})


def test_one_factor_gives_the_percentile_of_forwards_that_are_slow_in_like_proportion():
    rng = np.random.default_rng(0)
    medians = rng.uniform(5, 50, size=30)
    tail = tail_of(with_samples(m * rng.gamma(20, 1 / 20, size=100) for m in medians), 90)
    one = rng.gamma(20, 1 / 20, size=100_000)
    assert tail.factor == pytest.approx(np.quantile(one, 0.9) / np.median(one), rel=0.02)
    assert tail.coverage == pytest.approx(0.9, abs=0.02)
    assert 0 < tail.mape < 0.05
    assert tail.timings == 3000


def test_where_one_factor_does_not_hold_its_error_says_so():
    rng = np.random.default_rng(0)
    steady = [1 + 0.001 * rng.random(100) for _ in range(5)]
    jumpy = [np.where(rng.random(100) < 0.3, 3.0, 1.0) for _ in range(5)]
    assert tail_of(with_samples([*steady, *jumpy]), 90).mape > 0.5


def test_a_percentile_that_nothing_tells_of_is_refused():
    with pytest.raises(PruneSearchError) as error:
        tail_of(with_samples([]), 90)
    one_line(error.value, "--percentile 90", "keeps no timings", "leave --percentile out")
    with pytest.raises(PruneSearchError) as error:
        tail_of(with_samples([[1.0] * 10] * 10), 99)
    one_line(error.value, "percentile <= 95", "100 forwards", "99")


def load(batch_size, weight=1.0, tail=None, table=None):
    return LoadCosts(batch_size, 17, weight, table or known_table(), tail)


def pieces(costs, schedule, tokens, protected=1, depth=DEPTH):
    """Pieces added up by hand, as the solver adds them."""
    stages, n, biased, total = {s.layer: s for s in schedule}, tokens, False, costs.stem
    for layer, n_out in enumerate(schedule.counts(depth, tokens, protected)):
        total += costs.attention(n, biased, layer)
        if n_out < n:
            stage = stages[layer]
            total += costs.reduce(stage.scorer, stage.merge, n, n_out)
            biased = biased or stage.merge == "fuse"
        total += costs.mlp(n_out, layer)
        n = n_out
    return total + costs.head(n)


class Table(LinearCosts):
    """Costs with what `Across` reads of a table."""

    @property
    def shape(self):
        return self


@pytest.fixture
def two():
    """The same model on 17 tokens, and on 9."""
    return [LoadCosts(1, 17, 0.75, Table()), LoadCosts(8, 9, 0.25, Table(tokens=9, stem=5.0))]


@pytest.mark.parametrize("schedule", [Schedule(), SCHEDULE, Schedule([Stage(0, 0.75, "value_norm", "drop")])])
def test_the_mean_of_loads_is_that_of_their_shares_and_adds_up(two, schedule):
    mean = Across(two)
    one, other = (load.table for load in two)
    shares = [c.predict(schedule) / c.predict(Schedule()) for c in (one, other)]
    expected = one.predict(Schedule()) * (0.75 * shares[0] + 0.25 * shares[1])
    assert mean.predict(schedule) == pytest.approx(expected)
    assert pieces(mean, schedule, 17) == pytest.approx(expected)


def test_the_worst_of_loads_is_priced_as_such_and_never_below_its_pieces(two):
    worst = Across(two, "worst")
    one, other = (load.table for load in two)
    space = make_space()
    for layer in range(DEPTH):
        for level in range(1, len(space.keeps)):
            schedule = Schedule([space.stage(layer, level, "value_norm+fuse")])
            shares = [c.predict(schedule) / c.predict(Schedule()) for c in (one, other)]
            assert worst.predict(schedule) == pytest.approx(one.predict(Schedule()) * max(shares))
            assert pieces(worst, schedule, 17) <= worst.predict(schedule) + 1e-9
    assert worst.predict(Schedule()) == one.predict(Schedule())


def test_a_factor_multiplies_the_whole_and_its_pieces():
    plain, scaled = LinearCosts(), Scaled(LinearCosts(), 1.5)
    assert scaled.predict(SCHEDULE) == pytest.approx(1.5 * plain.predict(SCHEDULE))
    assert pieces(scaled, SCHEDULE, 17) == pytest.approx(1.5 * plain.predict(SCHEDULE))
