"""What `prunesearch models` lists."""

from __future__ import annotations

import io
import json

import typer
from rich.console import Console
from typer.testing import CliRunner

from prunesearch.cli.all_names import register
from prunesearch.pruning.families.find import FAMILIES
from prunesearch.report.tables.family_list import list_families, list_refused, show_families
from tests.support.some import some


def application() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return app


def test_every_family_is_listed_with_all_a_person_wants_to_know() -> None:
    rows = list_families()
    assert [row.family for row in rows] == sorted(FAMILIES)
    for row in some(rows):
        assert row.tasks, f"{row.family} says no task"
        assert row.protects
        assert row.blocks


def test_the_table_fits_80_columns_and_says_why_not() -> None:
    stream = io.StringIO()
    show_families(list_families(), list_refused(), Console(file=stream, width=80))
    text = stream.getvalue()
    assert max(len(line) for line in text.splitlines()) <= 80
    for family in FAMILIES:
        assert family in text or len(family) > 18  # a long name is folded
    assert "windows of a grid" in " ".join(text.split())


def test_the_command_prints_a_table_or_json() -> None:
    shown = CliRunner().invoke(application(), ["models"])
    assert shown.exit_code == 0, shown.output
    assert "modernbert" in shown.output
    plain = json.loads(CliRunner().invoke(application(), ["models", "--json"]).output)
    assert {row["family"] for row in plain["families"]} == set(FAMILIES)
    assert "swin" in plain["refused"]
