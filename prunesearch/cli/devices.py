"""Commands about devices: profile, devices, verify, transfer, flops. Each parses, calls one function, prints."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from prunesearch.cli.border import interruptible, quietly
from prunesearch.cli.option_help import explained, listed, modes, runtimes
from prunesearch.cli.values import SeveralValues
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.registry import ATTENTIONS, DEVICE_KINDS, DTYPES, EFFORTS
from prunesearch.tasks.table import SHAPES

StudyArgument = Annotated[str, typer.Argument(help="Name of a study under studies/, or its folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON in place of the table.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print the result alone.")]


def profile(
    model: Annotated[
        list[str] | None,
        typer.Option(help=f"{listed(SHAPES)}; folders or Hub ids; none: the shapes."),
    ] = None,
    device: Annotated[str, typer.Option(help=f"{listed(DEVICE_KINDS)}, cuda:N.")] = "cpu",
    name: Annotated[str | None, typer.Option(help="Name of the profile; none: made from the device's.")] = None,
    batch_size: Annotated[list[int] | None, typer.Option(help="As in 1 8 32, which is the default.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help=f"{listed(DTYPES, 'float32')}, or several.")] = None,
    attention: Annotated[str, typer.Option("--attn", help=f"{listed(ATTENTIONS, 'sdpa')}.")] = "sdpa",
    mode: Annotated[str | None, typer.Option(help=f"{modes()}; none: eager.")] = None,
    runtime: Annotated[str | None, typer.Option(help=f"What will run the model: {runtimes()}.")] = None,
    concurrency: Annotated[int, typer.Option(help="Forwards under way at once: measure one among others.", min=1)] = 1,
    length: Annotated[int | None, typer.Option(help="Tokens of a text (128).")] = None,
    energy: Annotated[bool, typer.Option("--energy", help="Measure energy too (minutes a table).")] = False,
    effort: Annotated[str | None, typer.Option(help=f"{explained(EFFORTS, 'normal')}.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="As --effort quick.")] = False,
    full: Annotated[bool, typer.Option("--full", help="As --effort full.")] = False,
    redo: Annotated[bool, typer.Option("--redo", help="Measure again what the profile has.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write the latency-token curves: FILE.html or FILE.png.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder of profiles; none: your own.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Measure this device, for `run --device NAME` anywhere."""
    from prunesearch.api.verbs import profile as measure

    with quietly(quiet), interruptible("finished tables are kept"):
        found = measure(
            model,
            device=device,
            name=name,
            batch_sizes=batch_size,
            dtypes=dtype,
            attention=attention,
            mode=mode,
            runtime=runtime,
            concurrency=concurrency,
            length=length,
            effort=effort,
            quick=quick,
            full=full,
            energy=energy,
            redo=redo,
            root=folder,
            plot=plot,
        )
    typer.echo(found.folder)


def devices(json: JsonOption = False) -> None:
    """List the device profiles, yours and the shipped ones."""
    from prunesearch.report.tables.device_list import list_devices, show_devices

    rows, broken = list_devices()
    if json:
        _print_json([row.to_dict() for row in rows])
    else:
        show_devices(rows)
    for line in broken:
        typer.echo(f"prunesearch: {line}", err=True)


