"""Tables of names: help on a miss, no silent change of meaning, nothing loaded before it is used."""

from __future__ import annotations

import pytest

from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.registry import MERGES, SCORERS, Entry, Registry


def a_scorer() -> str:
    return "called"


@pytest.fixture
def table() -> Registry:
    return Registry("scorer", {"one": Entry("math:sqrt", "a root"), "two": Entry(a_scorer, "here")})


def test_rows_are_found_and_loaded(table: Registry) -> None:
    assert list(table) == ["one", "two"]
    assert "one" in table
    assert "three" not in table
    assert table.load("one")(9) == 3
    assert table.load("two")() == "called"
    assert table.entry("one").help == "a root"


def test_a_miss_names_the_nearest(table: Registry) -> None:
    with pytest.raises(PruneSearchError, match=r"unknown scorer 'onee': did you mean 'one'\? Known: one, two"):
        table.entry("onee")
    with pytest.raises(PruneSearchError, match=r"unknown scorer 'xyz': Known: one, two"):
        table.load("xyz")


@pytest.mark.parametrize("name", [None, 3, ["one"], {}])
def test_a_name_that_is_no_name(table: Registry, name: object) -> None:
    with pytest.raises(PruneSearchError, match="scorer"):
        table.entry(name)  # type: ignore[arg-type]


def test_a_name_that_is_taken_is_refused(table: Registry) -> None:
    with pytest.raises(PruneSearchError, match="'one' is already registered"):
        table.register("one", Entry(a_scorer, "other"))
    table.register("three", Entry(a_scorer, "new"))
    assert table.load("three") is a_scorer


def test_did_you_mean() -> None:
    assert did_you_mean("fusee", ["drop", "fuse"]) == "did you mean 'fuse'? Known: drop, fuse"
    assert did_you_mean("qqq", ["drop", "fuse"]) == "Known: drop, fuse"


@pytest.mark.parametrize("registry", [SCORERS, MERGES], ids=["scorers", "merges"])
def test_every_row_loads(registry: Registry) -> None:
    for name in registry:
        assert callable(registry.load(name))
        assert registry.entry(name).help
