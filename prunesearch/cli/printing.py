"""What several commands print."""

from __future__ import annotations

from typing import Any

import typer


def print_front(front: Any, as_json: bool) -> None:
    """The table of a front, or its file."""
    if as_json:
        import json

        typer.echo(json.dumps(front.to_dict(), indent=2))
        return
    from prunesearch.report.tables.show import show_front

    show_front(front)
