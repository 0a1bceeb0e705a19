"""Trials of a study as its Optuna storage has them, read only, and after the first time only what is new.

Optuna's public API takes about a millisecond a trial for the first read (it decodes every parameter's distribution),
ten seconds for 10,000 trials. So the tables of the schema that this was written for are read directly, what is needed
of them; a storage of any other schema goes through the public API.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.core.schedule import Schedule
from prunesearch.study.storage.schema import is_known_schema

FINISHED = ("COMPLETE", "FAIL", "PRUNED")
_CHUNK = 500  # identifiers in one query


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
    def schedule(self) -> Schedule:
        """The schedule that was tried; a trial that has one knows it as the attribute `schedule`."""
        return Schedule.from_dict(self.attrs["schedule"])

    def number_of(self, name: str) -> float | None:
        """A user attribute if it is a number, else None."""
        value = self.attrs.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class TrialReader:
    """Reads one study of one storage, incrementally. Safe to use from several threads.

    Args:
        url: SQLAlchemy URL, as Optuna takes it; an SQLite file is opened read-only and is not made.
        study: name of the study; None for the only one there.
    """

    def __init__(self, url: str, study: str | None = None) -> None:
        self.url, self.study = url, study
        self.trials: list[Trial] = []  # by number
        self._by_id: dict[int, Trial] = {}
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = None

    @cached_property
    def _file(self) -> Path | None:
        """The file of an SQLite storage."""
        return sqlite_file(self.url)

    @cached_property
    def _engine(self) -> sa.Engine:
        return read_only_engine(self.url)

    def refresh(self) -> bool:
        """Read what is new; True if anything changed.

        Raises:
            CorruptFileError: in one line, if the storage cannot be read or holds no such study.
        """
        with self._lock:
            stamp = self._stamp()
            if stamp is not None and stamp == self._seen:
                return False
            try:
                found = self._read()
            except (sa.exc.SQLAlchemyError, sqlite3.Error, ValueError) as error:
                raise CorruptFileError(f"{shown_url(self.url)} is not a readable study ({_reason(error)})") from None
            changed = {i: trial for i, trial in found.items() if self._by_id.get(i) != trial}
            if changed:
                self._by_id.update(changed)
                self.trials = sorted(self._by_id.values(), key=lambda trial: trial.number)
            self._seen = stamp
            return bool(changed)

    def _stamp(self) -> tuple[int, ...] | None:
        """What changes with the file; None where only a query can tell."""
        if self._file is None:
            return None
        found: list[int] = []
        for suffix in ("", "-wal"):
            try:
                stat = Path(f"{self._file}{suffix}").stat()
            except OSError:
                continue
            found += [stat.st_mtime_ns, stat.st_size]
        return tuple(found)

    def _read(self) -> dict[int, Trial]:
        with self._engine.connect() as connection:
            if not is_known_schema(connection):
                return _through_optuna(self.url, self.study)
            study = _study_id(connection, self.study)
            # states first: a trial that is finished by now has all its attributes
            wanted = self._new_rows(connection, study)
            ids = [row.trial_id for row in wanted] if self._by_id else None
            v, a, c = _VALUES.c, _ATTRS.c, _SYSTEM.c
            finite = sa.select(v.trial_id, v.objective, v.value).where(v.value_type == "FINITE")
            values = _grouped(connection, finite, study, ids)
            shown = sa.select(a.trial_id, a.key, a.value_json).where(a.key != _ROWS)
            attrs = _grouped(connection, shown, study, ids)
            bound = sa.select(c.trial_id, c.key, c.value_json).where(c.key.startswith(_CONSTRAINT))
            bounds = _grouped(connection, bound, study, ids)
        found = {}
        for row in wanted:
            pairs = attrs.get(row.trial_id, [])
            decoded = json.loads(f"[{','.join(text for _, text in pairs)}]")
            found[row.trial_id] = Trial(
                number=row.number,
                state=row.state,
                values=tuple(value for _, value in sorted(values.get(row.trial_id, []))),
                attrs=dict(zip((key for key, _ in pairs), decoded, strict=True)),
                started=_local(row.datetime_start),
                completed=_local(row.datetime_complete),
                constraints={k.removeprefix(_CONSTRAINT): float(t) for k, t in bounds.get(row.trial_id, [])},
            )
        return found

    def _new_rows(self, connection: sa.Connection, study: int) -> list[Any]:
        """Trials that were not there the last time, and those that had not finished then."""
        query = sa.select(_TRIALS).where(_TRIALS.c.study_id == study)
        rows = list(connection.execute(query.where(_TRIALS.c.trial_id > max(self._by_id, default=-1))))
        unfinished = [i for i, trial in self._by_id.items() if trial.state not in FINISHED]
        for some in _chunks(unfinished):
            rows += connection.execute(query.where(_TRIALS.c.trial_id.in_(some)))
        return rows


def _table(name: str, *columns: str) -> sa.TableClause:
    return sa.table(name, *(sa.column(column) for column in columns))


_TRIALS = _table("trials", "trial_id", "study_id", "number", "state", "datetime_start", "datetime_complete")
_VALUES = _table("trial_values", "trial_id", "objective", "value", "value_type")
_ATTRS = _table("trial_user_attributes", "trial_id", "key", "value_json")
_SYSTEM = _table("trial_system_attributes", "trial_id", "key", "value_json")
_STUDIES = _table("studies", "study_id", "study_name")
_CONSTRAINT = "constraints:"  # how the keys of constraints begin
_ROWS = "per_row"  # user attribute that a race looks at: kilobytes a trial that nobody who reads trials here needs


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))


def _grouped(
    connection: sa.Connection, query: sa.Select[Any], study: int, ids: Sequence[int] | None
) -> dict[int, list[tuple[Any, Any]]]:
    """The last two columns of `query` by its first, a trial's identifier; of the trials `ids`, or of all."""
    table = query.get_final_froms()[0]
    narrow = query.join(_TRIALS, _TRIALS.c.trial_id == table.c.trial_id).where(_TRIALS.c.study_id == study)
    queries = [narrow] if ids is None else [narrow.where(table.c.trial_id.in_(some)) for some in _chunks(ids)]
    found = defaultdict(list)
    for one in queries:
        for trial, key, value in connection.execute(one):
            found[trial].append((key, value))
    return found


