"""A copy of a study for optuna-dashboard, which shows constraints in the form of before Optuna 5 only.

Optuna 5 keeps a constraint as the system attribute `constraints:NAME`; optuna-dashboard (0.21) reads the attribute
`constraints`, a list. A trial with both has every constraint twice in `trial.constraints`, so that a sampler that
weighs them (Optuna's GP multiplies their probabilities) would be misled: the list goes into a copy, not into the study.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa

from prunesearch.core.errors import CorruptFileError, PruneSearchError
from prunesearch.study.storage.reader import read_only_engine
from prunesearch.study.storage.schema import is_known_schema

_ADD = """
INSERT INTO trial_system_attributes (trial_id, key, value_json)
SELECT trial_id, 'constraints', json_group_array(json(value_json))
FROM (SELECT * FROM trial_system_attributes WHERE key LIKE 'constraints:%' ORDER BY key)
GROUP BY trial_id
"""


def copy_for_optuna_dashboard(database: Path, target: Path) -> int:
    """Copy a study's database, and give the trials their constraints in the form that optuna-dashboard shows.

    The study may be running: what it has committed is copied.

    Args:
        database: `study.db` of a study folder.
        target: file to write; it must not be there yet.

    Returns:
        The number of trials that have constraints.

    Raises:
        PruneSearchError: if `target` is there or cannot be written, or Optuna's tables are not those known here.
        CorruptFileError: if `database` is none of Optuna's.
    """
    if target.exists():
        raise PruneSearchError(f"{target} is there already: give the copy another name")
    uri = f"file:{quote(str(database.resolve()))}?mode=ro"
    try:
        with read_only_engine(f"sqlite:///{quote(str(database.resolve()))}").connect() as connection:
            if not is_known_schema(connection):
                raise PruneSearchError(f"{database} has tables of another Optuna: open it with that one")
        with closing(sqlite3.connect(uri, uri=True)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
            with copy:
                return copy.execute(_ADD).rowcount
    except (sqlite3.Error, sa.exc.SQLAlchemyError) as error:
        target.unlink(missing_ok=True)
        reason = " ".join(str(error).split())[:120]
        raise CorruptFileError(f"{database} cannot be copied to {target} ({reason}): check both paths") from None
