"""How the storage of a study is opened, and made where it is not there."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import optuna
import sqlalchemy as sa
from optuna.storages import BaseStorage, JournalStorage
from optuna.study import StudyDirection

from prunesearch.core.events import say, warn
from prunesearch.study.storage.journal import StudyFile, lock_of
from prunesearch.study.storage.patience import DELAYS_S, Patient, reason_of
from prunesearch.study.storage.places import backend_of, journal_of, sqlite_file
from prunesearch.study.storage.storage import StudyStorage
from prunesearch.study.storage.urls import hide_password

# seconds between tries to open a database: other processes may be making it at the same moment
_MAKING_S = (0.2, 0.2, 0.2, 0.2)
_AWAY_S = (0.25, 0.5, 1.0, 2.0, 4.0)  # and one that was there before may be away for a moment


def open_storage(
    where: Path | str, study: str, directions: int = 0, sleep: Callable[[float], None] = time.sleep
) -> StudyStorage:
    """Open a storage and its study.

    Args:
        where: a journal, or the URL of a database as Optuna takes it. Beside a journal that is not there yet, a
            database that an earlier version wrote is taken over.
        study: name of the study.
        directions: how many values a trial minimises, for a study that is not there yet; 0: it must be there. Who gives
            them is patient: the database of a server was seen before, when it was asked whether the study is there.
        sleep: waits so many seconds.

    Raises:
        KeyError: if the study is not there, and `directions` is 0.
    """
    if isinstance(where, Path):
        take_over(where, study)
        file = StudyFile(where)
        journal = journal_of(file)
        return StudyStorage(journal, _study_id(journal, study, directions), file.together)
    server = sqlite_file(where) is None
    for attempt, delay in enumerate((*(_AWAY_S if server and directions else _MAKING_S), None)):
        try:
            backend = backend_of(where, write=True)
            study_id = _study_id(backend, study, directions)
            break
        except (sa.exc.OperationalError, sa.exc.ProgrammingError, sa.exc.IntegrityError) as error:
            # two processes that make the tables at once: the later one finds them there
            if delay is None:
                raise
            if attempt == 1 and server and directions:
                warn(f"storage '{hide_password(where)}' is away ({reason_of(error)}): trying again for eight seconds")
            sleep(delay * random.uniform(0.5, 1.5))
    delays = DELAYS_S if server else ()
    patient = cast(BaseStorage, Patient(backend, hide_password(where), delays))
    return StudyStorage(patient, study_id, nullcontext)


def old_database(journal: Path) -> Path:
    """Where the trials were before they were in a journal: `study.db` beside `study.journal`."""
    return journal.with_suffix(".db")


def take_over(journal: Path, study: str) -> None:
    """Copy a study's trials from the database that an earlier version kept them in, which stays as it is."""
    old = old_database(journal)
    if journal.exists() or not old.exists():
        return
    with lock_of(journal):
        if journal.exists():  # another process was quicker
            return
        part = journal.with_name(f"{journal.name}.part")
        part.unlink(missing_ok=True)
        copy = JournalStorage(StudyFile(part))
        optuna.copy_study(from_study_name=study, from_storage=backend_of(old), to_storage=copy, to_study_name=study)
        trials = len(optuna.load_study(study_name=study, storage=copy).get_trials(deepcopy=False))
        with part.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(part, journal)
        Path(lock_of(part).lock_file).unlink(missing_ok=True)
    say(f"{trials} trials of {old}, which an earlier version wrote, were copied to {journal.name}")


def _study_id(backend: BaseStorage, study: str, directions: int) -> int:
    try:
        return backend.get_study_id_from_name(study)
    except KeyError:
        if not directions:
            raise
    try:
        return backend.create_new_study([StudyDirection.MINIMIZE] * directions, study)
    except optuna.exceptions.DuplicatedStudyError:  # another process was quicker
        return backend.get_study_id_from_name(study)