def _study_id(connection: sa.Connection, name: str | None) -> int:
    rows = connection.execute(sa.select(_STUDIES).order_by(_STUDIES.c.study_id)).all()
    for identifier, found in rows:
        if name is None or found == name:
            return int(identifier)
    raise ValueError(f"it holds no study '{name}'" if name else "it holds no study")


def _through_optuna(url: str, study: str | None) -> dict[int, Trial]:
    """All trials by Optuna's public API, for a schema that is not known here."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(url, skip_table_creation=True)
    trials = optuna.load_study(study_name=study, storage=storage).get_trials(deepcopy=False)
    return {
        trial.number: Trial(
            number=trial.number,
            state=trial.state.name,
            values=tuple(trial.values or ()),
            attrs={key: value for key, value in trial.user_attrs.items() if key != _ROWS},
            started=trial.datetime_start,
            completed=trial.datetime_complete,
            constraints=trial.constraints,
        )
        for trial in trials
    }


def study_names(url: str) -> list[str]:
    """Names of the studies in a storage.

    Raises:
        PruneSearchError: if the storage cannot be read.
    """
    try:
        with read_only_engine(url).connect() as connection:
            return [str(name) for name in connection.execute(sa.select(_STUDIES.c.study_name)).scalars()]
    except (sa.exc.SQLAlchemyError, sqlite3.Error, ImportError) as error:
        raise PruneSearchError(
            f"{shown_url(url)} is no Optuna storage that can be read ({_reason(error)}): give a URL such as "
            "sqlite:///studies/NAME/study.db or postgresql://user@host/name"
        ) from None


def sqlite_file(url: str) -> Path | None:
    """The file behind a URL, if it is one of SQLite."""
    parsed = make_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def read_only_engine(url: str) -> sa.Engine:
    """An engine for reading; SQLite's is opened so that nothing can be written or made."""
    file = sqlite_file(url)
    if file is None:
        return sa.create_engine(url)
    uri = f"file:{quote(str(file.resolve()))}?mode=ro"
    return sa.create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(uri, uri=True, check_same_thread=False), poolclass=NullPool
    )


def shown_url(url: str) -> str:
    """The URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return "the storage"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def _local(value: Any) -> datetime | None:
    """Local time without a zone, as in a trial of Optuna's; the tables have UTC, and SQLite has it as text."""
    if value is None:
        return None
    utc = datetime.fromisoformat(value) if isinstance(value, str) else value
    return utc.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
