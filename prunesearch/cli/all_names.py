"""The commands that list what there is: tables of names, model families. Each parses, calls one function, prints."""

from __future__ import annotations

import textwrap
from typing import Annotated, Any

import typer

from prunesearch.cli.devices import JsonOption
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.names import Registry
from prunesearch.core.tables.registry import TABLES, find_table

_WIDTH = 80


def names(
    table: Annotated[
        str | None, typer.Argument(help=f"{', '.join(TABLES)}; none: all of them.", metavar="[KIND]")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List what can be asked for by name, and what plug-ins add."""
    found: dict[str, dict[str, str]] = {}
    for kind in TABLES if table is None else [table]:
        rows, broken = describe(find_table(kind))
        if rows and not json:  # at once: rows of the last table, the families, hold code of torch, which takes seconds
            typer.echo(("\n" if found else "") + as_text(kind, rows))
        found[kind] = rows
        for line in broken:
            typer.echo(f"prunesearch: {line}", err=True)
    if json:
        import json as form

        typer.echo(form.dumps(found, indent=2))


def describe(table: Registry[Any]) -> tuple[dict[str, str], list[str]]:
    """Each name with its line of help, and one line for each plug-in that cannot be loaded."""
    rows, broken = {}, []
    for name in table:
        try:
            rows[name] = table.entry(name).help
        except PruneSearchError as error:
            broken.append(str(error))
    return rows, broken


def as_text(kind: str, rows: dict[str, str]) -> str:
    """A table in 80 columns."""
    wide = max(map(len, rows)) + 2
    lines = [
        textwrap.fill(help_, _WIDTH, initial_indent=f"  {name:<{wide}}", subsequent_indent=" " * (wide + 2))
        for name, help_ in rows.items()
    ]
    return "\n".join([kind, *lines])


def models(json: JsonOption = False) -> None:
    """List the model families that can be reduced.

    With what is never reduced in them, and what does not work.
    """
    from prunesearch.report.tables.family_list import list_families, list_refused, show_families

    rows, refused = list_families(), list_refused()
    if json:
        import json as form

        typer.echo(form.dumps({"families": [row.to_dict() for row in rows], "refused": refused}, indent=2))
        return
    show_families(rows, refused)


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(models)
    app.command()(names)
