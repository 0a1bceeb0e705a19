"""The form of a table of names: help on a miss, no silent change of meaning, nothing loaded before it is used."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint

import pytest

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.tables import plugins
from prunesearch.core.tables.names import Registry, Row


@dataclass(frozen=True)
class WideRow(Row):
    wide: bool = False


def a_scorer() -> str:
    """Say that it was called.

    At length.
    """
    return "called"


WIDE = WideRow(a_scorer, "of a package", wide=True)
ONE = {"one": WideRow("math:sqrt", "a root"), "two": WideRow(a_scorer, "here")}


@pytest.fixture
def table() -> Registry[WideRow]:
    return Registry("scorer", ONE, WideRow)


def test_rows_are_found_and_loaded(table: Registry[WideRow]) -> None:
    assert list(table) == ["one", "two"]
    assert len(table) == 2
    assert "one" in table
    assert "three" not in table
    assert table.load("one")(9) == 3
    assert table.load("two")() == "called"
    assert table.entry("one").help == "a root"


def test_a_miss_names_the_nearest(table: Registry[WideRow]) -> None:
    with pytest.raises(PruneSearchError, match=r"unknown scorer 'onee': did you mean 'one'\? Known: one, two"):
        table.entry("onee")
    with pytest.raises(PruneSearchError, match=r"unknown scorer 'xyz': Known: one, two"):
        table.load("xyz")


@pytest.mark.parametrize("name", [None, 3, ["one"], {}])
def test_a_name_that_is_no_name(table: Registry[WideRow], name: object) -> None:
    with pytest.raises(PruneSearchError, match="scorer"):
        table.entry(name)  # type: ignore[arg-type]


def test_another_thing_stands_in_for_a_while(table: Registry[WideRow]) -> None:
    before = table.entry("one")
    with table.replaced("one", a_scorer):
        assert table.entry("one") == replace(before, target=a_scorer)
        assert table.load("one") is a_scorer
    assert table.entry("one") is before
    with table.replaced("one", wide=True):
        assert table.entry("one") == replace(before, wide=True)
    with pytest.raises(KeyError), table.replaced("one", a_scorer):  # whatever happens in it
        raise KeyError
    assert table.entry("one") is before


def test_a_name_that_is_taken_is_refused(table: Registry[WideRow]) -> None:
    with pytest.raises(PruneSearchError, match="'one' is already registered"):
        table.register("one", a_scorer, "other")
    table.register("three", a_scorer, "new", wide=True)
    assert table.load("three") is a_scorer
    assert table.entry("three").wide
    table.register("four", a_scorer)
    assert table.entry("four") == WideRow(a_scorer, "Say that it was called.")
    with pytest.raises(TypeError, match="tall"):
        table.register("five", a_scorer, tall=True)


def test_a_row_for_a_while(table: Registry[WideRow]) -> None:
    with table.registered("three", a_scorer):
        assert "three" in table
    assert "three" not in table
    assert list(ONE) == ["one", "two"]  # what a table is made of stays as it was


def test_did_you_mean() -> None:
    assert did_you_mean("fusee", ["drop", "fuse"]) == "did you mean 'fuse'? Known: drop, fuse"
    assert did_you_mean("qqq", ["drop", "fuse"]) == "Known: drop, fuse"


def points(**values: str) -> list[EntryPoint]:
    return [EntryPoint(name, value, "prunesearch.scorers") for name, value in values.items()]


def outside(**values: str) -> Registry[WideRow]:
    return Registry("scorer", ONE, WideRow, partial(plugins.find, "scorers", lambda: points(**values)))


def test_packages_bring_rows_and_things() -> None:
    table = outside(mine=f"{__name__}:a_scorer", row=f"{__name__}:WIDE")
    assert list(table) == ["one", "two", "mine", "row"]
    assert table.load("mine") is a_scorer
    assert table.entry("mine") == WideRow(a_scorer, "Say that it was called.")
    assert table.entry("row") is WIDE
    with pytest.raises(PruneSearchError, match="did you mean 'mine'"):
        table.entry("mini")
    with pytest.raises(PruneSearchError, match="'mine' is already registered"):
        table.register("mine", a_scorer)


def test_a_plugin_takes_no_name_that_is_there() -> None:
    table = outside(one=f"{__name__}:WIDE")
    assert list(table) == ["one", "two"]
    assert table.entry("one").help == "a root"


def test_a_broken_plugin_is_one_line_and_stops_nobody_else() -> None:
    table = outside(gone="no_such_module_at_all:x", row=f"{__name__}:WIDE")
    assert "gone" in table
    with pytest.raises(PruneSearchError, match=r"plug-in 'gone' \(prunesearch.scorers\) cannot be loaded") as caught:
        table.entry("gone")
    assert "\n" not in str(caught.value)
    assert table.entry("row") is WIDE
    assert table.load("one")(4) == 2


def test_all_rows_at_once_are_those_that_can_be_loaded() -> None:
    table = outside(gone="no_such_module_at_all:x", row=f"{__name__}:WIDE")
    assert list(table.entries()) == ["one", "two", "row"]
    assert table.entries()["row"] is WIDE


def no_wide_ones(name: str, row: WideRow, others: Mapping[str, WideRow]) -> None:
    """Refuse wide rows where there are two at least."""
    if row.wide and len(others) > 1:
        raise PruneSearchError(f"'{name}' is wide")


def test_a_table_may_refuse_a_row() -> None:
    table = Registry("scorer", ONE, WideRow, lambda: {"row": lambda: WIDE, "mine": lambda: a_scorer}, no_wide_ones)
    with pytest.raises(PruneSearchError, match="'row' is wide"):
        table.entry("row")
    with pytest.raises(PruneSearchError, match="'wide' is wide"):
        table.register("wide", a_scorer, wide=True)
    assert list(table.entries()) == ["one", "two", "mine"]


@dataclass(frozen=True)
class NeedyRow(Row):
    needed: int


def test_a_plugin_that_lacks_facts_is_one_line() -> None:
    table = Registry("scorer", {}, NeedyRow, lambda: {"mine": lambda: a_scorer})
    with pytest.raises(PruneSearchError, match=r"plug-in 'mine' must name a row .*needed"):
        table.entry("mine")


def test_listing_imports_no_plugin() -> None:
    table = outside(far="this.module:x", mine="antigravity:x")
    assert list(table) == ["one", "two", "far", "mine"]
    assert "antigravity" not in sys.modules


def test_nobody_asks_for_plugins_before_a_miss() -> None:
    asked = []
    table = Registry("scorer", ONE, WideRow, lambda: asked.append(1) or {})  # type: ignore[func-returns-value]
    assert "one" in table
    assert table.entry("two").help == "here"
    assert not asked
    assert "three" not in table
    assert asked == [1]


def test_only_the_groups_of_prunesearch_are_found() -> None:
    both = [*points(a="m:x"), EntryPoint("b", "m:x", "prunesearch.merges"), EntryPoint("c", "m:x", "scorers")]
    assert list(plugins.find("scorers", lambda: both)) == ["a"]
    assert all(point.group.startswith("prunesearch.") for point in plugins._installed())
