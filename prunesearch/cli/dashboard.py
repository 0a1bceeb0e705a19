"""The command that shows studies in a browser. It parses, calls one function, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def dashboard(
    studies: Annotated[
        list[str] | None,
        typer.Argument(
            help="Studies, folders of studies, Optuna URLs; none: all under studies/.", metavar="[STUDIES…]"
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8765,
    host: Annotated[str, typer.Option(help="Address to listen on; the default is this machine alone.")] = "127.0.0.1",
    optuna_copy: Annotated[
        Path | None,
        typer.Option(help="Only copy one study, so that optuna-dashboard shows its constraints.", metavar="FILE"),
    ] = None,
) -> None:
    """Show studies in a browser, live while they run."""
    if optuna_copy is not None:
        from prunesearch.commands.optuna_copy import optuna_copy as copy

        count = copy(studies or [], optuna_copy)
        typer.echo(
            f"written: {optuna_copy} ({count} trials have constraints); optuna-dashboard {optuna_copy}", err=True
        )
        return
    from prunesearch.report.dashboard.app import serve
    from prunesearch.report.dashboard.library import Library
    from prunesearch.report.dashboard.security import is_loopback

    library = Library(studies or [])
    shown = f"[{host}]" if ":" in host else host
    typer.echo(f"dashboard: http://{shown}:{port} ({len(library.sources())} studies; Ctrl-C ends it)", err=True)
    if not is_loopback(host):
        typer.echo("prunesearch: whoever reaches this address can read the studies: there is no password", err=True)
    try:
        serve(library, host, port)
    except KeyboardInterrupt:
        typer.echo("", err=True)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(dashboard)
