"""`run` with energy from end to end: a tiny model on a machine whose time and power are known (`simulated_power`)."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import Event, StepBegun, listening
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import COUNTERS
from prunesearch.cost.devices.counter import Unavailable
from prunesearch.cost.energy.window import EnergyMeter
from prunesearch.cost.tables.cost_table import CostTable
from prunesearch.cost.tables.energy_fit import EnergyFit
from prunesearch.report.tables.show import show_front
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.front import Front
from prunesearch.study.setup import make_setting
from prunesearch.study.trials import finished_trials, open_study
from tests.support.known_device import (
    command,
    known_energy,
    known_table,
    one_line,
    settings,
    true_mj,
    write_model,
    write_profile,
)
from tests.support.simulated_power import hooked, telling_time, true_costs
from tests.support.some import some

DEPTH, TOKENS, ROWS = 6, 65, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("energy")
    write_model(root)
    return root


@pytest.fixture(scope="module")
def machine(folder):
    """The machine, and the task whose model runs on it; latencies are told by its clock too."""
    task = make_setting(make(folder)).task
    with hooked(task.model, period_s=0.05) as found, telling_time(found):
        found.task = task
        yield found


def make(folder: Path, **changes) -> RunConfig:
    return RunConfig(**settings(folder, **{"trials": 10, **changes}))


def go(machine, folder, study, meter=None, **changes) -> Front:
    config = make(folder, **changes)
    return run(config, study, root=folder / "studies", task=machine.task, meter=meter or machine.meter())


class Warming:
    """The machine's counter, on a device that gets warmer with every window once `warms` is set."""

    def __init__(self, machine, warms: bool) -> None:
        self.machine, self.warms, self.degrees = machine, warms, 40.0

    def __getattr__(self, name: str):
        return getattr(self.machine, name)

    def temperature_c(self) -> float:
        self.degrees += 10.0 * self.warms
        return self.degrees

    def meter(self) -> EnergyMeter:
        return EnergyMeter(self, clock=self.machine.clock, sleep=self.machine.sleep)


def truth(item) -> tuple[float, float]:
    schedule = item.to_schedule() if hasattr(item, "plan") else Schedule()
    return true_costs(schedule, DEPTH, TOKENS, ROWS)


def shown(front: Front, width=80) -> str:
    out = io.StringIO()
    show_front(front, Console(file=out, width=width, color_system=None))
    return out.getvalue()


@pytest.fixture(scope="module")
def front(machine, folder) -> Front:
    """Objective energy, no budget."""
    return go(machine, folder, "energy", objectives=["energy"])


@pytest.fixture(scope="module")
def three(machine, folder) -> Front:
    """Latency, energy and quality."""
    return go(machine, folder, "three", objectives=["latency", "energy"])


# -- objectives --------------------------------------------------------------------------------------------


def test_measured_energies_are_those_of_the_machine(front):
    assert front.objectives == ["energy"]
    assert len(front.points) >= 2
    for item in (front.unpruned, *front.points):
        ms, mj = truth(item)
        assert item.latency.value == pytest.approx(ms, rel=1e-3)
        assert item.cost("energy").value == pytest.approx(mj, rel=0.01)
        assert item.cost("energy").measured.low <= item.cost("energy").value <= item.cost("energy").measured.high
        assert item.cost("energy").predicted == pytest.approx(mj, rel=0.03)
        assert item.cost("energy").measured.net == pytest.approx(mj - 20.0 * ms / ROWS, rel=0.02)  # 20 W idle


def test_the_front_is_one_of_energy_and_quality(front):
    for point in some(front.points):
        for other in (front.unpruned, *front.points):
            assert not (
                other.cost("energy").value < point.cost("energy").value and other.quality.value >= point.quality.value
            )


def test_the_table_holds_the_fit_with_its_error(front, folder):
    table = CostTable.load(folder / "studies" / "energy" / "cost_table.json")
    assert table.energy.valid
    assert table.energy.rows == ROWS
    assert table.energy.validation.mape < 0.03
    assert table.energy.idle_w == pytest.approx(20.0, rel=0.01)


def test_the_study_minimises_loss_and_energy(front, folder):
    study = open_study(folder / "studies" / "energy" / "study.journal", ["energy"])
    assert study.metric_names == ["loss", "energy_mj"]
    records = finished_trials(study)
    assert len(records) == 10
    for record in records:
        ms, mj = true_costs(record.schedule, DEPTH, TOKENS, ROWS)
        assert record.values == (record.predicted_mj,)
        assert record.predicted_mj == pytest.approx(mj, rel=0.03)
        assert record.predicted_ms == pytest.approx(ms, rel=0.03)


def test_a_verdict_in_energy(front):
    assert "frugal" in front.verdict.text.lower()
    assert "faster" not in front.verdict.text.lower()
    assert "Fastest" not in front.verdict.text


