"""The command that lists model families. It parses, calls one function, prints."""

from __future__ import annotations

import typer

from prunesearch.cli.devices import JsonOption


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
    """Add this command to the application."""
    app.command()(models)
