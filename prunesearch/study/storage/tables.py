"""Trials in the tables of Optuna's RDB storage, written and read in few statements.

Optuna commits every parameter and attribute of a trial on its own, and its public API builds a trial from some thirty
queries: 22 ms a trial with 12 parameters. Here a trial begins in one transaction and ends in one. The tables are those
of `study.storage.schema.REVISION`; a storage of another revision is used through Optuna alone.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection, Container, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

_CHUNK = 500  # identifiers in one query
_INFINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf}


class TrialTables:
    """The trials of one study.

    Args:
        engine: connected to a database whose schema is known (`is_known_schema`).
        study_id: Optuna's identifier of the study.
    """

    def __init__(self, engine: sa.Engine, study_id: int) -> None:
        self.engine, self.study_id = engine, study_id
        names = ("studies", "trials", "trial_params", "trial_values", "trial_heartbeats")
        attrs = ("trial_user_attributes", "trial_system_attributes")
        data = sa.MetaData()
        data.reflect(engine, only=[*names, *attrs])
        self._studies, self._trials, self._params, self._values, self._beats = (data.tables[n] for n in names)
        self._user, self._system = (data.tables[n] for n in attrs)
        self._shared: dict[tuple[tuple[str, str], ...], dict[str, BaseDistribution]] = {}

    def insert(self, trial: FrozenTrial) -> tuple[int, int]:
        """Begin `trial` with its parameters and attributes; return `(trial_id, number)`.

        Whoever reads a number sees all trials of lower numbers: they are given out under a lock on the study.
        """
        trials = self._trials
        started = None if trial.datetime_start is None else _to_utc(trial.datetime_start)
        with self.engine.begin() as connection:
            mine = sa.select(self._studies.c.study_id).where(self._studies.c.study_id == self.study_id)
            connection.execute(mine.with_for_update())
            row = {"study_id": self.study_id, "state": trial.state.name, "datetime_start": started}
            created = connection.execute(trials.insert().values(row)).inserted_primary_key
            trial_id = int(created[0])  # type: ignore[index]  # None for statements that insert nothing
            before = sa.select(sa.func.count()).where(trials.c.study_id == self.study_id, trials.c.trial_id < trial_id)
            number = int(connection.execute(before).scalar_one())
            connection.execute(trials.update().where(trials.c.trial_id == trial_id).values(number=number))
            params = [
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": distribution.to_internal_repr(trial.params[name]),
                    "distribution_json": distribution_to_json(distribution),
                }
                for name, distribution in trial.distributions.items()
            ]
            if params:
                connection.execute(self._params.insert(), params)
            self._insert_attrs(connection, trial_id, trial.user_attrs, trial.system_attrs)
            beat = {"trial_id": trial_id, "heartbeat": sa.func.current_timestamp()}
            connection.execute(self._beats.insert().values(beat))
        return trial_id, number

    def finish(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None,
        user_attrs: Mapping[str, Any],
        system_attrs: Mapping[str, Any],
    ) -> None:
        """End a running trial, with attributes that it has not had before.

        Raises:
            UpdateFinishedTrialError: if somebody has ended it.
        """
        trials = self._trials
        with self.engine.begin() as connection:
            running = trials.c.state == TrialState.RUNNING.name
            end = {"state": state.name, "datetime_complete": _to_utc(datetime.now())}
            done = connection.execute(trials.update().where(trials.c.trial_id == trial_id, running).values(end))
            if done.rowcount != 1:
                raise UpdateFinishedTrialError(f"trial {trial_id} was ended by another process")
            if values is not None:
                connection.execute(
                    self._values.insert(),
                    [
                        {"trial_id": trial_id, "objective": i, "value": v if math.isfinite(v) else None, **_kind(v)}
                        for i, v in enumerate(values)
                    ],
                )
            self._insert_attrs(connection, trial_id, user_attrs, system_attrs)

    def set_attrs(self, trial_id: int, user_attrs: Mapping[str, Any], system_attrs: Mapping[str, Any]) -> None:
        """Give a trial attributes that it has not had before."""
        with self.engine.begin() as connection:
            self._insert_attrs(connection, trial_id, user_attrs, system_attrs)

    def _insert_attrs(
        self, connection: sa.Connection, trial_id: int, user: Mapping[str, Any], system: Mapping[str, Any]
    ) -> None:
        for table, attrs in ((self._user, user), (self._system, system)):
            rows = [{"trial_id": trial_id, "key": k, "value_json": json.dumps(v)} for k, v in attrs.items()]
            if rows:
                connection.execute(table.insert(), rows)

    def read(self, after: int, also: Collection[int], known: Container[int]) -> tuple[int, list[FrozenTrial]]:
        """Read trials with identifiers above `after` that are not `known`, and those in `also`.

        Returns:
            The highest identifier there is, and the trials.
        """
        trials = self._trials
        of_study = sa.select(
            trials.c.trial_id, trials.c.number, trials.c.state, trials.c.datetime_start, trials.c.datetime_complete
        ).where(trials.c.study_id == self.study_id)
        with self.engine.connect() as connection:
            rows: list[sa.Row[Any]] = list(connection.execute(of_study.where(trials.c.trial_id > after)))
            last = max((row.trial_id for row in rows), default=after)
            for ids in _chunks([i for i in also if i <= after]):
                rows += connection.execute(of_study.where(trials.c.trial_id.in_(ids)))
            wanted = [row for row in rows if row.trial_id in also or row.trial_id not in known]
            return last, self._build(connection, wanted) if wanted else []

    def _build(self, connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> list[FrozenTrial]:
        ids = [row.trial_id for row in rows]
        p, v, u, s = self._params.c, self._values.c, self._user.c, self._system.c
        params = _by_trial(
            connection,
            sa.select(p.trial_id, p.param_name, p.param_value, p.distribution_json).order_by(p.param_id),
            ids,
        )
        values = _by_trial(connection, sa.select(v.trial_id, v.objective, v.value, v.value_type), ids)
        user = _by_trial(connection, sa.select(u.trial_id, u.key, u.value_json), ids)
        system = _by_trial(connection, sa.select(s.trial_id, s.key, s.value_json), ids)
        found = []
        for row in rows:
            i = row.trial_id
            distributions = self._distributions([(name, text) for name, _, text in params[i]])
            told = sorted(values[i])
            found.append(
                FrozenTrial(
                    number=row.number,
                    state=TrialState[row.state],
                    value=None,
                    values=[_INFINITE.get(kind, value) for _, value, kind in told] or None,
                    datetime_start=_to_local(row.datetime_start),
                    datetime_complete=_to_local(row.datetime_complete),
                    params={name: distributions[name].to_external_repr(value) for name, value, _ in params[i]},
                    distributions=distributions,
                    user_attrs={key: json.loads(text) for key, text in user[i]},
                    system_attrs={key: json.loads(text) for key, text in system[i]},
                    intermediate_values={},
                    trial_id=i,
                )
            )
        return found

    def _distributions(self, written: list[tuple[str, str]]) -> dict[str, BaseDistribution]:
        """One dictionary for all trials with the same parameters: it is the most of what a trial takes."""
        key = tuple(written)
        if key not in self._shared:
            self._shared[key] = {name: _from_json(text) for name, text in written}
        return self._shared[key]

    def beat(self, trial_ids: Collection[int]) -> None:
        """Say that trials are still under way."""
        beats = self._beats
        with self.engine.begin() as connection:
            now = beats.update().where(beats.c.trial_id.in_(trial_ids)).values(heartbeat=sa.func.current_timestamp())
            connection.execute(now)

    def silent(self, grace_s: float) -> set[int]:
        """Identifiers of running trials that were not heard of for `grace_s` seconds, or never.

        The clock is the database's.
        """
        trials, beats = self._trials, self._beats
        query = (
            sa.select(trials.c.trial_id, beats.c.heartbeat, sa.func.now().label("now"))
            .join_from(trials, beats, trials.c.trial_id == beats.c.trial_id, isouter=True)
            .where(trials.c.study_id == self.study_id, trials.c.state == TrialState.RUNNING.name)
        )
        with self.engine.connect() as connection:
            rows = list(connection.execute(query))
        return {
            row.trial_id
            for row in rows
            if row.heartbeat is None or (row.now.replace(tzinfo=None) - row.heartbeat).total_seconds() > grace_s
        }


def _kind(value: float) -> dict[str, str]:
    return {"value_type": "FINITE" if math.isfinite(value) else "INF_POS" if value > 0 else "INF_NEG"}


def _chunks(ids: Sequence[int]) -> list[Sequence[int]]:
    return [ids[i : i + _CHUNK] for i in range(0, len(ids), _CHUNK)]


def _by_trial(connection: sa.Connection, query: sa.Select[Any], ids: Sequence[int]) -> dict[int, list[tuple[Any, ...]]]:
    """The columns of `query` after the first, by the first: the trial."""
    found: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    trial_id = query.selected_columns[0]
    for chunk in _chunks(ids):
        for first, *rest in connection.execute(query.where(trial_id.in_(chunk))):
            found[first].append(tuple(rest))
    return found


@lru_cache(maxsize=4096)
def _from_json(text: str) -> BaseDistribution:
    return json_to_distribution(text)


# Optuna 5 keeps times without a zone: UTC in the database, local in a trial.
def _to_utc(local: datetime) -> datetime:
    return local.astimezone(UTC).replace(tzinfo=None)


def _to_local(utc: datetime | None) -> datetime | None:
    return None if utc is None else utc.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
