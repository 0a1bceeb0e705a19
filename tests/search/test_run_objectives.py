"""`run` with several objectives, constraints, a percentile and several loads, from end to end on a tiny real model."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunesearch.commands.verify import verify
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.cost.counting.flops import closed_form_gmacs
from prunesearch.cost.counting.memory import peak_activation_mib
from prunesearch.pruning.apply import apply_
from prunesearch.report.tables.show import show_front
from prunesearch.search.run import run
from prunesearch.study.config import RunConfig
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.setup import make_setting
from prunesearch.study.trials import finished_trials, open_study
from tests.support.known_device import known_table, one_line, settings, slower, write_model, write_profile
from tests.support.simulated_power import hooked, telling_time
from tests.support.some import some


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("objectives")
    write_model(root)
    return root


def make(folder: Path, **changes) -> RunConfig:
    return RunConfig(**settings(folder, **{"trials": 8, **changes}))


def several(folder: Path) -> RunConfig:
    """Two loads, the 75th percentile, multiply-adds, and a bound on quality."""
    return make(
        folder,
        objectives=["latency", "macs"],
        percentile=75,
        loads=[{"batch_size": 2, "weight": 0.75}, {"batch_size": 8, "weight": 0.25}],
        constraints=["quality >= 0.5*unpruned", "macs <= 95%"],
        table_seconds=1.0,
    )


@pytest.fixture(scope="module")
def front(folder) -> Front:
    config = several(folder)
    task = make_setting(config).task
    with hooked(task.model) as machine, telling_time(machine, jitter=0.05):  # whatever this machine does meanwhile
        return run(config, "all", root=folder / "studies", task=task)


def test_every_load_has_its_table_and_every_point_its_latencies(folder, front):
    study = folder / "studies" / "all"
    assert {p.name for p in study.glob("cost_table*.json")} == {"cost_table.json", "cost_table-b8-n65.json"}
    assert [(x.batch_size, x.tokens, x.weight) for x in front.loads] == [(2, 65, 0.75), (8, 65, 0.25)]
    base = front.unpruned
    for item in (base, *front.points):
        assert len(item.loads) == 2
        pairs = zip(item.loads, base.loads, strict=True)
        shares = [mine["latency"].value / whole["latency"].value for mine, whole in pairs]
        expected = base.loads[0]["latency"].value * (0.75 * shares[0] + 0.25 * shares[1])
        assert item.latency.value == item.latency.measured.value == pytest.approx(expected)
        assert item.latency.measured.p10 is None
        for latency in (load["latency"] for load in item.loads):
            assert latency.measured.median <= latency.value <= latency.measured.p90


def test_verify_compares_like_with_like_under_every_load(folder, front):
    """The percentile with that percentile, each load with itself, and what they come to with the prediction of that.

    What was once an error: "this study knows no energies".
    """
    task = make_setting(several(folder)).task
    with hooked(task.model) as machine, telling_time(machine, jitter=0.05):
        found = verify(StudyFolder(folder / "studies", "all"), front, device="cpu", seconds=1.0, task=task)
    base = found.points[0]
    for point, item in zip(found.points, [front.unpruned, *front.points], strict=True):
        assert [load["latency"].predicted for load in point.loads] == [x["latency"].predicted for x in item.loads]
        for load in point.loads:
            now = load["latency"].now
            assert now.median <= now.value <= now.p90
        shares = [
            mine["latency"].value / whole["latency"].value for mine, whole in zip(point.loads, base.loads, strict=True)
        ]
        together = base.loads[0]["latency"].value * (0.75 * shares[0] + 0.25 * shares[1])
        assert point.costs["latency"].value == pytest.approx(together)
        assert point.costs["latency"].predicted == item.latency.predicted
        assert point.costs["macs"].how == "recomputed"
        assert point.costs["macs"].value == pytest.approx(item.cost("macs").value)
    assert found.errors["latency"].mape < 0.1
    assert found.errors["macs"].worst == pytest.approx(0)


def test_the_percentile_says_how_it_was_checked(front):
    assert front.percentile.value == 75
    assert front.percentile.factor >= 1
    assert 0.5 < front.percentile.coverage < 0.95  # how many timings there are hangs on the machine
    assert front.percentile.timings >= 20


def test_trials_know_the_latency_of_every_load(folder, front):
    study = open_study(folder / "studies" / "all" / "study.journal", ["latency", "macs"])
    trials = [t for t in study.trials if t.state.name == "COMPLETE"]
    assert len(trials) == front.search.trials == 8
    for trial in trials:
        attrs = trial.user_attrs
        assert attrs.keys() >= {"latency", "macs", "latency@b2-n65", "latency@b8-n65"}
        assert trial.values[1:] == [attrs["latency"], attrs["macs"]]
        assert list(trial.constraints) == ["quality >= 0.5*unpruned"]
    assert front.search.stopped == "trials"


def test_final_points_keep_the_constraints_and_say_what_they_came_to(front):
    quality, macs = front.constraints
    assert quality.limit == pytest.approx(0.5 * front.unpruned.quality.value)
    assert macs.limit == pytest.approx(0.95 * front.unpruned.cost("macs").value)
    for point in some(front.points):
        assert point.quality.value >= quality.limit
        assert point.cost("macs").value <= macs.limit
    assert 0 <= front.selection.p_value <= 1
    assert 0 <= front.hypervolume.value <= 0.5


def test_it_is_shown(front, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    show_front(front)
    shown = capsys.readouterr().out
    for words in ("mean over 2 loads", "latency is p75", "quality >= 0.5*unpruned", "GMACs"):
        assert words in shown
    assert front.points
    assert "ms, 8 x 65 tokens" in shown


@pytest.fixture
def box(tmp_path, monkeypatch) -> Path:
    """A device that is known by its profile: nothing is timed."""
    monkeypatch.setenv("PRUNESEARCH_PROFILES", str(tmp_path / "profiles"))
    write_profile(tmp_path / "profiles", "box", known_table())
    return tmp_path


def test_memory_and_macs_are_those_of_whole_forwards(folder, box):
    config = make(folder, device="box", objectives=["memory", "macs"], budget="90%")
    found = run(config, "m", root=box)
    assert found.objectives == ["memory", "macs"]
    assert (found.budget.unit, found.budget.limit) == ("MiB", pytest.approx(0.9 * found.unpruned.cost("memory").value))
    assert found.points
    task = make_setting(make(folder)).task
    inputs = task.timing_inputs(8)
    with apply_(task.model, Schedule()) as handle:
        for item in (found.unpruned, *found.points):
            schedule = Schedule() if item is found.unpruned else item.to_schedule()
            handle.set(schedule)
            assert item.cost("memory").measured is None
            assert item.cost("memory").predicted == peak_activation_mib(task.model, inputs).value_mib
            assert item.cost("macs").value == closed_form_gmacs(handle.encoder, schedule, task.tokens)
    assert all(p.cost("memory").value <= found.budget.limit for p in found.points)
    assert "data:image/png;base64," in (box / "m" / "report.html").read_text()


def test_a_budget_is_kept(folder, box):
    found = run(make(folder, device="box", budget="90%"), "share", root=box)
    assert found.budget.limit == pytest.approx(0.9 * found.unpruned.latency.value)
    assert all(p.latency.value <= found.budget.limit for p in some(found.points))


def test_where_nothing_is_faster_the_verdict_is_to_leave_the_model_alone(folder, tmp_path, monkeypatch):
    """On a device on which a stage costs more than the tokens it removes."""
    monkeypatch.setenv("PRUNESEARCH_PROFILES", str(tmp_path / "profiles"))
    write_profile(tmp_path / "profiles", "box", slower(known_table(), reduce=400.0))
    found = run(make(folder, device="box"), "small", root=tmp_path)
    assert found.verdict.text.startswith("Unpruned is best here (batch 8")
    assert found.verdict.point is None


def test_what_breaks_a_constraint_on_the_holdout_split_is_dropped(folder, box):
    """The model is always right unpruned, and nearly every schedule makes it err."""
    config = make(folder, device="box", constraints=["quality >= unpruned", "agreement >= 1"])
    found = run(config, "q", root=box)
    assert found.dropped >= max(c.broken for c in found.constraints)
    for point in some(found.points):
        assert (point.quality.value, point.fidelity.agreement) == (found.unpruned.quality.value, 1.0)


def test_a_search_without_a_number_of_trials_comes_to_an_end_of_its_own_and_says_so(folder, box, heard):
    config = make(folder, device="box", trials=None, seeds=2)
    found = run(config, "end", root=box)
    assert found.search.stopped in ("converged", "exhausted")
    assert found.search.trials > 2
    assert run(config, "end", root=box) == found
    assert "study end is complete; --trials N goes on" in str(heard)
    records = finished_trials(open_study(box / "end" / "study.journal"))
    assert len(records) == found.search.trials


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"percentile": 90}, ["--percentile 90", "keeps no timings of whole forwards"]),
        ({"constraints": ["macs <= 0.001MMACs"]}, ["macs <= 0.001MMACs (1e-06 GMACs) is below anything reachable"]),
        ({"budget": "1KiB"}, ["budget 1KiB (0.000977 MiB) is below anything reachable"]),
        ({"loads": [{"batch_size": 8, "length": 32}, {"batch_size": 8, "length": 64}]}, ["65 tokens and no other"]),
    ],
)
def test_what_cannot_be_is_one_line(folder, box, changes, words):
    with pytest.raises(PruneSearchError) as error:
        run(make(folder, device="box", **changes), "no", root=box)
    one_line(error.value, *words)


def test_schedules_of_ones_own_are_tried_first(folder, box):
    mine = Schedule.from_counts([49, 49, 33], 65, 1, "value_norm", "drop")
    (box / "mine.json").write_text(mine.to_json())
    config = make(folder, device="box", trials=3, start_from=[str(box / "mine.json")])
    run(config, "mine", root=box)
    first = finished_trials(open_study(box / "mine" / "study.journal", ["latency"]))[0]
    assert first.source == "seed"
    assert [(s.layer, s.method) for s in first.schedule] == [(s.layer, s.method) for s in mine]
    (box / "mine.json").write_text("{}")
    with pytest.raises(PruneSearchError, match="is no schedule"):
        run(config, "other", root=box)
    assert not (box / "other" / "study.journal").exists()
