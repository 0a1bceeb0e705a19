"""Several processes on one study, some of which die."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.study.storage.places import backend_of
from prunesearch.study.storage.storage import GRACE_S, StudyStorage, storage_of
from prunesearch.study.trials import fail_abandoned, is_withdrawn, open_study, read_trials
from tests.support.fakes import make_space
from tests.support.postgres import server
from tests.support.searches import make_search, place_of, run_local, start, wait_for
from tests.support.some import some
from tests.support.studies import optuna_storage

SEEDS = [Schedule([Stage(1, 0.5, "value_norm")]), Schedule([Stage(2, 0.25, merge="bipartite")])]


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with server() as running:
        yield running.url


@pytest.fixture(params=["journal", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("sqlite", "postgresql"))])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """A storage and the name of a study that is not there yet."""
    if request.param == "journal":
        return str(tmp_path / "shared.journal"), "shared"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}", "shared"
    return request.getfixturevalue("postgres"), tmp_path.name


WORK = """
    from prunesearch.core.plans.schedule import Schedule
    from prunesearch.core.plans.stage import Stage
    url, name, trials, quick, begin = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    print("ready", flush=True)
    while begin and not Path(begin).exists():
        time.sleep(0.005)
    search = make_search(place_of(url), name, seed=3)
    search.enqueue([Schedule([Stage(1, 0.5, "value_norm")]), Schedule([Stage(2, 0.25, merge="bipartite")])])
    for record in run_local(search, trials, then_for_ever(quick)):
        print(record.number, record.schedule.to_json(None), flush=True)
"""


def read_back(url: str, name: str) -> list[optuna.trial.FrozenTrial]:
    """Through Optuna alone."""
    where = place_of(url)
    storage = optuna_storage(where) if isinstance(where, Path) else where
    return optuna.load_study(study_name=name, storage=storage).get_trials()


def test_four_processes_lose_and_double_nothing(place: tuple[str, str], tmp_path: Path) -> None:
    """They begin together, however long a process takes to start."""
    url, name = place
    begin = tmp_path / "begin"
    processes = [start(WORK, url, name, 40, 40, begin) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    begin.touch()
    lines = [line for process in processes for line in process.communicate(timeout=240)[0].splitlines()]
    assert [process.returncode for process in processes] == [0] * 4
    told = {int(line.split(" ", 1)[0]): Schedule.from_json(line.split(" ", 1)[1]) for line in lines}
    assert len(told) == len(lines) == 40
    assert len(set(told.values())) == 40
    trials = read_back(url, name)
    assert [trial.number for trial in trials] == list(range(len(trials)))
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert {t.number: Schedule.from_dict(t.user_attrs["schedule"]) for t in complete} == told
    # whatever was claimed twice was given up before it was evaluated
    assert all(is_withdrawn(trial) for trial in some(trials) if trial.state != TrialState.COMPLETE)
    assert Counter(t.user_attrs["source"] for t in complete)["seed"] == len(SEEDS)
    for trial in some(complete):
        assert make_space().decode(trial.params) == told[trial.number]
    assert len(read_trials(place_of(url), name=name)) == 40


def test_a_process_that_is_killed_costs_one_trial_of_the_others(place: tuple[str, str]) -> None:
    url, name = place
    victim = start(WORK, url, name, 12, 1, "")
    assert victim.stdout is not None
    assert [bool(victim.stdout.readline()) for _ in range(2)] == [True, True]  # it is ready, and has told of one
    wait_for(lambda: TrialState.RUNNING in {trial.state for trial in read_back(url, name)}, victim)
    other = start(WORK, url, name, 12, 12, "")
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    other.communicate(timeout=240)
    assert other.returncode == 0
    states = Counter(trial.state for trial in read_back(url, name) if not is_withdrawn(trial))
    assert states[TrialState.COMPLETE] == 12
    assert states[TrialState.FAIL] == 1
    assert states[TrialState.RUNNING] == 0


def test_a_living_process_keeps_its_trial(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    worker = start(WORK, path, "prunesearch", 1, 0, "")
    try:
        wait_for(lambda: running(path) == 1, worker)
        study = open_study(path)
        assert [trial.state for trial in study.trials] == [TrialState.RUNNING]
        search = make_search(path)
        assert search.running == 1
        record = next(run_local(search, 2))
        assert record.schedule != Schedule.from_dict(study.trials[0].user_attrs["schedule"])
    finally:
        worker.kill()
        worker.wait()
    # whoever waited for it goes on now
    assert len(list(run_local(search, 2))) == 1
    lost = study.trials[0]
    assert lost.state == TrialState.FAIL
    assert lost.user_attrs["error"] == "its process ended before it did"


def running(path: Path) -> int:
    """How many trials are being evaluated, each claimed with its schedule, by Optuna alone."""
    if not path.exists():
        return 0
    try:
        trials = read_back(str(path), "prunesearch")
    except KeyError:  # no study in it yet
        return 0
    return sum(trial.state == TrialState.RUNNING and "schedule" in trial.user_attrs for trial in trials)


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_silent_process_of_another_machine_is_given_up(tmp_path: Path, kind: str) -> None:
    where = tmp_path / "s.journal" if kind == "journal" else f"sqlite:///{tmp_path / 's.db'}"
    other = make_search(where, worker="elsewhere|1|2|3")
    assert other.ask() is not None
    now = 0.0
    backend = backend_of(where, write=True)
    study_id = backend.get_study_id_from_name("prunesearch")
    watching = StudyStorage(backend, study_id, clock=lambda: now)
    study = optuna.load_study(study_name="prunesearch", storage=watching)
    assert fail_abandoned(study) == 0  # seen for the first time
    for _ in range(3):
        now += GRACE_S - 1
        storage_of(other.study).beat()
        assert fail_abandoned(study) == 0
    now += GRACE_S + 1
    assert fail_abandoned(study) == 1
    assert study.trials[0].state == TrialState.FAIL
    assert study.trials[0].user_attrs["lost"]


def test_nobody_waits_for_a_trial_that_was_told(tmp_path: Path) -> None:
    """Two searches of one study in turn: what one has, the other sees."""
    one, two = make_search(tmp_path / "s.journal", seed=1), make_search(tmp_path / "s.journal", seed=2)
    for search in (one, two, one, two):
        assert next(run_local(search, None)).number == len(search.known) - 1
    two.refresh()
    one.refresh()
    assert one.known == two.known
    assert len(one.known) == 4