def test_three_objectives_keep_what_is_best_in_any_two(three, folder):
    study = open_study(folder / "studies" / "three" / "study.journal", ["latency", "energy"])
    assert study.metric_names == ["loss", "latency_ms", "energy_mj"]
    assert three.objectives == ["latency", "energy"]
    everything = [three.unpruned, *three.points]
    for point in some(three.points):
        mine = (point.latency.value, point.cost("energy").value, -point.quality.value)
        for other in everything:
            theirs = (other.latency.value, other.cost("energy").value, -other.quality.value)
            beaten = all(a <= b for a, b in zip(theirs, mine, strict=True)) and theirs != mine
            assert not beaten
    for record in some(finished_trials(study)):
        assert record.values == (record.predicted_ms, record.predicted_mj)


@pytest.mark.parametrize("width", [80, 100])
def test_energy_is_shown_on_80_columns_and_in_the_report(three, folder, width):
    text = shown(three, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    assert "mJ an input" in text
    for point in some(three.points):
        row = next(line for line in text.splitlines() if line.startswith((f"{point.id} ", f"{point.id} *")))
        assert f"{point.cost('energy').value:.3g}" in row or f"{point.cost('energy').value:,.0f}" in row
        assert "e+" not in row
    report = (folder / "studies" / "three" / "report.html").read_text()
    assert '"objectives":["latency","energy"]' in report.replace(" ", "")
    assert '"measured":{"value":' in report.replace(" ", "")


def test_the_file_comes_back_as_it_was(three, folder):
    assert Front.load(folder / "studies" / "three" / "front.json") == three


# -- budgets -----------------------------------------------------------------------------------------------


def test_a_budget_in_mj_bounds_the_measured_energy(machine, folder, front):
    limit = 0.8 * truth(front.unpruned)[1]
    found = go(machine, folder, "mj", budget=f"{limit:.0f}mJ")
    assert found.objectives == ["energy"]
    assert (found.budget.unit, found.budget.limit) == ("mJ", float(f"{limit:.0f}"))
    assert found.points
    assert all(p.cost("energy").value <= found.budget.limit for p in found.points)
    assert f"= {found.budget.limit:.2f} mJ: {len(found.points)} of {len(found.points)} points meet it" in shown(found)
    study = open_study(folder / "studies" / "mj" / "study.journal", ["energy"])
    assert all(r.predicted_mj <= found.budget.limit for r in finished_trials(study))


def test_a_budget_in_mj_may_bound_a_search_for_latency(machine, folder, front):
    limit = round(0.7 * truth(front.unpruned)[1])
    found = go(machine, folder, "both", budget=f"{limit}mJ", objectives=["latency"])
    assert found.objectives == ["latency"]
    assert found.budget.unit == "mJ"
    assert found.points
    assert all(p.cost("energy").value <= limit for p in found.points)
    study = open_study(folder / "studies" / "both" / "study.journal", ["latency"])
    assert study.metric_names == ["loss", "latency_ms"]


def test_a_share_is_of_the_first_objective(machine, folder):
    found = go(machine, folder, "share", budget="75%", objectives=["energy", "latency"])
    assert found.budget.unit == "mJ"
    assert found.budget.limit == pytest.approx(0.75 * found.unpruned.cost("energy").value)
    assert all(p.cost("energy").value <= found.budget.limit for p in some(found.points))


def test_a_budget_that_nothing_reaches_is_one_line_in_mj(machine, folder):
    with pytest.raises(PruneSearchError) as error:
        go(machine, folder, "tight", budget="1mJ")
    text = one_line(error.value, "budget 1mJ (1 mJ) is below anything reachable", "raise the budget")
    assert " ms" not in text
    assert "e+" not in text


# -- resuming ----------------------------------------------------------------------------------------------


def test_the_same_call_gives_the_same_front_and_more_trials_do_not_measure_the_fit_again(machine, folder, front, heard):
    assert go(machine, folder, "energy", objectives=["energy"]) == front
    more = go(machine, folder, "energy", objectives=["energy"], trials=12)
    assert len(heard.progress("measuring energy")) > 0
    assert "schedules over windows" not in str(heard)  # what a fit says
    assert more.search.trials == 12
    assert more.unpruned.cost("energy").measured is not None


def test_an_energy_study_does_not_become_one_of_latency(machine, folder, front):
    with pytest.raises(PruneSearchError) as error:
        go(machine, folder, "energy", objectives=["latency"])
    one_line(error.value, "objectives=['energy'], but got ['latency']", "another --study")


# -- validity ----------------------------------------------------------------------------------------------


def test_an_invalid_fit_is_refused_and_the_next_call_measures_again(machine, folder, heard):
    with pytest.raises(PruneSearchError) as error:
        go(machine, folder, "doubt", Warming(machine, True).meter(), objectives=["energy"])
    said = "only 0 of 9 schedules were measured validly (temperature went from"
    one_line(error.value, "to be searched for", said, "measure again on a quiet device, or use latency")
    assert "energy: 9 schedules over windows" in heard.take()
    found = go(machine, folder, "doubt", objectives=["energy"])
    assert "energy: 9 schedules over windows" in str(heard)
    assert found.points
    assert CostTable.load(folder / "studies" / "doubt" / "cost_table.json").energy.valid


def test_energies_that_were_not_measured_validly_are_not_called_measured(machine, folder):
    counter = Warming(machine, False)

    def hear(event: Event) -> None:
        if isinstance(event, StepBegun):
            counter.warms |= event.text.startswith("re-measuring")

    with listening(hear):
        found = go(machine, folder, "drift", counter.meter(), objectives=["energy"])
    assert counter.warms
    for item in (found.unpruned, *found.points):
        assert item.cost("energy").measured is None
        assert item.latency.measured is not None
    text = shown(found)
    assert "mJ, predicted" in text
    assert "mJ an input" not in text


# -- where energy cannot be measured -----------------------------------------------------------------------


@pytest.fixture
def _no_counter():
    with COUNTERS.replaced("rapl", lambda device: Unavailable("the counter cannot be read")):
        yield


@pytest.mark.usefixtures("_no_counter")
@pytest.mark.parametrize("args", [["--objective", "energy"], ["--budget", "40mJ"], ["--objective", "latency,energy"]])
def test_a_machine_without_a_counter_is_one_line_before_anything_is_loaded(monkeypatch, capsys, tmp_path, args):
    monkeypatch.chdir(tmp_path)
    unloadable = tmp_path / "model"
    unloadable.mkdir()
    (unloadable / "config.json").write_text("no JSON")
    args = [*args, "--device", "cpu", "--model", str(unloadable), "--data", "rows.csv"]
    code, out, err = command(monkeypatch, capsys, "run", *args)
    assert (code, out) == (2, "")
    one_line(err, "energy is unavailable on 'cpu': the counter cannot be read", "--objective latency")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--objective", "enrgy"], ["did you mean 'energy'?"]),
        (["--objective", "energy,energy"], ["named once"]),
        (["--budget", "40mW"], ["40mW", "40mJ"]),
        (["--budget", "-4mJ"], ["-4mJ"]),
    ],
)
def test_bad_objectives_and_budgets_are_one_line(monkeypatch, capsys, tmp_path, args, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(monkeypatch, capsys, "run", *args)
    assert code == 2
    one_line(err, *words)


def test_a_device_that_is_not_here_is_searched_for_energy_from_its_profile(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNESEARCH_PROFILES", str(tmp_path))
    table = known_table(energy=known_energy())
    write_profile(tmp_path, "box", table)
    found = run(make(folder, device="box", objectives=["energy"]), "box", root=tmp_path / "s")
    assert found.points
    for item in (found.unpruned, *found.points):
        schedule = item.to_schedule() if hasattr(item, "plan") else Schedule()
        assert item.cost("energy").predicted == pytest.approx(true_mj(table, schedule), rel=1e-4)
        assert item.cost("energy").measured is None
        assert item.latency.measured is None
    assert "mJ, predicted" in shown(found)
    assert "from profile 'box' ±1.2 %" in found.verdict.text


@pytest.mark.parametrize("energy", [None, "invalid"])
def test_a_profile_without_valid_energy_says_how_to_get_it(folder, tmp_path, monkeypatch, machine, energy):
    monkeypatch.setenv("PRUNESEARCH_PROFILES", str(tmp_path))
    fit: EnergyFit | None = None if energy is None else known_energy(valid=False, why="the fit is off by 9%")
    write_profile(tmp_path, "box", known_table(energy=fit))
    config = make(folder, device="box", budget="40mJ")
    for meter in (None, machine.meter()):  # a meter of this machine says nothing of that one
        with pytest.raises(PruneSearchError) as error:
            run(config, f"box{meter is None}", root=tmp_path / "s", meter=meter)
        if fit is None:
            one_line(error.value, "'box' has no energy for this model", "not asked for", "prunesearch profile --energy")
        else:
            one_line(error.value, "the fit is off by 9%", "use latency")


def test_an_estimated_device_has_no_energy(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNESEARCH_PROFILES", str(tmp_path / "none"))
    places = ["--model", str(folder / "model"), "--data", str(folder / "data.parquet")]
    places += ["--space", str(folder / "space.yaml")]
    code, _, err = command(
        monkeypatch, capsys, "run", *places, "--device", "a100", "--budget", "40mJ", "--quiet", "--dtype", "float16"
    )
    assert code == 2
    one_line(err, "'a100' has no energy", "no public measurement validates an energy estimate", "--objective latency")
