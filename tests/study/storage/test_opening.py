"""Studies of before there were journals, whose trials are in `study.db`."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from prunesearch.core.errors import CorruptFileError
from prunesearch.core.events import Note, listening
from prunesearch.study.storage.opening import open_storage, take_over
from prunesearch.study.storage.worker import this_worker
from prunesearch.study.trials import finished_trials, open_study, read_trials, study_exists
from tests.support.searches import make_search, run_local
from tests.support.studies import load_study


@pytest.fixture
def old(tmp_path):
    """A study as an earlier version left it: three results, a failure, a trial that was cut off."""
    search = make_search(f"sqlite:///{tmp_path / 'study.db'}", worker=f"{this_worker().rsplit('|', 2)[0]}|999999999|1")
    list(run_local(search, 3))
    search.fail(search.ask(), "out of memory")
    search.ask()
    return tmp_path / "study.db"


def shown(study):
    names = ("number", "state", "values", "params", "distributions", "user_attrs", "system_attrs")
    times = ("datetime_start", "datetime_complete")
    return [[getattr(trial, name) for name in (*names, *times)] for trial in study.trials]


def test_a_server_that_was_there_is_waited_for_a_while_and_a_wrong_one_is_not():
    nowhere, slept, heard = "postgresql+psycopg://me:hunter2@127.0.0.1:1/none", [], []
    with listening(heard.append), pytest.raises(sa.exc.OperationalError):
        open_storage(nowhere, "x", 2, slept.append)
    assert 3 < sum(slept) < 12
    (said,) = [e.text for e in heard if isinstance(e, Note)]
    assert "is away" in said
    assert "hunter2" not in said
    slept.clear()
    with pytest.raises(sa.exc.OperationalError):
        open_storage(nowhere, "x", 0, slept.append)
    assert sum(slept) < 2


def test_its_trials_are_copied_once_and_it_stays_as_it_is(old):
    before, journal = old.read_bytes(), old.with_name("study.journal")
    told = load_study(old)
    assert study_exists(journal)
    assert len(read_trials(journal)) == 3
    assert not journal.exists()
    heard = []
    with listening(heard.append):
        take_over(journal, "prunesearch")
    assert [e.text for e in heard if isinstance(e, Note)] == [
        f"5 trials of {old}, which an earlier version wrote, were copied to study.journal"
    ]
    assert shown(load_study(journal)) == shown(told)
    assert load_study(journal).user_attrs == told.user_attrs
    search = make_search(journal)
    assert [r.number for r in finished_trials(search.study)] == [0, 1, 2]
    assert len(list(run_local(search, 5))) == 2
    with listening(heard.append):
        assert len(finished_trials(open_study(journal))) == 5
    assert len([e for e in heard if isinstance(e, Note)]) == 1
    assert old.read_bytes() == before
    assert not [path for path in old.parent.iterdir() if ".part" in path.name]
    assert len(load_study(old).trials) == 5


def test_what_its_dead_process_had_under_way_is_failed(old):
    states = [t.state for t in open_study(old.with_name("study.journal")).trials]
    assert states[:4] == [TrialState.COMPLETE] * 3 + [TrialState.FAIL]


def test_a_copy_that_was_cut_off_is_begun_anew(old):
    journal = old.with_name("study.journal")
    journal.with_name("study.journal.part").write_text('{"op_code": 0')
    assert len(finished_trials(open_study(journal))) == 3
    assert not journal.with_name("study.journal.part").exists()


def test_one_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "study.db").write_text("no database, but long enough to be looked at")
    for open_it in (open_study, study_exists, read_trials):
        with pytest.raises(CorruptFileError, match=r"study\.db' is not a readable study") as error:
            open_it(tmp_path / "study.journal")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "study.journal").exists()
