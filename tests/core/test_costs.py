"""The table of costs: what packages bring is a row with its facts, and takes no name or unit that means something."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from prunesearch.core.costs import COSTS, Cost, check_cost, cost_of_unit
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.names import Registry

WATER = Cost(
    target=object, help="what cools it", name="water", unit="ml", per="input", noun="water", a_noun="water",
    typed={"ml": 1.0}, examples="3ml",
)  # fmt: skip


def brought(**rows: Cost) -> Registry[Cost]:
    """The table as a package with these entry points would have it."""
    points = {name: partial(lambda row: row, row) for name, row in rows.items()}
    return Registry("cost", COSTS.entries(), Cost, lambda: points, check_cost)


def test_a_package_brings_a_cost() -> None:
    table = brought(water=WATER)
    assert list(table.entries()) == [*COSTS, "water"]
    assert table.entry("water") is WATER
    with pytest.raises(PruneSearchError, match="unknown cost 'watr': did you mean 'water'"):
        table.entry("watr")


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("wet", WATER, "cost 'water' is registered as 'wet'"),
        ("water", replace(WATER, typed={"ms": 1.0}), "the unit 'ms', which is that of latency"),
        ("water", replace(WATER, typed={"ML": 1.0}), "not in lower case"),
        ("water", replace(WATER, typed={"%": 1.0}), "a share"),
    ],
)
def test_what_would_change_a_meaning_is_left_out_and_refused(name: str, row: Cost, words: str) -> None:
    table = brought(**{name: row})
    assert list(table.entries()) == list(COSTS)
    with pytest.raises(PruneSearchError, match=words):
        table.entry(name)


def test_two_packages_with_one_unit() -> None:
    table = brought(water=WATER, juice=replace(WATER, name="juice"))
    assert list(table.entries()) == [*COSTS, "water"]
    with pytest.raises(PruneSearchError, match="that of water"):
        table.entry("juice")


def test_units_are_found_whatever_their_capitals() -> None:
    found = cost_of_unit("GMACs")
    assert found is not None
    assert (found[0].name, found[1]) == ("macs", 1.0)
    assert cost_of_unit("bottles") is None
