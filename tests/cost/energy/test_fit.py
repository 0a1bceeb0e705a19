import numpy as np
import pytest
from pydantic import ValidationError

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.energy.fit import fit_energy
from prunesearch.cost.energy.result import EnergyResult, EnergyWindow, JobWindow
from prunesearch.cost.energy.window import EnergyRun
from prunesearch.cost.tables.energy_fit import EnergyFit, EnergySource

POWERS_W = {"attention": 250.0, "mlp": 380.0, "reduce": 120.0, "rest": 90.0}
ROWS = 8


def schedules(number, seed=0):
    """Piece times in ms per batch as schedules have them: fewer tokens shorten attention and MLP, stages add reduce."""
    rng = np.random.default_rng(seed)
    found = {}
    for i in range(number):
        kept = rng.uniform(0.3, 1.0)
        found[f"s{i}"] = {
            "attention": 6.0 * kept ** rng.uniform(0.8, 1.4),
            "mlp": 10.0 * kept ** rng.uniform(0.8, 1.2),
            "reduce": rng.uniform(0.0, 2.0),
            "rest": rng.uniform(0.8, 1.2),
        }
    return found


def result(mj, why=""):
    window = JobWindow(energy_mj=mj * ROWS * 100, seconds=5.0, ticks=50, forwards=100, temperature_c=55.0)
    return EnergyResult(
        energy_mj=mj, low_mj=mj * 0.99, high_mj=mj * 1.01, net_mj=mj / 2, power_w=250.0, forwards=300,
        windows=[window] * 3, valid=not why, why=why,
    )  # fmt: skip


def true_mj(times):
    return sum(POWERS_W[kind] * ms for kind, ms in times.items()) / ROWS


def run_of(results):
    idle = EnergyWindow(energy_mj=350_000.0, seconds=5.0, ticks=50)
    return EnergyRun(
        results=results,
        source=EnergySource(name="replay", covers="GPU board", update_period_s=0.1),
        rows=ROWS,
        idle=(idle, idle),
        seconds=120.0,
        date="2026-01-01T00:00:00+00:00",
    )


