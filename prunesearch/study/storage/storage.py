"""The storage behind a study: Optuna's, with trials that are written in one piece and read once.

A trial that is asked for is a draft in memory until `publish` writes it, parameters and attributes together; the
attributes it gets after that are written as it ends. Other trials are read when they are new or have changed.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import time
import weakref
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from prunesearch.core.errors import PruneSearchError
from prunesearch.study.storage.reader import KnownTrials

if TYPE_CHECKING:
    from optuna.study._frozen import FrozenStudy

BEAT_S = 20.0  # between two signs of life
GRACE_S = 60.0  # of silence before a trial is taken for abandoned


def storage_of(study: optuna.Study) -> StudyStorage:
    """The storage that `open_study` gave a study: the one thing of Optuna's that is used and is not public."""
    storage = study._storage
    if not isinstance(storage, StudyStorage):
        raise TypeError(f"a study of `open_study` is needed, but got one with a {type(storage).__name__}")
    return storage


class StudyStorage(BaseStorage):
    """One study of a storage of Optuna's; of other studies nothing is known here.

    Args:
        backend: Optuna's.
        study_id: identifier of the study.
        together: within its block, what the backend is told is written in one piece.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        backend: BaseStorage,
        study_id: int,
        together: Callable[[], AbstractContextManager[None]] = nullcontext,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend, self._study_id, self._together, self._clock = backend, study_id, together, clock
        self._known = KnownTrials(backend, study_id)
        self._draft: FrozenTrial | None = None
        self._drafts = 0  # so far; their identifiers are negative
        self._published: dict[int, int] = {}  # identifiers of those that were written, by their own
        self._mine: dict[int, FrozenTrial] = {}  # running for this process, by identifier
        self._unwritten: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}  # their user and system attributes
        self._signs: dict[int, tuple[Any, float]] = {}  # of life, and when they were first seen, by number
        self._beats = 0  # signs of life that were shown
        self._lock = threading.RLock()
        self._heart: threading.Thread | None = None

    # -- what is not Optuna's

    def publish(self, number: int) -> int:
        """Write a trial that was asked for as `number`, with all it has by now; return the number it has in the study.

        A draft's number is not known before.
        """
        with self._lock:
            draft = self._draft
            if draft is not None and draft.number == number:
                identifier = self._backend.create_new_trial(self._study_id, draft)
                self._published[-self._drafts] = identifier
                self._known.refresh()
                number = next(n for n, known in self._known.unfinished.items() if known == identifier)
                draft.number = number
                self._take(identifier, draft)
            else:
                with self._together():
                    self._write_attrs(self._known.identifier(number))
            if self._heart is None:
                self._heart = threading.Thread(target=_beat, args=(weakref.ref(self),), name="heartbeat", daemon=True)
                self._heart.start()
            return number

    def discard(self, number: int) -> bool:
        """Forget a draft; False if the trial is none."""
        with self._lock:
            draft, found = self._draft, self._draft is not None and self._draft.number == number
            self._draft = None if found else draft
            return found

    def fail(self, number: int, attrs: Mapping[str, Any]) -> bool:
        """Fail a trial of whatever process; False if it had ended."""
        with self._lock:
            identifier = self._known.identifier(number)
            try:
                with self._together():
                    self._check_running(identifier)
                    for key, value in attrs.items():
                        self._backend.set_trial_user_attr(identifier, key, value)
                    self._backend.set_trial_state_values(identifier, TrialState.FAIL)
            except UpdateFinishedTrialError:
                return False
            return True

    def silent(self) -> set[int]:
        """Numbers of running trials of others in which nothing has been seen to stir for `GRACE_S` seconds.

        They are watched from here, so that clocks of machines need not agree.
        """
        with self._lock:
            self._known.refresh()
            now, signs = self._clock(), {}
            for number in self._known.unfinished:
                trial = self._known.trials[number]
                if trial.state == TrialState.RUNNING:
                    sign, before = trial.user_attrs.get("alive"), self._signs.get(number)
                    signs[number] = before if before is not None and before[0] == sign else (sign, now)
            self._signs = signs
            return {number for number, (_, since) in signs.items() if now - since > GRACE_S}

    def beat(self) -> None:
        """Show a sign of life for every trial that this process has under way."""
        with self._lock:
            self._beats += 1
            for identifier in self._mine:
                # given up for dead, or the storage cannot be written: whoever tells the result learns of it
                with contextlib.suppress(PruneSearchError, UpdateFinishedTrialError):
                    self._backend.set_trial_user_attr(identifier, "alive", self._beats)

    def _real(self, trial_id: int) -> int:
        """The identifier of a trial whose caller may know it as the draft it was."""
        return self._published.get(trial_id, trial_id)

    def _take(self, trial_id: int, trial: FrozenTrial) -> None:
        """From here on a trial is this process's: nobody else changes it, but to give it up for dead."""
        self._mine[trial_id], self._unwritten[trial_id] = trial, ({}, {})
        self._draft = None
        self._known.unfinished.pop(trial.number, None)

    def _check_running(self, trial_id: int) -> None:
        if self._backend.get_trial(trial_id).state.is_finished():
            raise UpdateFinishedTrialError(f"trial {trial_id} was ended by another process")

    def _write_attrs(self, trial_id: int) -> None:
        user, system = self._unwritten.get(trial_id, ({}, {}))
        for key, value in user.items():
            self._backend.set_trial_user_attr(trial_id, key, value)
        for key, value in system.items():
            self._backend.set_trial_system_attr(trial_id, key, value)
        user.clear()
        system.clear()

    # -- trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Begin a draft, in place of one that was not published; or write the trial given."""
        if template_trial is not None:
            return self._backend.create_new_trial(study_id, template_trial)
        with self._lock:
            self._drafts += 1
            self._draft = FrozenTrial(
                number=len(self._known.trials),
                state=TrialState.RUNNING,
                value=None,
                datetime_start=datetime.now(),
                datetime_complete=None,
                params={},
                distributions={},
                user_attrs={},
                system_attrs={},
                intermediate_values={},
                trial_id=-self._drafts,
            )
            return -self._drafts

    def _own(self, trial_id: int) -> FrozenTrial | None:
        """The draft, or a trial that runs for this process."""
        is_draft = self._draft is not None and trial_id == -self._drafts
        return self._draft if is_draft else self._mine.get(trial_id)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Give a draft a parameter; of a trial that was queued it is written at once."""
        trial_id = self._real(trial_id)
        trial = self._own(trial_id)
        if trial is None or trial is not self._draft:
            self._backend.set_trial_param(trial_id, param_name, param_value_internal, distribution)
        if trial is not None:
            trial.distributions = {**trial.distributions, param_name: distribution}
            trial.params[param_name] = distribution.to_external_repr(param_value_internal)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """End a trial with the attributes it got, or take a queued one."""
        trial_id = self._real(trial_id)
        with self._lock:
            mine = self._mine.pop(trial_id, None)
            if mine is None:
                done = self._backend.set_trial_state_values(trial_id, state, values)
                if done and state == TrialState.RUNNING:
                    self._take(trial_id, copy.deepcopy(self._backend.get_trial(trial_id)))
                return done
            self._known.unfinished[mine.number] = trial_id  # to be read once more
            try:
                with self._together():
                    self._check_running(trial_id)
                    self._write_attrs(trial_id)
                    return self._backend.set_trial_state_values(trial_id, state, values)
            finally:
                del self._unwritten[trial_id]

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Give a trial an attribute: this process's own is written as it is published, or ends."""
        trial_id = self._real(trial_id)
        with self._lock:
            own = self._own(trial_id)
            if own is None:
                self._backend.set_trial_user_attr(trial_id, key, value)
                return
            own.user_attrs[key] = value
            if own is not self._draft:
                self._unwritten[trial_id][0][key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As `set_trial_user_attr`, for what samplers keep."""
        trial_id = self._real(trial_id)
        with self._lock:
            own = self._own(trial_id)
            if own is None:
                self._backend.set_trial_system_attr(trial_id, key, value)
                return
            own.system_attrs[key] = value
            if own is not self._draft:
                self._unwritten[trial_id][1][key] = value

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Left to Optuna; trials here have none."""
        self._backend.set_trial_intermediate_value(self._real(trial_id), step, intermediate_value)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """The trial; one that is under way here is copied."""
        trial_id = self._real(trial_id)
        with self._lock:
            own = self._own(trial_id)
            if own is None:
                return self._backend.get_trial(trial_id)
            trial = copy.copy(own)
            trial.params, trial.distributions = dict(own.params), dict(own.distributions)
            trial.user_attrs, trial.system_attrs = dict(own.user_attrs), dict(own.system_attrs)
            return trial

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """The identifier of a trial."""
        return self._backend.get_trial_id_from_study_id_trial_number(study_id, trial_number)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """All trials by number, drafts left out; what is new is read."""
        with self._lock:
            self._known.refresh()
            trials = self._known.trials
            if states is None:
                found = list(trials)
            elif any(state in states for state in TrialState if state.is_finished()):
                found = [trial for trial in trials if trial.state in states]
            else:
                live = {*self._known.unfinished, *(trial.number for trial in self._mine.values())}
                found = [trials[number] for number in sorted(live) if trials[number].state in states]
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


def _beat(of: weakref.ref[StudyStorage]) -> None:
    """Show signs of life for as long as anybody uses the storage."""
    while True:
        time.sleep(BEAT_S)
        storage = of()
        if storage is None:
            return
        storage.beat()
        del storage
