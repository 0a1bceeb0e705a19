import re

import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.energy.replay import ReplayClock, ReplayCounter
from prunesearch.cost.energy.window import EnergyMeter, measure_energy
from tests.support.energy_machine import Machine
from tests.support.some import some


def steady(watts, seconds=100.0, period_s=0.1, degrees=50.0):
    ticks = round(seconds / period_s)
    return [(i * period_s, 7e6 + watts * 1e3 * i * period_s, degrees) for i in range(ticks + 1)]


def replayed(samples):
    clock = ReplayClock(3.0)
    return clock, EnergyMeter(ReplayCounter(samples, clock=clock), clock=clock, sleep=clock.sleep)


def run(machine, jobs, **options):
    options = {"rows": 1, "synchronize": machine.synchronize, **options}
    return measure_energy(machine.meter(), jobs, **options)


# -- windows over a recording ------------------------------------------------------------------------------


def test_constant_power_is_exact_in_joules_watts_and_seconds():
    clock, meter = replayed(steady(100.0))
    clock.sleep(0.05)  # between two updates
    meter.begin_window("w")
    clock.sleep(5.0)
    window = meter.end_window("w")
    assert window.energy_mj == pytest.approx(500_000.0)
    assert window.seconds == pytest.approx(5.0)
    assert window.power_w == pytest.approx(100.0)
    assert window.temperature_c == 50.0


def test_windows_may_overlap():
    clock, meter = replayed(steady(10.0))
    clock.sleep(0.05)
    meter.begin_window("outer")
    clock.sleep(1.0)
    meter.begin_window("inner")
    clock.sleep(1.0)
    assert meter.end_window("inner").energy_mj == pytest.approx(10_000.0)
    assert meter.end_window("outer").energy_mj == pytest.approx(20_000.0)


@pytest.mark.parametrize("period_s", [0.02, 0.1, 0.7])
def test_watching_finds_the_update_period_and_windows_then_know_their_ticks(period_s):
    clock, meter = replayed(steady(100.0, period_s=period_s))
    idle = meter.watch(5.0)
    assert meter.update_period_s == pytest.approx(period_s, abs=0.01)
    assert idle.ticks == pytest.approx(5.0 / period_s, abs=1)
    meter.begin_window("w")
    clock.sleep(6.0)
    assert meter.end_window("w").ticks == pytest.approx(6.0 / period_s, abs=1.01)


def test_nothing_is_said_of_ticks_before_the_period_is_known_but_that_the_counter_moved():
    clock, meter = replayed(steady(100.0))
    meter.begin_window("w")
    clock.sleep(6.0)
    assert meter.end_window("w").ticks == 1


def test_a_counter_that_stands_still_has_no_ticks():
    clock, meter = replayed([(0.0, 5.0, None), (90.0, 5.0, None)])
    assert meter.watch(5.0).ticks == 0
    meter.begin_window("w")
    clock.sleep(5.0)
    assert meter.end_window("w").ticks == 0


def test_a_counter_that_stops_after_its_period_was_found_has_no_ticks():
    clock, meter = replayed([*steady(100.0, seconds=6.0), (99.0, 0.0, None)])
    meter.watch(5.0)
    clock.sleep(2.0)
    meter.begin_window("w")
    clock.sleep(5.0)
    assert meter.end_window("w").ticks == 0


def test_windows_that_never_began_or_began_twice_are_refused():
    _, meter = replayed(steady(1.0))
    with pytest.raises(PruneSearchError, match="'x' must have begun"):
        meter.end_window("x")
    meter.begin_window("x")
    with pytest.raises(PruneSearchError, match="'x' has begun already"):
        meter.begin_window("x")


def test_a_counter_that_goes_back_is_refused_in_words():
    clock, meter = replayed([(0.0, 9e6, None), (1.0, 10.0, None), (9.0, 20.0, None)])
    meter.begin_window("w")
    clock.sleep(5.0)
    with pytest.raises(PruneSearchError, match="must go forward"):
        meter.end_window("w")


# -- jobs on a machine whose power is known ----------------------------------------------------------------


def test_energy_of_one_inference_is_power_times_time_over_rows_gross_and_net():
    machine = Machine(idle_w=20.0, period_s=0.001)
    jobs = {"a": machine.job(100.0, 0.02), "b": machine.job(60.0, 0.05)}
    found = run(machine, jobs, rows=8)
    assert found.idle_w == pytest.approx(20.0, rel=1e-3)
    a, b = found.results["a"], found.results["b"]
    assert a.energy_mj == pytest.approx(100.0 * 20 / 8, rel=1e-3)
    assert a.net_mj == pytest.approx(80.0 * 20 / 8, rel=1e-3)
    assert a.power_w == pytest.approx(100.0, rel=1e-3)
    assert b.energy_mj == pytest.approx(60.0 * 50 / 8, rel=1e-3)
    assert (a.valid, a.why, b.valid) == (True, "", True)
    assert (found.source.name, found.source.covers, found.rows) == ("simulated", "everything", 8)


