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


def print_elastic(found: Any, as_json: bool) -> None:
    """What the points of a study are on weights that all share, or the same as data."""
    if as_json:
        import json

        typer.echo(json.dumps({"folder": str(found.folder), "judged": found.judged, "equal": found.equal}, indent=2))
        return
    from rich.console import Console

    from prunesearch.report.tables.tuned_table import elastic_table

    Console().print(elastic_table(found.judged))
    typer.echo(f"search on them: prunesearch run --weights {found.folder} ...")


def print_scorers(found: Any, as_json: bool) -> None:
    """How learned scorers and rules do at single stages, or the same as data."""
    if as_json:
        import json

        facts = {"folder": str(found.folder), "judged": found.judged, "best_rule": found.best_rule}
        typer.echo(json.dumps(facts, indent=2))
        return
    from rich.console import Console

    from prunesearch.report.tables.tuned_table import scorers_table

    Console().print(scorers_table(found.judged))
    typer.echo(f"search with them: prunesearch run --weights {found.folder} ...")
