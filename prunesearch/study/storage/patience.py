"""Calls of a database that may be away for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import optuna
import sqlalchemy as sa
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import warn

T = TypeVar("T")
DELAYS_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # between tries, a minute in all
_AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError)


class Patient:
    """A storage whose calls are made again while its database is away; every other method is that of `backend`.

    A call whose answer was lost may have been carried out: what must not be done twice is looked for first.

    Args:
        backend: Optuna's.
        name: how the database is shown.
        delays: seconds between tries; none: every error is final.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        backend: BaseStorage,
        name: str,
        delays: Sequence[float] = DELAYS_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.backend, self.name = backend, name
        self._delays, self._sleep = delays, sleep

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.backend, name)
        return lambda *args, **options: self._do(partial(call, *args, **options))

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial) -> int:
        """As the backend's, once."""
        create = partial(self.backend.create_new_trial, study_id, template_trial)
        return self._do(create, partial(self._created, study_id, template_trial))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As the backend's, once."""
        change = partial(self.backend.set_trial_state_values, trial_id, state, values)
        return self._do(change, partial(self._ended, trial_id, state, values))

    def _created(self, study_id: int, wanted: FrozenTrial) -> int | None:
        for trial in self.backend.get_all_trials(study_id, deepcopy=False, states=(wanted.state,)):
            if trial.params == wanted.params and trial.user_attrs == wanted.user_attrs:
                return self.backend.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        return None

    def _ended(self, trial_id: int, state: TrialState, values: Sequence[float] | None) -> bool | None:
        trial = self.backend.get_trial(trial_id)
        same = trial.state == state and state.is_finished() and (values is None or trial.values == list(values))
        return True if same else None

    def _do(self, call: Callable[[], T], done: Callable[[], T | None] = lambda: None) -> T:
        for attempt, delay in enumerate((*self._delays, None)):
            try:
                found = done() if attempt else None
                return call() if found is None else found
            except (sa.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
                reason = reason_of(error)
                if delay is None or not isinstance(_cause(error), _AWAY):
                    raise PruneSearchError(
                        f"storage '{self.name}' cannot be used ({reason}): give the same command again once it can; "
                        "finished trials are kept"
                    ) from None
                if attempt == 0:
                    warn(f"storage '{self.name}' is away ({reason}): trying again for a minute")
                self._sleep(delay)
        raise AssertionError  # the last try returns or raises


def _cause(error: BaseException) -> BaseException:
    """What Optuna made a `StorageInternalError` of."""
    return error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ else error


def reason_of(error: BaseException) -> str:
    """What an error says, in one short line."""
    return " ".join(str(_cause(error)).split())[:120]
