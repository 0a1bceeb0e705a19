"""Where trials are: Optuna's storages of a study's file and of databases."""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from sqlalchemy.engine import make_url

from prunesearch.study.storage.journal import StudyFile

_LOCKED_S = 60.0  # how long to wait while another process writes an SQLite file
_DATABASE = ".db"  # how the files end in which studies were kept before there were journals


def backend_of(where: Path | str, *, write: bool = False) -> BaseStorage:
    """Optuna's storage of a study's file (a journal; or SQLite, as before there were journals), or of a URL.

    Args:
        where: path of the file, or URL of a database.
        write: make what is not there, and let it be written; without it nothing on disk changes.

    Raises:
        FileNotFoundError: if the file is not there and is not to be made.
        ValueError: if a journal is something else.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if isinstance(where, Path) and where.suffix != _DATABASE:
        if not write:
            where.stat()
        return journal_of(StudyFile(where))
    url = f"sqlite:///{where}" if isinstance(where, Path) else where
    return RDBStorage(url, engine_kwargs=_engine(url, write), skip_table_creation=not write)


def journal_of(file: StudyFile) -> JournalStorage:
    """Optuna's storage of a file, which it reads."""
    with uncollected():
        return JournalStorage(file)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's search for garbage: two thirds of the time it takes to read 10,000 trials, all of which stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def sqlite_file(url: str) -> Path | None:
    """The file behind a URL, if it is one of SQLite."""
    parsed = make_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def _engine(url: str, write: bool) -> dict[str, Any]:
    """How SQLAlchemy is to connect."""
    file = sqlite_file(url)
    if file is None:
        return {"pool_pre_ping": True}
    uri = f"{file.resolve().as_uri()}?mode={'rwc' if write else 'ro'}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(uri, uri=True, timeout=_LOCKED_S, check_same_thread=False)
        if write:
            # readers read while somebody writes, and a commit does not wait for the disk: what a process has committed
            # outlives it in any case; a power cut may take the last trials, never the study
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    return {"creator": connect}
