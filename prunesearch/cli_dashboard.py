"""The command that shows studies in a browser. It parses, calls one function, prints."""

from __future__ import annotations

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
) -> None:
    """Show studies in a browser, live while they run."""
    from prunesearch.results.dashboard.app import serve
    from prunesearch.results.dashboard.security import is_loopback
    from prunesearch.results.dashboard.sources import Library

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
