"""Trials read from Optuna's tables are those that Optuna's own API tells; nothing is written, nothing read twice."""

from __future__ import annotations

import json
import sqlite3
import time

import optuna
import pytest
from optuna.trial import TrialState

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.schedule import Schedule
from prunesearch.study.storage import reader as module
from prunesearch.study.storage.reader import TrialReader, shown_url, study_names
from prunesearch.study.storage.schema import is_known_schema
from tests.support.studies import add_trials, new_study, plain_trials


@pytest.fixture
def study(tmp_path):
    """A study with every kind of trial."""
    found = new_study(tmp_path / "study.db")
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
        found.append((t.number, t.state.name, shown, t.datetime_start, t.datetime_complete, t.constraints))
    return found


def read(reader):
    return [(t.number, t.state, t.attrs, t.started, t.completed, t.constraints) for t in reader.trials]


def test_the_tables_say_what_optuna_says(study, tmp_path):
    reader = TrialReader(f"sqlite:///{tmp_path / 'study.db'}", "prunesearch")
    assert reader.refresh()
    assert read(reader) == told(study)
    assert [t.values for t in reader.trials[:3]] == [tuple(t.values) for t in study.trials[:3]]
    assert [t.contends for t in reader.trials] == [True] * 4 + [False, True]


def test_times_are_local_wherever_the_machine_is(study, tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        reader = TrialReader(f"sqlite:///{tmp_path / 'study.db'}")
        reader.refresh()
        assert read(reader) == told(optuna.load_study(study_name="prunesearch", storage=reader.url))
    finally:
        monkeypatch.undo()
        time.tzset()


def test_another_schema_goes_through_optuna(study, tmp_path, monkeypatch):
    monkeypatch.setattr("prunesearch.study.storage.schema.REVISION", "v99")
    reader = TrialReader(f"sqlite:///{tmp_path / 'study.db'}")
    assert reader.refresh()
    assert read(reader) == told(study)


def test_only_what_is_new_is_read(study, tmp_path, monkeypatch):
    reader = TrialReader(f"sqlite:///{tmp_path / 'study.db'}")
    reader.refresh()
    before = list(reader.trials)
    assert not reader.refresh()
    running = study.ask()  # the one that was queued
    add_trials(study, plain_trials(1, seed=5))
    asked = []
    original = module._grouped
    monkeypatch.setattr(module, "_grouped", lambda c, q, s, ids: asked.append(ids) or original(c, q, s, ids))
    assert reader.refresh()
    assert all(set(ids) == {6, 7} for ids in asked)
    assert [t.state for t in reader.trials[-2:]] == ["RUNNING", "COMPLETE"]
    study.tell(running, [0.1, 2.0])
    assert reader.refresh()
    assert read(reader) == told(study)
    assert all(old is new for old, new in zip(before[:5], reader.trials[:5], strict=True))


def test_nothing_can_be_written(study, tmp_path):
    connection = module.read_only_engine(f"sqlite:///{tmp_path / 'study.db'}").connect()
    with connection, pytest.raises(module.sa.exc.OperationalError, match="readonly"):
        connection.execute(module.sa.text("DELETE FROM trials"))
    with pytest.raises(CorruptFileError, match="not a readable study"):
        TrialReader(f"sqlite:///{tmp_path / 'none.db'}").refresh()
    assert not (tmp_path / "none.db").exists()


def test_a_study_that_is_being_written_in_wal_mode(tmp_path):
    file = tmp_path / "study.db"
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode=WAL")
    study = new_study(file)
    add_trials(study, plain_trials(1))
    reader = TrialReader(f"sqlite:///{file}")
    reader.refresh()
    add_trials(study, plain_trials(1, seed=1))
    assert reader.refresh()
    assert len(reader.trials) == 2
    connection.close()


def test_what_is_no_study(tmp_path):
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at")
    with pytest.raises(CorruptFileError, match="not a readable study") as error:
        TrialReader(f"sqlite:///{tmp_path / 'text.db'}").refresh()
    assert "\n" not in str(error.value)
    with pytest.raises(PruneSearchError, match="no Optuna storage"):
        study_names(f"sqlite:///{tmp_path / 'text.db'}")
    new_study(tmp_path / "study.db")
    with pytest.raises(CorruptFileError, match="no study 'other'"):
        TrialReader(f"sqlite:///{tmp_path / 'study.db'}", "other").refresh()
    assert study_names(f"sqlite:///{tmp_path / 'study.db'}") == ["prunesearch"]


def test_a_trial_keeps_its_schedule_and_its_duplicates_do_not_count():
    trial = plain_trials(1)[0]
    assert trial.schedule == Schedule.from_dict(trial.attrs["schedule"])
    assert trial.complete
    again = module.Trial(1, "COMPLETE", (), {**trial.attrs, "duplicate_of": 0})
    assert not again.complete
    raced = module.Trial(2, "COMPLETE", (), {**trial.attrs, "rows": 64})
    assert raced.complete
    assert not raced.contends
    assert trial.number_of("source") is None


def test_passwords_are_not_shown():
    assert shown_url("postgresql://me:secret@host/name") == "postgresql://me:***@host/name"


def test_optuna_still_has_the_schema_that_is_read(tmp_path):
    study = new_study(tmp_path / "study.db")
    with module.read_only_engine(f"sqlite:///{tmp_path / 'study.db'}").connect() as connection:
        assert is_known_schema(connection)
    assert json.dumps(study.user_attrs) == "{}"
    assert optuna.__version__ >= "5"