def measured(times, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return run_of({key: result(true_mj(t) * (1 + noise * rng.standard_normal())) for key, t in times.items()})


def test_known_powers_are_recovered():
    times = schedules(24)
    fit = fit_energy(measured(times), times)
    assert fit.powers_w == pytest.approx(POWERS_W, rel=0.08)  # the ridge draws them a little to the mean
    assert fit.validation.mape < 0.005
    assert fit.valid
    fit.check_valid()


def test_an_unseen_schedule_is_predicted():
    times, unseen = schedules(12), schedules(40, seed=9)
    fit = fit_energy(measured(times, noise=0.01), times)
    errors = [abs(fit.predict_mj(t) / true_mj(t) - 1) for t in unseen.values()]
    assert np.mean(errors) < 0.02


def test_few_noisy_schedules_will_do_because_powers_are_drawn_to_the_mean():
    errors = []
    for seed in range(20):
        times, unseen = schedules(4, seed), schedules(40, seed + 100)
        fit = fit_energy(measured(times, noise=0.01, seed=seed), times)
        errors += [abs(fit.predict_mj(t) / true_mj(t) - 1) for t in unseen.values()]
    assert np.mean(errors) < 0.02


def test_the_stored_error_is_what_unseen_schedules_measured_alike_really_show():
    stored, real = [], []
    for seed in range(20):
        times, unseen = schedules(8, seed), schedules(60, seed + 100)
        fit = fit_energy(measured(times, noise=0.03, seed=seed), times)
        checks = measured(unseen, noise=0.03, seed=seed + 100).results
        stored.append(fit.validation.mape)
        real += [abs(fit.predict_mj(unseen[key]) / found.energy_mj - 1) for key, found in checks.items()]
    assert np.mean(stored) == pytest.approx(np.mean(real), rel=0.25)


def test_the_left_out_schedule_is_really_left_out():
    times = schedules(8)
    run = measured(times)
    spoilt = run_of({**run.results, "s3": result(true_mj(times["s3"]) * 2)})
    validation = fit_energy(spoilt, times).validation
    place = validation.schedules.index("s3")
    assert validation.predicted_mj[place] == pytest.approx(true_mj(times["s3"]), rel=0.02)
    assert validation.worst >= 0.45


def test_a_bad_fit_cannot_be_an_objective():
    times = schedules(8)
    fit = fit_energy(measured(times, noise=0.3), times)
    assert not fit.valid
    with pytest.raises(PruneSearchError, match=r"energy must be measured validly.*off by .*schedules it has not seen"):
        fit.check_valid()


def test_powers_are_never_negative():
    times = schedules(10)
    noisy = measured(times, noise=0.5, seed=4)
    assert min(fit_energy(noisy, times).powers_w.values()) >= 0


def test_schedules_measured_badly_are_left_out():
    times = schedules(8)
    run = measured(times)
    mixed = run_of({**run.results, "s1": result(9e9, why="the GPU throttled")})
    fit = fit_energy(mixed, times)
    assert fit.valid
    assert "s1" not in fit.validation.schedules
    assert len(fit.validation.schedules) == 7


def test_too_few_valid_schedules_are_fitted_but_not_valid():
    times = schedules(6)
    run = measured(times)
    bad = {key: found.model_copy(update={"valid": False, "why": "too hot"}) for key, found in run.results.items()}
    fit = fit_energy(run_of({**bad, "s0": run.results["s0"]}), times)
    assert not fit.valid
    assert fit.why == "only 1 of 6 schedules were measured validly (too hot), not 5"


def test_what_it_was_measured_with_is_kept_and_survives_json():
    times = schedules(6)
    fit = fit_energy(measured(times), times)
    assert (fit.rows, fit.idle_w, fit.windows, fit.seconds) == (ROWS, 70.0, 18, 120.0)
    assert fit.temperature_c == (55.0, 55.0)
    assert fit.source.covers == "GPU board"
    assert fit.validation.low_mj[0] == pytest.approx(fit.validation.measured_mj[0] * 0.99)
    assert EnergyFit.model_validate_json(fit.model_dump_json()) == fit
    with pytest.raises(ValidationError):
        EnergyFit.model_validate({**fit.model_dump(), "power": 1})


def test_a_kind_that_took_no_time_has_no_power():
    times = {key: {**t, "reduce": 0.0} for key, t in schedules(6).items()}
    fit = fit_energy(measured(times), times)
    assert set(fit.powers_w) == {"attention", "mlp", "rest"}
    assert fit.predict_mj({"attention": 1.0, "reduce": 0.0}) > 0
    with pytest.raises(PruneSearchError, match="power of piece 'reduce' was not measured"):
        fit.predict_mj({"reduce": 0.1})


@pytest.mark.parametrize("ms", [-1.0, float("nan"), float("inf")])
def test_times_that_cannot_be_are_refused(ms):
    times = schedules(6)
    fit = fit_energy(measured(times), times)
    with pytest.raises(PruneSearchError, match="piece 'mlp'"):
        fit.predict_mj({"mlp": ms})
    with pytest.raises(PruneSearchError, match="schedule 's2' must have times"):
        fit_energy(measured(times), {**times, "s2": {"mlp": ms}})


def test_schedules_without_times_or_energy_and_too_few_are_refused():
    times = schedules(6)
    with pytest.raises(PruneSearchError, match="schedule 's0' must have times"):
        fit_energy(measured(times), {})
    few = schedules(2)
    with pytest.raises(PruneSearchError, match="`schedules >= 3`"):
        fit_energy(measured(few), few)
    with pytest.raises(PruneSearchError, match="the counter stood still"):
        fit_energy(run_of({**measured(times).results, "s0": result(0.0)}), times)
