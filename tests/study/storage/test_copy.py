"""A copy of a study that optuna-dashboard shows with its constraints; the study itself stays as it is."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from prunesearch.cli.app import app
from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.study.storage.copy import copy_for_optuna_dashboard
from tests.support.paths import DEV
from tests.support.studies import add_trials, load_study, new_study, optuna_storage, plain_trials, write_folder

BOUNDS = {"quality >= 0.99*unpruned": -0.25, "macs <= 60%": 1.5}


@pytest.fixture(params=["study.journal", "study.db"])
def file(request, tmp_path):
    """A study, as studies are kept and as they were, of two plain trials and one with constraints."""
    folder = write_folder(tmp_path / "study")
    study = new_study(folder / request.param)
    add_trials(study, plain_trials(2))
    trial = study.ask()
    for name, excess in BOUNDS.items():
        trial.set_constraint(name, excess)
    study.tell(trial, [0.1, 2.0])
    return folder / request.param


def test_the_copy_has_all_of_the_study_and_the_old_attribute(file, tmp_path):
    before = file.read_bytes()
    assert copy_for_optuna_dashboard(file, tmp_path / "copy.journal") == 1
    assert file.read_bytes() == before
    told, copied = load_study(file).trials, load_study(tmp_path / "copy.journal").trials
    shown = ("number", "state", "values", "user_attrs", "datetime_start", "datetime_complete")
    assert [[getattr(t, name) for name in shown] for t in copied] == [
        [getattr(t, name) for name in shown] for t in told
    ]
    assert told[2].constraints == BOUNDS
    # Optuna 5 reads the list as constraints "0" and "1": of the same excess, so that the same trials are feasible
    assert copied[2].constraints == {"0": 1.5, "1": -0.25, **BOUNDS}
    assert copied[0].constraints == {}


def test_optuna_dashboard_shows_them(file, tmp_path):
    shown = pytest.importorskip("optuna_dashboard", reason=DEV)
    from werkzeug.test import Client

    copy_for_optuna_dashboard(file, tmp_path / "copy.journal")
    found = {}
    for path in (file, tmp_path / "copy.journal"):
        client = Client(shown.wsgi(optuna_storage(path)))
        (study,) = json.loads(client.get("/api/studies").get_data(as_text=True))["study_summaries"]
        answer = json.loads(client.get(f"/api/studies/{study['study_id']}?after=0").get_data(as_text=True))
        found[path.name] = [sorted(trial["constraints"]) for trial in answer["trials"]]
    assert found == {file.name: [[], [], []], "copy.journal": [[], [], [-0.25, 1.5]]}


def test_what_cannot_be_copied_is_one_line_and_leaves_nothing(file, tmp_path):
    taken = tmp_path / "taken.journal"
    taken.write_text("mine")
    with pytest.raises(PruneSearchError, match="is there already: give the copy another name"):
        copy_for_optuna_dashboard(file, taken)
    assert taken.read_text() == "mine"
    with pytest.raises(CorruptFileError, match="cannot be copied"):
        copy_for_optuna_dashboard(taken, tmp_path / "copy.journal")
    with pytest.raises(CorruptFileError, match="check both paths"):
        copy_for_optuna_dashboard(file, tmp_path / "none" / "copy.journal")
    assert not (tmp_path / "copy.journal").exists()


def test_the_command(file, tmp_path):
    words = ["dashboard", str(file.parent), "--optuna-copy", str(tmp_path / "copy.journal")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert f"optuna-dashboard {tmp_path / 'copy.journal'}" in done.stderr
    assert len(load_study(tmp_path / "copy.journal").trials) == 3
    for given in ([], [str(file.parent)] * 2):
        done = CliRunner().invoke(app, ["dashboard", *given, "--optuna-copy", str(tmp_path / "b.journal")])
        assert isinstance(done.exception, PruneSearchError)
        assert "one study" in str(done.exception)
