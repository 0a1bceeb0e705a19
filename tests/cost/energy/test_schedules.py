"""Energy of a real model's forwards, on a machine whose clock and power are known: hooks let time pass."""

from __future__ import annotations

import pytest
import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.devices.counter import Unavailable
from prunesearch.cost.energy.schedules import FITTED, fit_table_energy, measure_schedule_energy, open_meter
from prunesearch.cost.energy.window import EnergyMeter
from prunesearch.cost.measure import measure_table
from prunesearch.pruning.apply import apply_, handle_of
from tests.support.known_device import known_table, one_line
from tests.support.simulated_power import HookedClock, hooked, true_costs
from tests.support.some import some

METHODS = ["cls_attention+drop", "value_norm+drop"]


@pytest.fixture
def power(tiny):
    """The tiny model (3 blocks, 17 tokens) on the simulated machine."""
    with hooked(tiny) as machine:
        yield machine


def true(schedule: Schedule) -> tuple[float, float]:
    return true_costs(schedule, depth=3, tokens=17, rows=2)


def test_energy_is_that_of_the_machine_interleaved_and_the_model_is_left_alone(tiny, batch, power):
    schedules = [Schedule(), Schedule([Stage(0, 0.5)]), Schedule([Stage(1, 0.25)])]
    found = measure_schedule_energy(power.meter(), tiny, batch, schedules, repeats=2)
    assert list(found.results) == schedules
    assert found.rows == 2
    for schedule, result in some(found.results.items()):
        ms, mj = true(schedule)
        assert result.energy_mj == pytest.approx(mj, rel=0.01)
        assert result.net_mj == pytest.approx(mj - power.idle_w * ms / 2, rel=0.02)
        assert result.valid, result.why
    assert found.results[schedules[2]].energy_mj < found.results[schedules[0]].energy_mj
    assert handle_of(tiny) is None


def test_a_schedule_that_the_model_carries_is_still_there_afterwards(tiny, batch, power):
    carried = Schedule([Stage(0, 0.5)])
    with apply_(tiny, carried) as handle:
        measure_schedule_energy(power.meter(), tiny, batch, [Schedule()], repeats=2)
        assert handle.schedule == carried


def test_the_powers_are_found_and_price_schedules_that_were_not_measured(tiny, batch, power):
    table = measure_table(
        tiny, batch, counts=[3, 5, 9, 13], methods=METHODS, time_budget_s=0.5, clock=HookedClock(power)
    )
    table.check_conditions(batch_size=2, mode="eager")
    fit = fit_table_energy(table, power.meter(), tiny, batch, methods=METHODS, repeats=2)
    assert fit.valid, fit.why
    assert len(fit.validation.schedules) == FITTED
    assert fit.rows == 2
    # attention and MLP times rise and fall together: their powers are told apart only roughly, their sums well
    assert fit.powers_w["attention"] < fit.powers_w["mlp"]
    unseen = Schedule([Stage(0, 0.75, "value_norm"), Stage(2, 0.125)])
    assert str(unseen) not in fit.validation.schedules
    assert fit.predict_mj(table.breakdown(unseen.flow(table.geometry))) == pytest.approx(true(unseen)[1], rel=0.02)
    assert fit.predict_mj(table.breakdown(Schedule().flow(table.geometry))) == pytest.approx(
        true(Schedule())[1], rel=0.02
    )


def test_the_seed_decides_what_is_measured(tiny, batch, power):
    table = known_table()
    drawn = []

    def stop(*args, **options):
        drawn.append(args[3])
        raise KeyboardInterrupt

    for seed in (0, 0, 1):
        with pytest.raises(KeyboardInterrupt):
            fit_table_energy(table, power.meter(), tiny, batch, methods=METHODS, seed=seed, schedules=6, measure=stop)
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(set(s)) == 6 and s[0] == Schedule() for s in some(drawn))
    on_grid = {c.n for c in table.cells.mlp}
    assert all(n in on_grid for s in drawn[0] for n in s.counts(6, 65, 1))


def test_windows_that_are_too_short_are_refused(tiny, batch, power):
    with pytest.raises(PruneSearchError) as error:
        measure_schedule_energy(power.meter(), tiny, batch, [Schedule()], window_s=1.0)
    one_line(error.value, "5 <= window_s")


def test_a_device_without_a_counter_says_why():
    assert open_meter("cpu", lambda device: Unavailable("RAPL cannot be read")) == Unavailable("RAPL cannot be read")
    assert isinstance(open_meter(torch.device("cpu")), Unavailable | EnergyMeter)


def test_a_device_with_a_counter_gives_a_meter_of_it(power):
    meter = open_meter("cuda:0", lambda device: power)
    assert isinstance(meter, EnergyMeter)
    assert meter.counter is power
