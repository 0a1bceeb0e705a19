"""The one guard of Optuna's tables: what this project reads and writes of them directly was written for `REVISION`."""

from __future__ import annotations

import sqlalchemy as sa

REVISION = "v3.2.0.a"  # of Optuna 3.2 to 5.0

_VERSION = sa.table("alembic_version", sa.column("version_num"))


def is_known_schema(connection: sa.Connection) -> bool:
    """Whether a database has the tables of `REVISION`; one of another is used through Optuna's public API alone.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: if the database is none of Optuna's.
    """
    return connection.execute(sa.select(_VERSION.c.version_num)).scalar() == REVISION
