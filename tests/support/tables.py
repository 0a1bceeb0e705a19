"""Rows of tables of names that are others, or gone, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prunesearch.core.tables.names import Registry


@contextmanager
def in_place(table: Registry[Any], name: str, row: Any = None) -> Iterator[None]:
    """Within the block another row stands under the name; None: no row does. After it all is as it was."""
    before = dict(table._rows)
    table._rows.pop(name, None)
    if row is not None:
        table._rows[name] = row
    try:
        yield
    finally:
        table._rows = before
