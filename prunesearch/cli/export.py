"""Commands that take schedules out of a study and in from other tools. Each parses, calls one function, prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunesearch.cli.devices import StudyArgument
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.registry import FORMATS, MODEL_FORMATS

if TYPE_CHECKING:
    from prunesearch.study.front import Front

_NAMES = ", ".join(FORMATS)
_MODELS = ", ".join(MODEL_FORMATS)
_TIMED_S = 20.0
OutputOption = Annotated[Path | None, typer.Option("-o", "--output", help="File to write; none: print.")]


def export(
    study: StudyArgument,
    pick: Annotated[str, typer.Option(help="best@10ms, best@2x, fastest@0.99, knee, a point (p3) or a trial number.")],
    to: Annotated[str, typer.Option(help=f"Schedule: {_NAMES}. Model: {_MODELS}.")] = "json",
    output: OutputOption = None,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Accept the nearest schedule that the format can say.")
    ] = False,
    opset: Annotated[int | None, typer.Option(help="Of an ONNX file; 18 if not given.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="ONNX: quantise; quality is measured on the holdout.")] = False,
    no_timing: Annotated[bool, typer.Option("--no-timing", help="Models: do not time them.")] = False,
) -> None:
    """Write one point of a study for use elsewhere: its schedule, or the model with the schedule inside."""
    from prunesearch.study.folder import load_front

    front = load_front(study)[1]
    if to in MODEL_FORMATS:
        _export_model(front, pick, to, output, opset, int8, no_timing, lossy)
        return
    from prunesearch.export import export as write

    if opset is not None or int8 or no_timing:
        raise PruneSearchError(f"--opset, --int8 and --no-timing are for models ({_MODELS}), but got --to {to}")
    exported = write(front, pick, to, lossy=lossy)
    for change in exported.changes:
        typer.echo(f"prunesearch: changed for {to}: {change}", err=True)
    for loss in exported.losses:
        typer.echo(f"prunesearch: note for {to}: {loss}", err=True)
    _put(exported.text, output)
    if output is not None:
        from prunesearch.export.models.card import schedule_card

        _put(schedule_card(front, pick, to, exported), output.with_name(f"{output.name}.md"))


def _export_model(
    front: Front, pick: str, to: str, output: Path | None, opset: int | None, int8: bool, no_timing: bool, lossy: bool
) -> None:
    """Write, then say what was found."""
    if output is None:
        raise PruneSearchError(f"a model is written to a file or folder: add -o PATH to --to {to}")
    if lossy:
        raise PruneSearchError(f"a model holds every schedule as it is, but got --lossy with --to {to}: leave it out")
    from prunesearch.export.models.card import timing_text
    from prunesearch.export.models.from_study import export_study_model
    from prunesearch.export.models.model_format import ModelOptions
    from prunesearch.export.models.record import SURVIVES

    options, seconds = ModelOptions(opset, int8), None if no_timing else _TIMED_S
    done = export_study_model(front, pick, to, output, options=options, seconds=seconds)
    for line in done.summary():
        typer.echo(line, err=True)
    if done.timing is not None:
        typer.echo(timing_text(done), err=True)
        if not done.timing.survives:
            typer.echo(
                f"prunesearch: the speed-up of eager torch does not survive in {done.runtime}: "
                f"{done.timing.speedup:.2f}x, less than {SURVIVES:g} of {done.timing.eager_speedup:.2f}x",
                err=True,
            )
    typer.echo(f"written: {output}", err=True)


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
    from prunesearch.export.schedules.model_shape import model_shape
    from prunesearch.export.schedules.native import imported_json

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