def test_coarse_updates_and_noise_leave_the_truth_within_the_interval_for_most_seeds():
    inside = 0
    for seed in range(40):
        machine = Machine(noise=0.2, seed=seed)
        result = run(machine, {"a": machine.job(300.0)}, seed=seed).results["a"]
        assert result.energy_mj == pytest.approx(300.0 * 20, rel=0.03)
        inside += result.low_mj <= 300.0 * 20 <= result.high_mj
    assert inside >= 36  # 95 % of 40 are 38


def test_windows_are_long_enough_and_waited_for_once():
    machine = Machine()
    result = run(machine, {"a": machine.job(100.0, 0.003)}, repeats=4, window_s=6.0).results["a"]
    assert len(result.windows) == 4
    assert all(6.0 <= window.seconds < 6.3 for window in result.windows)
    waits_for_pace = 1 + 9  # one forward, then 1, 2, 4, ..., 256 forwards
    assert machine.waits == waits_for_pace + 4 * 2  # a window: after the lead-in and at its end
    assert result.forwards == sum(window.forwards for window in result.windows)


def test_a_job_that_gets_faster_still_fills_its_windows():
    machine = Machine()
    pace = iter([0.5] * 10)
    result = run(
        machine, {"a": lambda: machine.queued.append((next(pace, 0.01), 100.0))}, repeats=2
    ).results["a"]  # fmt: skip
    assert all(window.seconds >= 5.0 for window in some(result.windows))


def test_repeats_are_interleaved_in_random_order_and_the_seed_decides_it():
    def order(seed):
        machine, log = Machine(), []
        jobs = {name: machine.job(50.0, 0.5, then=lambda name=name: log.append(name)) for name in "abcd"}
        run(machine, jobs, repeats=3, seed=seed)
        runs = [name for i, name in enumerate(log) if i == 0 or log[i - 1] != name]
        return "".join(runs[4:])  # the first four find their pace

    assert order(1) == order(1) != order(2)
    merged = order(3)
    # where one round ends with the job that the next begins with, their windows look like one
    assert 10 <= len(merged) <= 12
    assert set(merged) == set("abcd")


def test_window_starts_fall_anywhere_between_two_updates():
    machine = Machine()
    starts = []
    meter = machine.meter()
    begin = meter.begin_window
    meter.begin_window = lambda name: (starts.append(machine.now % 0.1), begin(name))
    measure_energy(meter, {"a": machine.job(50.0, 0.1)}, rows=1, repeats=20, synchronize=machine.synchronize)
    assert min(starts) < 0.03
    assert max(starts) > 0.07


def test_idle_that_drifts_makes_results_invalid():
    machine = Machine(idle_w=20.0)

    def neighbour():
        machine.idle_w = 60.0 if machine.now > 112 else 20.0

    result = run(machine, {"a": machine.job(100.0, then=neighbour)}).results["a"]
    assert not result.valid
    assert re.search(r"idle power went from 20\.\d W to [56]\d\.\d W", result.why)


def test_heat_that_drifts_makes_results_invalid():
    machine = Machine()

    def heat():
        machine.degrees += 0.02

    result = run(machine, {"a": machine.job(100.0, then=heat)}).results["a"]
    assert "temperature went from" in result.why
    assert [w.temperature_c for w in result.windows] == sorted(w.temperature_c for w in result.windows)


def test_too_few_updates_make_results_invalid():
    machine = Machine(period_s=0.5)
    result = run(machine, {"a": machine.job(100.0)}).results["a"]
    assert not result.valid
    assert "a window saw 10 updates of the energy counter, 30 are needed" in result.why


def test_the_wrong_devices_counter_is_noticed():
    machine = Machine(idle_w=50.0)
    result = run(machine, {"a": machine.job(50.0)}).results["a"]
    assert "no more than when idle" in result.why


def reasons(*looks):
    told = iter(looks)
    return lambda: next(told)


def test_a_throttled_window_is_thrown_away():
    machine = Machine()
    result = run(machine, {"a": machine.job(100.0)}, slowed=reasons((), ("hw_thermal_slowdown",), ())).results["a"]
    assert [window.throttled for window in result.windows] == [[], ["hw_thermal_slowdown"], []]
    assert result.valid
    assert result.forwards == result.windows[0].forwards + result.windows[2].forwards


def test_too_much_throttling_makes_results_invalid():
    machine = Machine()
    hot = ("sw_thermal_slowdown",)
    result = run(machine, {"a": machine.job(100.0)}, slowed=reasons(hot, (), hot)).results["a"]
    assert result.why == "the GPU throttled in 2 of 3 windows (sw_thermal_slowdown)"


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"window_s": 1.0}, "`5 <= window_s` must hold for an energy measurement, but got 1.0"),
        ({"window_s": float("nan")}, "`5 <= window_s`"),
        ({"rows": 0}, "`rows >= 1`"),
        ({"repeats": 1}, "`repeats >= 2`"),
        ({"jitter_s": -0.1}, "`0 <= jitter_s`"),
    ],
)
def test_arguments_that_cannot_be_are_refused(options, rule):
    machine = Machine()
    with pytest.raises(PruneSearchError, match=rule):
        run(machine, {"a": machine.job(1.0)}, **options)


def test_no_jobs_are_refused():
    with pytest.raises(PruneSearchError, match="`jobs >= 1`"):
        run(Machine(), {})
