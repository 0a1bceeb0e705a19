"""Trials of a study, read only, and after the first time only what is new."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.study.storage.patience import reason_of
from prunesearch.study.storage.places import backend_of, uncollected
from prunesearch.study.storage.urls import hide_password

_ROWS = "per_row"  # user attribute that a race looks at: kilobytes a trial that nobody who reads trials here needs


class KnownTrials:
    """The trials of one study by number; a look reads those that had not finished, and those of new numbers.

    Whoever sees a number sees all lower ones, in Optuna's databases and journals.

    Attributes:
        trials: as they were at the last look.
        unfinished: numbers of those that may change, with the identifiers that the storage knows them by.
    """

    def __init__(self, backend: BaseStorage, study_id: int) -> None:
        self._backend, self._study_id = backend, study_id
        self.trials: list[FrozenTrial] = []
        self.unfinished: dict[int, int] = {}

    def refresh(self) -> list[int]:
        """Read what is new; the numbers of the trials that are new or changed."""
        changed = []
        for number, identifier in list(self.unfinished.items()):
            trial = self._backend.get_trial(identifier)
            if trial != self.trials[number]:
                self._take(trial)
                changed.append(number)
        before = len(self.trials)
        if not before:  # one question for all of them
            with uncollected():
                found = self._backend.get_all_trials(self._study_id, deepcopy=False)
            for trial in found:
                self._take(trial)
        while self._take_next():
            pass
        return [*changed, *range(before, len(self.trials))]

    def identifier(self, number: int) -> int:
        """What the storage knows a trial by.

        Raises:
            KeyError: if there is no such trial.
        """
        known = self.unfinished.get(number)
        if known is not None:
            return known
        return self._backend.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _take_next(self) -> bool:
        try:
            identifier = self.identifier(len(self.trials))
        except KeyError:
            return False
        self._take(self._backend.get_trial(identifier), identifier)
        return True

    def _take(self, trial: FrozenTrial, identifier: int | None = None) -> None:
        number = trial.number
        if trial.state.is_finished():
            self.unfinished.pop(number, None)
        elif number not in self.unfinished:
            self.unfinished[number] = self.identifier(number) if identifier is None else identifier
        # in place of itself as it was, or at the end
        self.trials[number : number + 1] = [trial]


@dataclass(frozen=True)
class Trial:
    """A trial, whatever its state.

    `values` are what the study minimises, `attrs` Optuna's user attributes but for `per_row`, `constraints` are kept
    where they are not above 0.
    """

    number: int
    state: str
    values: tuple[float, ...]
    attrs: dict[str, Any] = field(hash=False)
    started: datetime | None = None
    completed: datetime | None = None
    constraints: dict[str, float] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, trial: FrozenTrial) -> Trial:
        """What is shown of one of Optuna's."""
        return cls(
            number=trial.number,
            state=trial.state.name,
            values=tuple(trial.values or ()),
            attrs={key: value for key, value in trial.user_attrs.items() if key != _ROWS},
            started=trial.datetime_start,
            completed=trial.datetime_complete,
            constraints=trial.constraints,
        )

    @property
    def contends(self) -> bool:
        """Whether it can be on a front: evaluated on all rows, not an estimate from the first ones, and allowed."""
        return self.attrs.get("rows") is None and all(value <= 0 for value in self.constraints.values())

    @property
    def withdrawn(self) -> bool:
        """Whether it was given up without being tried: for another of its schedule, or because there were enough."""
        return not {"duplicate_of", "surplus"}.isdisjoint(self.attrs)

    @property
    def complete(self) -> bool:
        """Whether it has a result of its own."""
        return self.state == "COMPLETE" and not self.withdrawn

    @cached_property
    def plan(self) -> Plan:
        """The plan that was tried; a trial that has one knows it as the attribute `schedule`.

        Raises:
            CorruptFileError: if it has none, or none that can be read.
        """
        if "schedule" not in self.attrs:
            raise CorruptFileError(f"trial {self.number} has no schedule: lines of its study's file are gone")
        return Plan.from_dict(self.attrs["schedule"])

    def number_of(self, name: str) -> float | None:
        """A user attribute if it is a number, else None."""
        value = self.attrs.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class TrialReader:
    """Reads one study of one storage, incrementally. Safe to use from several threads.

    Args:
        where: the file of a local study, or the URL of a database; neither is made, and nothing is written.
        study: name of the study; None for the only one there.
        open_backend: makes Optuna's storage of `where`.
    """

    def __init__(
        self,
        where: Path | str,
        study: str | None = None,
        open_backend: Callable[[Path | str], BaseStorage] = backend_of,
    ) -> None:
        self.where, self.study = where, study
        self.trials: list[Trial] = []  # by number
        self._open = open_backend
        self._known: KnownTrials | None = None
        self._lock = threading.Lock()

    def refresh(self) -> bool:
        """Read what is new; True if anything changed.

        Raises:
            CorruptFileError: in one line, if the storage cannot be read or holds no such study.
        """
        with self._lock:
            try:
                if self._known is None:
                    self._known = self._find()
                changed = self._known.refresh()
            except PruneSearchError:
                raise
            except Exception as error:  # a file may hold anything, and drivers have errors of their own
                raise CorruptFileError(
                    f"{hide_password(str(self.where))} is not a readable study ({reason_of(error)})"
                ) from None
            for number in changed:
                self.trials[number : number + 1] = [Trial.of(self._known.trials[number])]
            return bool(changed)

    def _find(self) -> KnownTrials:
        backend = self._open(self.where)
        for name in optuna.get_all_study_names(backend):
            if self.study in (None, name):
                return KnownTrials(backend, backend.get_study_id_from_name(name))
        raise ValueError("it holds no study" if self.study is None else f"it holds no study '{self.study}'")


def study_names(url: str) -> list[str]:
    """Names of the studies in a storage.

    Raises:
        PruneSearchError: if the storage cannot be read.
    """
    try:
        return optuna.get_all_study_names(backend_of(url))
    except Exception as error:  # drivers have errors of their own
        raise PruneSearchError(
            f"{hide_password(url)} is no Optuna storage that can be read ({reason_of(error)}): give a URL such as "
            "postgresql+psycopg://user@host/name"
        ) from None
