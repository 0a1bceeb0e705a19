"""The storage behind a study: Optuna's, with trials that are written in one piece and read once.

A trial that is asked for is a draft in memory until `publish` writes it, parameters and attributes together; the
attributes it gets after that are written as it ends. Other trials are read when they are new or have changed.
"""

from __future__ import annotations

import contextlib
import copy
import random
import threading
import time
import weakref
from collections.abc import Container, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from prunesearch.study.storage.schema import is_known_schema
from prunesearch.study.storage.tables import TrialTables

if TYPE_CHECKING:
    from optuna.study._frozen import FrozenStudy

BEAT_S = 20.0  # between two signs of life
GRACE_S = 120.0  # of silence before a trial is taken for abandoned
_LOCKED_S = 60.0  # how long to wait while another process writes
_TRIES = 5  # to open a database that other processes are making at the same moment


def open_storage(url: str, study: str, directions: int = 0) -> tuple[BaseStorage, int]:
    """Open the storage at an SQLAlchemy URL, and its study.

    Args:
        url: as Optuna takes it.
        study: name of the study.
        directions: how many values a trial minimises, for a study that is not there yet; 0: it must be there, and
            nothing is written.

    Returns:
        The storage and the study's identifier.

    Raises:
        KeyError: if the study is not there, and `directions` is 0.
    """
    file = url.startswith("sqlite")
    options = {"connect_args": {"timeout": _LOCKED_S}} if file else {"pool_pre_ping": True}
    for attempt in range(_TRIES):
        try:
            backend = RDBStorage(url, engine_kwargs=dict(options))
            if directions and file:
                _quicken(backend.engine)
            study_id = _study_id(backend, study, directions)
            break
        except (sa.exc.OperationalError, sa.exc.ProgrammingError, sa.exc.IntegrityError):
            # two processes that make the tables at once: the later one finds them there
            if attempt == _TRIES - 1:
                raise
            time.sleep(0.1 + 0.2 * random.random())
    with backend.engine.connect() as connection:
        known = is_known_schema(connection)
    return (StudyStorage(backend, study_id) if known else optuna.storages.get_storage(backend)), study_id


def _study_id(backend: RDBStorage, study: str, directions: int) -> int:
    try:
        return backend.get_study_id_from_name(study)
    except KeyError:
        if not directions:
            raise
    try:
        return backend.create_new_study([StudyDirection.MINIMIZE] * directions, study)
    except optuna.exceptions.DuplicatedStudyError:  # another process was quicker
        return backend.get_study_id_from_name(study)


