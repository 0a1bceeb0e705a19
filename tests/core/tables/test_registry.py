"""The tables themselves: every one is listed, every row of it can be loaded, and says what it is."""

from __future__ import annotations

import importlib

import pytest

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables import registry
from prunesearch.core.tables.names import Registry
from prunesearch.core.tables.registry import TABLES, find_table

ROWS = [(table, name) for table in TABLES for name in find_table(table)]


def test_every_table_of_the_registry_is_listed() -> None:
    here = [value for value in vars(registry).values() if isinstance(value, Registry)]
    listed = [find_table(name) for name in TABLES]
    assert len(here) > 3
    assert all(any(table is one for one in listed) for table in here)


@pytest.mark.parametrize(("table", "name"), ROWS, ids=["-".join(row) for row in ROWS])
def test_every_row_loads_and_has_a_line_of_help(table: str, name: str) -> None:
    found = find_table(table)
    row = found.entry(name)
    assert row.help
    assert "\n" not in row.help
    assert len(row.help) < 90
    if isinstance(row.target, str) and ":" in row.target:
        module = row.target.partition(":")[0]
        assert importlib.util.find_spec(module) is not None
    assert found.load(name) is not None


def test_a_table_that_is_none() -> None:
    with pytest.raises(PruneSearchError, match="unknown table 'scorer': did you mean 'scorers'"):
        find_table("scorer")
