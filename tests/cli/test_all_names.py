"""The command that lists names, and the help of options, read the tables."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from prunesearch.cli.all_names import describe
from prunesearch.cli.app import app
from prunesearch.cli.option_help import explained, listed, modes, runtimes
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.names import Registry, Row
from prunesearch.core.tables.registry import ENGINES, SAMPLERS, TABLES, find_table
from prunesearch.core.tables.token_tables import SCORERS


def run(*args: str) -> str:
    done = CliRunner().invoke(app, args, env={"COLUMNS": "80"}, catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_all_tables_are_printed_in_80_columns() -> None:
    out = run("names")
    assert max(map(len, out.splitlines())) <= 80
    for table in TABLES:
        for name in find_table(table):
            assert f"\n  {name} " in out


def test_one_table_and_json() -> None:
    assert run("names", "engines").split("\n") == [
        "engines", "  local  in this process, one after another", "  ray    Ray Tune, on this machine or a cluster", "",
    ]  # fmt: skip
    found = json.loads(run("names", "--json"))
    assert found["scorers"] == {name: SCORERS.entry(name).help for name in SCORERS}
    assert set(found) == set(TABLES)


def test_a_plugin_is_listed_and_a_broken_one_is_a_line() -> None:
    table = Registry("scorer", {}, Row, lambda: {"good": lambda: Row(len, "a plug-in"), "bad": fail_in_words})
    assert describe(table) == ({"good": "a plug-in"}, ["plug-in 'bad' cannot be loaded"])


def fail_in_words() -> None:
    raise PruneSearchError("plug-in 'bad' cannot be loaded")


@pytest.mark.parametrize("command", ["run", "profile"])
def test_help_names_what_the_tables_have(command: str) -> None:
    help_ = " ".join(run(command, "--help").split())
    assert modes() in help_
    assert runtimes() == "torch, onnxruntime, openvino"


def test_a_row_of_outside_is_in_the_help() -> None:
    with SAMPLERS.registered("mine", len, "what I made"):
        assert listed(SAMPLERS, "tpe").startswith("tpe (default), guided, ")
        assert "; mine: what I made" in explained(SAMPLERS)
    assert explained(ENGINES, "ray") == (
        "ray (default): Ray Tune, on this machine or a cluster; local: in this process, one after another"
    )
