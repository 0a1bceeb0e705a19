"""Commands that take schedules out of a study and in from other tools. Each parses, calls one function, prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunesearch.cli.devices import StudyArgument
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.export_tables import FORMATS, MODEL_FORMATS

_NAMES = ", ".join(FORMATS)
_MODELS = ", ".join(MODEL_FORMATS)
OutputOption = Annotated[Path | None, typer.Option("-o", "--output", help="File to write; none: print.")]


def export(
    study: StudyArgument,
    pick: Annotated[
        str, typer.Option(help="best@10ms, best@2x, fastest@0.99, knee, a point (p3), a trial number; cascade, router.")
    ],
    to: Annotated[str, typer.Option(help=f"Schedule: {_NAMES}. Model: {_MODELS}.")] = "json",
    output: OutputOption = None,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Accept the nearest schedule that the format can say.")
    ] = False,
    opset: Annotated[int | None, typer.Option(help="Of an ONNX file; 18 if not given.")] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="ONNX, OpenVINO: quantise; quality is measured on the holdout.")
    ] = False,
    no_timing: Annotated[bool, typer.Option("--no-timing", help="Models: do not time them.")] = False,
) -> None:
    """Write a point of a study, or its model, for use elsewhere.

    Its schedule as another tool reads it, or the model with the schedule inside.
    """
    from prunesearch.api.verbs import load_study
    from prunesearch.export.point import TIMED_S

    if no_timing and to not in MODEL_FORMATS:
        raise PruneSearchError(f"--opset, --int8 and --no-timing are for models ({_MODELS}), but got --to {to}")
    seconds = None if no_timing else TIMED_S
    done = load_study(study).export(pick, to, output, lossy=lossy, opset=opset, int8=int8, seconds=seconds)
    if output is None:
        typer.echo(done, nl=False)


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
    from prunesearch.export.point import import_schedule_file

    text = import_schedule_file(
        file, source, model=model, depth=depth, tokens=tokens, protected=protected, entry=entry, path=output
    )
    if output is None:
        typer.echo(text, nl=False)


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(export)
    app.command("import")(import_)