def _quicken(engine: sa.Engine) -> None:
    """Let readers read while somebody writes, and a commit not wait for the disk.

    What a process has committed outlives it in any case; a power cut may take the last trials, never the study.
    """

    def pragmas(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    sa.event.listen(engine, "connect", pragmas)
    engine.dispose()


def publish(study: optuna.Study, trial: optuna.Trial) -> int:
    """Write a trial that was asked for, with all it has by now, for other processes to see; return its number."""
    storage = study._storage
    return storage.publish(trial._trial_id) if isinstance(storage, StudyStorage) else trial.number


def discard(study: optuna.Study, trial: optuna.Trial) -> None:
    """Let go of a trial that was asked for in vain; one that is in the database already is failed."""
    storage = study._storage
    if not (isinstance(storage, StudyStorage) and storage.discard(trial._trial_id)):
        trial.set_user_attr("error", "the schedule was tried before")
        study.tell(trial, state=TrialState.FAIL)


def silent_trials(study: optuna.Study) -> set[int]:
    """Numbers of running trials, of whatever process, that show no sign of life."""
    storage = study._storage
    return storage.silent() if isinstance(storage, StudyStorage) else set()


def _beat(of: weakref.ref[StudyStorage]) -> None:
    """Show signs of life for as long as anybody uses the storage."""
    while True:
        time.sleep(BEAT_S)
        storage = of()
        if storage is None:
            return
        # a database that is away for a moment must not end the search
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            storage.beat()
        del storage


class StudyStorage(BaseStorage):
    """One study of an RDB storage; of other studies nothing is known here.

    Args:
        backend: whose schema is known (`is_known_schema`).
        study_id: identifier of the study.
    """

    def __init__(self, backend: RDBStorage, study_id: int) -> None:
        self._backend, self._study_id = backend, study_id
        self._tables = TrialTables(backend.engine, study_id)
        self._trials: list[FrozenTrial] = []  # by number
        self._numbers: dict[int, int] = {}  # by identifier
        self._last = -1  # identifiers up to here were read
        self._unfinished: set[int] = set()  # identifiers of other processes' trials
        self._mine: dict[int, FrozenTrial] = {}  # running; drafts have negative identifiers
        self._unwritten: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        self._published: dict[int, int] = {}  # identifiers of drafts that were written since
        self._drafts = 0
        self._lock = threading.RLock()
        self._heart: threading.Thread | None = None
        # an SQLite file is whole, without its -wal, once its last connection is closed
        weakref.finalize(self, backend.engine.dispose)

    # -- what is not Optuna's

    def publish(self, trial_id: int) -> int:
        """Write a draft, or the attributes that a queued trial was given since; return the trial's number."""
        with self._lock:
            trial = self._mine[trial_id]
            if trial_id < 0:
                written, number = self._tables.insert(trial)
                self._published[trial_id] = written
                del self._mine[trial_id]
                self._unwritten.pop(trial_id, None)
                trial.number, trial._trial_id = number, written
                self._mine[written] = trial
                self._numbers[written] = number
                self._refresh(trial)
            else:
                written = trial_id
                self._tables.set_attrs(trial_id, *self._unwritten_of(trial_id))
                self._backend.record_heartbeat(trial_id)
            self._unwritten[written] = ({}, {})
            if self._heart is None:
                self._heart = threading.Thread(target=_beat, args=(weakref.ref(self),), name="heartbeat", daemon=True)
                self._heart.start()
            return trial.number

    def discard(self, trial_id: int) -> bool:
        """Forget a draft; False if the trial is none."""
        with self._lock:
            self._unwritten.pop(trial_id, None)
            return trial_id < 0 and self._mine.pop(trial_id, None) is not None

    def silent(self) -> set[int]:
        """Numbers of running trials that were not heard of for `GRACE_S` seconds."""
        silent = self._tables.silent(GRACE_S)
        self._refresh()
        return {self._numbers[i] for i in silent if i in self._numbers and i not in self._mine}

    def beat(self) -> None:
        """Show a sign of life for every trial that this process has under way."""
        with self._lock:
            running = [i for i in self._mine if i >= 0]
        if running:
            self._tables.beat(running)

    def _refresh(self, *own: FrozenTrial) -> None:
        """Read what is new; numbers have no gaps, since whoever reads one sees all lower ones."""
        with self._lock:
            self._last, found = self._tables.read(self._last, self._unfinished, self._numbers)
            for trial in sorted([*found, *own], key=lambda trial: trial.number):
                self._numbers[trial._trial_id] = trial.number
                # in place of itself as it was, or at the end
                self._trials[trial.number : trial.number + 1] = [trial]
            for trial in found:
                if trial.state.is_finished():
                    self._unfinished.discard(trial._trial_id)
                else:
                    self._unfinished.add(trial._trial_id)

    def _real(self, trial_id: int) -> int:
        return self._published.get(trial_id, trial_id)

    # -- trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Begin a draft, or write the trial given."""
        if template_trial is not None:
            return self._backend.create_new_trial(study_id, template_trial)
        with self._lock:
            self._drafts += 1
            trial_id = -self._drafts
            self._mine[trial_id] = FrozenTrial(
                number=len(self._trials),
                state=TrialState.RUNNING,
                value=None,
                datetime_start=datetime.now(),
                datetime_complete=None,
                params={},
                distributions={},
                user_attrs={},
                system_attrs={},
                intermediate_values={},
                trial_id=trial_id,
            )
            return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Give a draft a parameter; of a trial that was queued it is written at once."""
        trial_id = self._real(trial_id)
        trial = self._mine.get(trial_id)
        if trial is None or trial_id >= 0:
            self._backend.set_trial_param(trial_id, param_name, param_value_internal, distribution)
        if trial is not None:
            trial.distributions = {**trial.distributions, param_name: distribution}
            trial.params[param_name] = distribution.to_external_repr(param_value_internal)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """End a trial with the attributes it got, or take a queued one."""
        trial_id = self._real(trial_id)
        with self._lock:
            mine = self._mine.get(trial_id)
            if mine is None:
                done = self._backend.set_trial_state_values(trial_id, state, values)
                if done and state == TrialState.RUNNING:
                    self._mine[trial_id] = self._backend.get_trial(trial_id)
                return done
            del self._mine[trial_id]
            unwritten = self._unwritten.pop(trial_id, ({}, {}))
            self._unfinished.add(trial_id)  # until it is: if another process ended it, that is to be read
            self._tables.finish(trial_id, state, values, *unwritten)
            mine.state, mine.datetime_complete = state, datetime.now()
            if values is not None:
                mine.values = list(values)
            self._unfinished.discard(trial_id)
            self._trials[mine.number] = mine
            return True

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Give a trial an attribute: this process's own is written as it is published, or ends."""
        trial_id = self._real(trial_id)
        with self._lock:
            mine = self._mine.get(trial_id)
            if mine is None or not self._defer(trial_id, mine.user_attrs, self._unwritten_of(trial_id)[0], key, value):
                self._backend.set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As `set_trial_user_attr`, for what samplers keep."""
        trial_id = self._real(trial_id)
        with self._lock:
            mine = self._mine.get(trial_id)
            if mine is None or not self._defer(
                trial_id, mine.system_attrs, self._unwritten_of(trial_id)[1], key, value
            ):
                self._backend.set_trial_system_attr(trial_id, key, value)

    def _unwritten_of(self, trial_id: int) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._unwritten.setdefault(trial_id, ({}, {}))

    @staticmethod
    def _defer(trial_id: int, attrs: dict[str, Any], unwritten: dict[str, Any], key: str, value: Any) -> bool:
        """Keep an attribute in memory; False if it is in the database already, where it has to change."""
        written = trial_id >= 0 and key in attrs and key not in unwritten
        attrs[key] = value
        if not written:
            unwritten[key] = value
        return not written

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Left to Optuna; trials here have none."""
        self._backend.set_trial_intermediate_value(self._real(trial_id), step, intermediate_value)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """The trial, from memory where it is known to be as it was; one that is under way is copied."""
        trial_id = self._real(trial_id)
        with self._lock:
            if trial_id in self._mine:
                trial = copy.copy(self._mine[trial_id])
                trial.params, trial.distributions = dict(trial.params), dict(trial.distributions)
                trial.user_attrs, trial.system_attrs = dict(trial.user_attrs), dict(trial.system_attrs)
                return trial
            if trial_id in self._numbers and trial_id not in self._unfinished:
                return self._trials[self._numbers[trial_id]]
        return self._backend.get_trial(trial_id)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """The identifier of a trial."""
        with self._lock:
            if trial_number >= len(self._trials):
                self._refresh()
            if trial_number >= len(self._trials):
                raise KeyError(f"there is no trial {trial_number}")
            return self._trials[trial_number]._trial_id

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """All trials by number, drafts left out; what is new is read."""
        with self._lock:
            self._refresh()
            if states is None:
                found = list(self._trials)
            elif any(state in states for state in TrialState if state.is_finished()):
                found = [trial for trial in self._trials if trial.state in states]
            else:
                live = {self._numbers[i] for i in (*self._unfinished, *self._mine) if i >= 0}
                found = [self._trials[n] for n in sorted(live) if self._trials[n].state in states]
        return copy.deepcopy(found) if deepcopy else found

    # -- studies: Optuna's

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Left to Optuna."""
        return self._backend.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        """Left to Optuna."""
        self._backend.delete_study(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Left to Optuna."""
        self._backend.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Left to Optuna."""
        self._backend.set_study_system_attr(study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        """Left to Optuna."""
        return self._backend.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """Left to Optuna."""
        return self._backend.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Left to Optuna."""
        return self._backend.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Left to Optuna."""
        return self._backend.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Left to Optuna."""
        return self._backend.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        """Left to Optuna."""
        return self._backend.get_all_studies()

    def remove_session(self) -> None:
        """Left to Optuna."""
        self._backend.remove_session()