def verify(
    study: StudyArgument,
    device: Annotated[
        str | None, typer.Option(help="Torch device to measure on: cpu, cuda:N, ...; none: the study's.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Wall time of the measurement.", min=0.0)] = 25.0,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Measure a front again here, predicted against measured."""
    from prunesearch.api.verbs import load_study
    from prunesearch.commands.verify_table import show_verification

    chosen = load_study(study)
    with quietly(quiet or json):
        found = chosen.verify(device=device, seconds=seconds)
    if json:
        _print_json(found.model_dump())
    else:
        show_verification(found, chosen.front)


def adapt(
    study: StudyArgument,
    keep: Annotated[float, typer.Option(help="Share of the unpruned quality to keep, on calibration rows.")] = 0.99,
    batch_size: Annotated[list[int] | None, typer.Option(help="Rows of a batch that is timed; none: 1 8 32.")] = None,
    rows: Annotated[int, typer.Option(help="Of each split, at most.")] = 2048,
    block: Annotated[int, typer.Option(help="After which a router decides, from 0.")] = 0,
    batches: Annotated[int, typer.Option(help="That are timed, of each size.")] = 100,
    budget: Annotated[str | None, typer.Option(help="Of batches of the first size: 20ms, 60% or 2x.")] = None,
    percentile: Annotated[float | None, typer.Option(help="Of batches, that it bounds; none: the mean.")] = None,
    learn_thresholds: Annotated[
        bool, typer.Option("--learn-thresholds", help="Train thresholds of stages too (LTP), without labels.")
    ] = False,
    train: Annotated[str | None, typer.Option(help="Rows to train them on, as of tune.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Of that training; none: 60 steps.")] = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Choose plans of a front row by row; against static ones."""
    from prunesearch.api.verbs import load_study
    from prunesearch.report.tables.adapted_table import show_adapted
    from prunesearch.training.settings import TrainingSettings

    with quietly(quiet or json):
        sizes = tuple(batch_size or (1, 8, 32))
        wanted: dict[str, Any] = {"keep": keep, "batch_sizes": sizes, "rows": rows, "block": block, "batches": batches}
        training = None if epochs is None else TrainingSettings(epochs=epochs)
        chosen = load_study(study).adapt(
            budget=budget,
            percentile=percentile,
            learn_thresholds=learn_thresholds,
            train=train,
            training=training,
            **wanted,
        )
    if json:
        _print_json(None if chosen.front.adapted is None else chosen.front.adapted.model_dump())
    else:
        show_adapted(chosen.front)


def stress(
    study: StudyArgument,
    attack: Annotated[list[str] | None, typer.Option(help="fgsm, pgd; compute, on stages by row: pictures.")] = None,
    eps: Annotated[str, typer.Option(help="Most that a channel changes, of 1, as 2/255.")] = "2/255",
    data: Annotated[str | None, typer.Option(help="Other rows of the same classes.")] = None,
    rows: Annotated[int, typer.Option(help="Of the holdout split, at most.")] = 2048,
    attacked: Annotated[int, typer.Option(help="Of these, at most, that are attacked.")] = 256,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Judge a front by class, on other data, under attack."""
    from prunesearch.api.verbs import load_study
    from prunesearch.report.tables.stressed_table import show_stressed

    names = tuple(name for text in attack or () for name in text.split(",") if name)
    wanted = {"attacks": names, "eps": _share(eps), "data": data, "rows": rows, "attacked": attacked}
    with quietly(quiet or json):
        chosen = load_study(study).stress(**wanted)
    if json:
        _print_json(None if chosen.front.stressed is None else chosen.front.stressed.model_dump())
    else:
        show_stressed(chosen.front)


def _share(text: str) -> float:
    """Read `2/255`, or a number.

    Raises:
        PruneSearchError: if it is neither.
    """
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise PruneSearchError(f"`eps` must be a part of 1, as 2/255 or 0.01, but got '{text}'") from None


def transfer(
    study: StudyArgument,
    to: Annotated[str, typer.Option(help="Name of a profile (see `prunesearch devices`).")],
    dtype: Annotated[str | None, typer.Option(help="There; none: the study's.")] = None,
    mode: Annotated[str | None, typer.Option(help="There; none: the study's.")] = None,
    json: JsonOption = False,
) -> None:
    """Price a front on another device: ranks, regret of reuse."""
    from prunesearch.api.verbs import load_study
    from prunesearch.commands.transfer import show_transfer

    chosen = load_study(study)
    found = chosen.transfer(to, dtype=dtype, mode=mode)
    if json:
        _print_json(found.to_dict())
    else:
        show_transfer(found, chosen.front)


def flops(
    model: Annotated[str, typer.Argument(help="Shape (deit-tiny …), folder or Hub id; weights are not needed.")],
    schedule: Annotated[
        str, typer.Argument(help="JSON file, or as in '3:0.7 cls_attention+fuse > 6:0.5 bipartite'.")
    ] = "unpruned",
    batch_size: Annotated[int, typer.Option(help="Rows of the batch whose memory counts.", min=1)] = 1,
    length: Annotated[int | None, typer.Option(help="Tokens of a text (128).")] = None,
    device: Annotated[str, typer.Option(help=f"{listed(DEVICE_KINDS)}, cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help=f"{listed(DTYPES)}.")] = "float32",
    attention: Annotated[str, typer.Option("--attn", help="sdpa or eager.")] = "sdpa",
    json: JsonOption = False,
) -> None:
    """Count a model's multiply-adds and peak memory."""
    from prunesearch.api import lookups
    from prunesearch.cost.counting.flops_report import show_flops

    report = lookups.flops(
        model, schedule, batch_size=batch_size, length=length, device=device, dtype=dtype, attention=attention
    )
    if json:
        _print_json(report.to_dict())
    else:
        show_flops(report)


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command(cls=SeveralValues)(profile)
    app.command(cls=SeveralValues)(adapt)
    app.command(cls=SeveralValues)(stress)
    for command in (devices, verify, transfer, flops):
        app.command()(command)


def _print_json(data: object) -> None:
    import json

    typer.echo(json.dumps(data, indent=2))
