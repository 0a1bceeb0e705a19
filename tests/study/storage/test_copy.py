"""A copy of a study that optuna-dashboard shows with its constraints; the study itself stays as it is."""

from __future__ import annotations

import json
import sqlite3

import optuna
import pytest
from typer.testing import CliRunner

from prunesearch.cli.app import app
from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.study.storage.copy import copy_for_optuna_dashboard
from tests.support.studies import add_trials, new_study, plain_trials, write_folder

BOUNDS = {"quality >= 0.99*unpruned": -0.25, "macs <= 60%": 1.5}


@pytest.fixture
def database(tmp_path):
    """A study of two plain trials and one with constraints."""
    folder = write_folder(tmp_path / "study")
    study = new_study(folder / "study.db")
    add_trials(study, plain_trials(2))
    trial = study.ask()
    for name, excess in BOUNDS.items():
        trial.set_constraint(name, excess)
    study.tell(trial, [0.1, 2.0])
    return folder / "study.db"


def load(path):
    return optuna.load_study(study_name="prunesearch", storage=f"sqlite:///{path}")


def test_the_copy_has_all_of_the_study_and_the_old_attribute(database, tmp_path):
    before = database.read_bytes()
    assert copy_for_optuna_dashboard(database, tmp_path / "copy.db") == 1
    assert database.read_bytes() == before
    told, copied = load(database).trials, load(tmp_path / "copy.db").trials
    assert [(t.number, t.values, t.user_attrs) for t in copied] == [(t.number, t.values, t.user_attrs) for t in told]
    assert told[2].constraints == BOUNDS
    # Optuna 5 reads the list as constraints "0" and "1": of the same excess, so that the same trials are feasible
    assert copied[2].constraints == {"0": 1.5, "1": -0.25, **BOUNDS}
    assert copied[0].constraints == {}


def test_optuna_dashboard_shows_them(database, tmp_path):
    shown = pytest.importorskip("optuna_dashboard", reason="needs the package optuna-dashboard")
    from werkzeug.test import Client

    copy_for_optuna_dashboard(database, tmp_path / "copy.db")
    found = {}
    for path in (database, tmp_path / "copy.db"):
        client = Client(shown.wsgi(optuna.storages.RDBStorage(f"sqlite:///{path}")))
        answer = json.loads(client.get("/api/studies/1?after=0").get_data(as_text=True))
        found[path.name] = [sorted(trial["constraints"]) for trial in answer["trials"]]
    assert found == {"study.db": [[], [], []], "copy.db": [[], [], [-0.25, 1.5]]}


def test_what_cannot_be_copied_is_one_line_and_leaves_nothing(database, tmp_path, monkeypatch):
    taken = tmp_path / "taken.db"
    taken.write_text("mine")
    with pytest.raises(PruneSearchError, match="is there already: give the copy another name"):
        copy_for_optuna_dashboard(database, taken)
    assert taken.read_text() == "mine"
    with pytest.raises(CorruptFileError, match="cannot be copied"):
        copy_for_optuna_dashboard(taken, tmp_path / "copy.db")
    with pytest.raises(CorruptFileError, match="check both paths"):
        copy_for_optuna_dashboard(database, tmp_path / "none" / "copy.db")
    monkeypatch.setattr("prunesearch.study.storage.schema.REVISION", "v99")
    with pytest.raises(PruneSearchError, match="tables of another Optuna"):
        copy_for_optuna_dashboard(database, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_the_command(database, tmp_path):
    words = ["dashboard", str(database.parent), "--optuna-copy", str(tmp_path / "copy.db")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert f"optuna-dashboard sqlite:///{tmp_path / 'copy.db'}" in done.stderr
    with sqlite3.connect(tmp_path / "copy.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM trials").fetchone() == (3,)
    for given in ([], [str(database.parent)] * 2):
        done = CliRunner().invoke(app, ["dashboard", *given, "--optuna-copy", str(tmp_path / "b.db")])
        assert isinstance(done.exception, PruneSearchError)
        assert "one study" in str(done.exception)
