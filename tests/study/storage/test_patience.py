"""A database that is away for a moment: nothing is lost, nothing is done twice, and it is said once."""

from __future__ import annotations

import threading

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import Note, listening
from prunesearch.study.storage.patience import Patient
from prunesearch.study.storage.places import backend_of
from prunesearch.study.storage.storage import StudyStorage
from prunesearch.study.trials import failed_trials, finished_trials, open_study
from tests.support.fakes import fake_evaluation
from tests.support.postgres import server
from tests.support.searches import make_search, run_local

GONE = sa.exc.OperationalError("SELECT 1", {}, Exception("server closed the connection"))


class Flaky:
    """A storage that is away at the calls whose turn is in `away`; the answer of those in `deaf` is lost."""

    def __init__(self, backend, away=(), deaf=()):
        self.backend, self.away, self.deaf, self.turn = backend, set(away), set(deaf), 0

    def __getattr__(self, name):
        call = getattr(self.backend, name)

        def made(*args, **options):
            self.turn += 1
            turn = self.turn
            if turn in self.away:
                raise GONE
            found = call(*args, **options)
            if turn in self.deaf:
                raise optuna.exceptions.StorageInternalError("commit") from GONE
            return found

        return made


def search_on(backend, url, **options):
    """A search on a storage that is handed in."""
    patient = Patient(backend, "here", **options)
    storage = StudyStorage(patient, patient.get_study_id_from_name("prunesearch"))
    return make_search(url, study=optuna.load_study(study_name="prunesearch", storage=storage))


@pytest.fixture
def url(tmp_path):
    """A database with a study."""
    found = f"sqlite:///{tmp_path / 's.db'}"
    open_study(found)
    return found


@pytest.mark.parametrize("kind", ["away", "deaf"])
def test_whatever_call_fails_the_trials_are_the_same(url, kind):
    """Each call in turn is lost, or only its answer."""
    flaky, heard, slept = Flaky(backend_of(url, write=True)), [], []
    with listening(heard.append):
        search = search_on(flaky, url, sleep=slept.append)
        flaky.turn = 0
        # every third call: the next try of it, and the look for what it did, come through
        setattr(flaky, kind, set(range(2, 2000, 5)))
        records = list(run_local(search, 6))
        setattr(flaky, kind, set())
    assert len(records) == 6
    trials = open_study(url).trials
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 6
    assert finished_trials(search.study) == records
    notes = [event.text for event in heard if isinstance(event, Note)]
    assert notes
    assert all("storage 'here' is away (" in text and "\n" not in text for text in notes)
    assert slept == [0.25] * len(notes)


def test_a_database_that_stays_away_ends_in_one_line(url):
    flaky, slept = Flaky(backend_of(url, write=True)), []
    search = search_on(flaky, url, delays=(1.0, 2.0), sleep=slept.append)
    flaky.away = set(range(flaky.turn + 1, flaky.turn + 100))
    with pytest.raises(PruneSearchError, match=r"'here' cannot be used .*give the same command again once it can"):
        search.ask()
    assert slept == [1.0, 2.0]


def test_what_is_not_absence_is_not_tried_again(url):
    slept = []
    patient = Patient(backend_of(url, write=True), "here", sleep=slept.append)
    with pytest.raises(KeyError):
        patient.get_study_id_from_name("none")
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        patient.set_trial_state_values(
            patient.create_new_trial(1, optuna.trial.create_trial(values=[0.0, 1.0])), TrialState.FAIL
        )
    assert slept == []


def test_postgresql_is_gone_for_seconds_while_a_search_runs():
    """Its processes are stopped, every connection breaks, and it comes back."""
    with server() as running:
        search = make_search(running.url, "gone")
        stopped, missed = threading.Event(), threading.Event()

        def away():
            running.stop()
            stopped.set()
            missed.wait()
            running.start()

        def hear(event):
            if isinstance(event, Note) and "is away" in event.text:
                missed.set()

        def evaluate(schedule):
            if len(search.known) == 2:
                threading.Thread(target=away).start()
                stopped.wait()
            return fake_evaluation(schedule)

        with listening(hear):
            records = list(run_local(search, 8, evaluate))
        assert len(records) == 8
        assert finished_trials(open_study(running.url, name="gone")) == records
        assert failed_trials(search.study) == 0
        assert missed.is_set()
