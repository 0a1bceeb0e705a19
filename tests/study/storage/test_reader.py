"""Trials as they are read are those that Optuna's own API tells; nothing is written, nothing read twice."""

from __future__ import annotations

import sqlite3
import time

import optuna
import pytest
from optuna.trial import TrialState

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.schedule import Schedule
from prunesearch.study.storage.places import backend_of
from prunesearch.study.storage.reader import Trial, TrialReader, study_names
from tests.support.some import some
from tests.support.studies import add_trials, load_study, new_study, plain_trials

FILES = ["study.journal", "study.db"]  # as studies are kept, and as they were


@pytest.fixture(params=FILES)
def file(request, tmp_path):
    """Where a study is kept."""
    return tmp_path / request.param


@pytest.fixture
def study(file):
    """A study with every kind of trial."""
    found = new_study(file)
    add_trials(found, plain_trials(3))
    failed = found.ask()
    failed.set_user_attr("error", "no memory")
    found.tell(failed, state=TrialState.FAIL)
    bounded = found.ask()
    bounded.set_constraint("energy", 0.5)
    bounded.set_user_attr("per_row", "A" * 3000)  # long, and nothing that is shown
    found.tell(bounded, [0.5, float("inf")])
    found.enqueue_trial({"x": 1.0}, user_attrs={"source": "seed"})
    return found


def told(study):
    """Optuna's own account, but for what no view shows."""
    found = []
    for t in study.get_trials():
        shown = {key: value for key, value in t.user_attrs.items() if key != "per_row"}
        values = tuple(t.values or ())
        found.append((t.number, t.state.name, values, shown, t.datetime_start, t.datetime_complete, t.constraints))
    return found


def read(reader):
    return [(t.number, t.state, t.values, t.attrs, t.started, t.completed, t.constraints) for t in reader.trials]


class Counted:
    """A storage that notes which of its methods were asked for trials."""

    def __init__(self, backend):
        self.backend, self.asked = backend, []

    def __getattr__(self, name):
        self.asked.append(name)
        return getattr(self.backend, name)


def test_what_is_read_is_what_optuna_says(study, file):
    reader = TrialReader(file, "prunesearch")
    assert reader.refresh()
    assert read(reader) == told(study)
    assert [t.contends for t in reader.trials] == [True] * 4 + [False, True]


def test_times_are_local_wherever_the_machine_is(study, file, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        reader = TrialReader(file)
        reader.refresh()
        assert read(reader) == told(load_study(file))
    finally:
        monkeypatch.undo()
        time.tzset()


def test_only_what_is_new_is_read(study, file):
    storage = Counted(backend_of(file))
    reader = TrialReader(file, "prunesearch", lambda where: storage)
    reader.refresh()
    before = list(reader.trials)
    assert not reader.refresh()
    running = study.ask()  # the one that was queued
    add_trials(study, plain_trials(1, seed=5))
    storage.asked.clear()
    assert reader.refresh()
    assert storage.asked.count("get_trial") == 2
    assert "get_all_trials" not in storage.asked
    assert [t.state for t in reader.trials[-2:]] == ["RUNNING", "COMPLETE"]
    study.tell(running, [0.1, 2.0])
    assert reader.refresh()
    assert read(reader) == told(study)
    assert all(old is new for old, new in some(zip(before[:5], reader.trials[:5], strict=True)))


def test_nothing_is_written(study, file):
    before = {path: path.read_bytes() for path in file.parent.iterdir()}
    TrialReader(file).refresh()
    study_names(f"sqlite:///{file}") if file.suffix == ".db" else None
    assert {path: path.read_bytes() for path in file.parent.iterdir()} == before
    if file.suffix == ".db":
        with pytest.raises(optuna.exceptions.StorageInternalError):
            optuna.load_study(study_name="prunesearch", storage=backend_of(file)).set_user_attr("mine", 1)
    with pytest.raises(CorruptFileError, match="not a readable study"):
        TrialReader(file.with_name(f"none{file.suffix}")).refresh()
    assert {path: path.read_bytes() for path in file.parent.iterdir()} == before


def test_a_study_that_is_being_written_in_wal_mode(tmp_path):
    file = tmp_path / "study.db"
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode=WAL")
    study = new_study(file)
    add_trials(study, plain_trials(1))
    reader = TrialReader(file)
    reader.refresh()
    add_trials(study, plain_trials(1, seed=1))
    assert reader.refresh()
    assert len(reader.trials) == 2
    connection.close()


@pytest.mark.parametrize(
    "text", ["not a study, but long enough to be looked at", '{"a": 1}\n{"b": 2}\n', "[1]\n", "\0\0"]
)
def test_what_is_no_study(file, text):
    file.write_text(text)
    with pytest.raises(CorruptFileError, match="not a readable study") as error:
        TrialReader(file).refresh()
    assert "\n" not in str(error.value)
    assert file.read_text() == text


def test_studies_are_found_by_name(study, file):
    with pytest.raises(CorruptFileError, match="no study 'other'"):
        TrialReader(file, "other").refresh()


def test_the_studies_of_a_url(tmp_path):
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at")
    for name in ("text.db", "none.db"):
        with pytest.raises(PruneSearchError, match="no Optuna storage"):
            study_names(f"sqlite:///{tmp_path / name}")
    new_study(tmp_path / "study.db")
    assert study_names(f"sqlite:///{tmp_path / 'study.db'}") == ["prunesearch"]


def test_a_trial_whose_schedule_is_gone_is_one_line():
    trial = Trial(7, "COMPLETE", (0.1,), {"quality": 0.9})
    with pytest.raises(CorruptFileError) as error:
        _ = trial.plan
    assert str(error.value) == "trial 7 has no schedule: lines of its study's file are gone"


def test_a_trial_keeps_its_schedule_and_its_duplicates_do_not_count():
    trial = plain_trials(1)[0]
    assert trial.plan == Schedule.from_dict(trial.attrs["schedule"])
    assert trial.complete
    again = Trial(1, "COMPLETE", (), {**trial.attrs, "duplicate_of": 0})
    assert not again.complete
    raced = Trial(2, "COMPLETE", (), {**trial.attrs, "rows": 64})
    assert raced.complete
    assert not raced.contends
    assert trial.number_of("source") is None
