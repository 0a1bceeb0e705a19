"""Commands that take schedules out of a study and in from other tools. Each parses, calls one function, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunesearch.cli_devices import StudyArgument
from prunesearch.export import FORMATS

_NAMES = ", ".join(FORMATS)
OutputOption = Annotated[Path | None, typer.Option("-o", "--output", help="File to write; none: print.")]


def export(
    study: StudyArgument,
    pick: Annotated[str, typer.Option(help="best@10ms, best@2x, fastest@0.99, knee, a point (p3) or a trial number.")],
    to: Annotated[str, typer.Option(help=f"Format: {_NAMES}.")] = "json",
    output: OutputOption = None,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Accept the nearest schedule that the format can say.")
    ] = False,
) -> None:
    """Write one schedule of a study for use elsewhere."""
    from prunesearch.export import export as write
    from prunesearch.results.store import load_front

    exported = write(load_front(study)[1], pick, to, lossy=lossy)
    for change in exported.changes:
        typer.echo(f"prunesearch: changed for {to}: {change}", err=True)
    for loss in exported.losses:
        typer.echo(f"prunesearch: note for {to}: {loss}", err=True)
    _put(exported.text, output)


def import_(
    file: Annotated[Path, typer.Argument(help="File of another tool.", metavar="FILE")],
    source: Annotated[str, typer.Option("--from", help=f"Its format: {_NAMES}.")],
    model: Annotated[str | None, typer.Option(help="Shape (deit-small …), folder or Hub id that it is for.")] = None,
    depth: Annotated[int | None, typer.Option(help="In place of a model: its blocks.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Its tokens at the start; of a text: its length.")] = None,
    protected: Annotated[int | None, typer.Option(help="Its tokens that are never reduced (CLS …).")] = None,
    entry: Annotated[str | None, typer.Option(help="One of several in the file, as in ViT-S-DeiT/2.9.")] = None,
    output: OutputOption = None,
) -> None:
    """Read a schedule of another tool."""
    from prunesearch.export import find_format, import_file
    from prunesearch.export.native import imported_json
    from prunesearch.export.shape import model_shape

    origin = find_format(source)
    shape = model_shape(model, depth=depth, tokens=tokens, protected=protected)
    read = import_file(file, origin, shape, entry)
    for note in read.notes:
        typer.echo(f"prunesearch: imported from {source}: {note}", err=True)
    _put(imported_json(read, origin, shape, file.name), output)


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(export)
    app.command("import")(import_)


def _put(text: str, output: Path | None) -> None:
    if output is None:
        typer.echo(text, nl=False)
        return
    from prunesearch.core.files import write_text_atomic

    write_text_atomic(output, text)
    typer.echo(f"written: {output}", err=True)
