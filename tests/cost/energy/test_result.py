import numpy as np
import pytest

from prunesearch.cost.energy.result import EnergyResult, EnergyWindow, JobWindow, judge_windows

IDLE = EnergyWindow(energy_mj=100_000.0, seconds=5.0, ticks=50)  # 20 W


def window(watts=100.0, **facts):
    facts = {"seconds": 5.0, "ticks": 50, "forwards": 100, **facts}
    return JobWindow(energy_mj=watts * facts["seconds"] * 1e3, **facts)


def judge(*windows, idle=(IDLE, IDLE), rows=1):
    return judge_windows(windows, idle, rows)


def test_the_median_is_gross_and_idle_comes_off_in_its_own_field():
    result = judge(window(99.0), window(101.0), window(100.0), rows=4)
    assert result.energy_mj == pytest.approx(100.0 * 5e3 / 400)
    assert result.net_mj == pytest.approx(80.0 * 5e3 / 400)
    assert result.low_mj < result.energy_mj < result.high_mj
    assert result.valid


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for n in (3, 8):
        found = [judge(*(window(w) for w in rng.normal(100.0, 1.0, n)), rows=1) for _ in range(400)]
        inside = [r.low_mj <= 100.0 * 50 <= r.high_mj for r in found]
        assert np.mean(inside) > 0.93


def test_a_wide_spread_is_invalid():
    result = judge(window(90.0), window(100.0), window(110.0))
    assert not result.valid
    assert result.why == "energy differs by 10.0% (standard deviation) from window to window"


def test_one_window_has_no_interval_and_is_invalid():
    result = judge(window())
    assert (result.low_mj, result.high_mj) == (None, None)
    assert result.why == "only 1 window was taken, 2 are needed"


def test_a_counter_that_stood_still_is_invalid_without_dividing_by_zero():
    result = judge(window(0.0, ticks=0), window(0.0, ticks=0))
    assert result.energy_mj == 0.0
    assert "a window saw 0 updates" in result.why


def test_everything_wrong_is_said_in_one_line():
    hot = window(100.0, temperature_c=80.0, ticks=3)
    cold = window(140.0, temperature_c=40.0)
    after = EnergyWindow(energy_mj=400_000.0, seconds=5.0, ticks=50)
    why = judge(hot, cold, idle=(IDLE, after)).why
    assert why.count(";") == 3
    assert "\n" not in why
    assert "idle power went from 20.0 W to 80.0 W" in why
    assert "temperature went from 40 to 80" in why


def test_results_go_through_json_unchanged():
    result = judge(window(99.0, temperature_c=50.0), window(101.0, throttled=["hw_slowdown"]))
    assert EnergyResult.model_validate_json(result.model_dump_json()) == result
