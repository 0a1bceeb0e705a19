"""The command line: parse, call one function, print."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from prunesearch import __version__
from prunesearch.cli_devices import StudyArgument, interruptible, register
from prunesearch.cli_export import register as register_export
from prunesearch.core.errors import PruneSearchError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Find the Pareto-optimal token-pruning schedules for your model, data, device and budget.",
    epilog="Start with: prunesearch run (the bundled demo, a few minutes on two cores)",
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"prunesearch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    model: Annotated[str | None, typer.Option(help="Folder or Hub id of a transformers model.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Parquet, CSV, TSV, JSONL, image folder, Hub id, or CALIBRATION,HOLDOUT."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="image-classification, text-classification, or auto.")] = None,
    columns: Annotated[str | None, typer.Option(help="Column names by role, as in text=review,label=stars.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:N: measured now; or a name of `prunesearch devices`.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="10ms a batch, 40mJ an input, 60% or 2x; none: the whole front.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="latency, energy, or both (latency,energy), beside quality.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows in a batch whose latency counts.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    attention: Annotated[str | None, typer.Option("--attn", help="sdpa, eager or flash.")] = None,
    mode: Annotated[str | None, typer.Option(help="eager, cuda-graph or compile: as you will deploy it.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests under way at once, if you serve several.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of a text whose latency counts.")] = None,
    space: Annotated[str | None, typer.Option(help="YAML file of the search space.")] = None,
    sampler: Annotated[str | None, typer.Option(help="tpe, nsga2 or random.")] = None,
    trials: Annotated[int | None, typer.Option(help="Schedules to evaluate.")] = None,
    timeout: Annotated[str | None, typer.Option(help="Stop the search after so long: 90s, 10m, 2h.")] = None,
    study: Annotated[str | None, typer.Option(help="Name of the study; the same name resumes it.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the table alone.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print front.json in place of the table.")] = False,
) -> None:
    """Search schedules and print the front. Without options: the bundled demo."""
    from prunesearch.search.config import RunConfig
    from prunesearch.search.objectives import parse_objectives
    from prunesearch.search.run import run as search

    config = RunConfig.build(
        model=model,
        data=data,
        task=task,
        columns=None if columns is None else parse_columns(columns),
        device=_measured_instead(device),
        budget=budget,
        objectives=None if objective is None else parse_objectives(objective),
        batch_size=batch_size,
        dtype=dtype,
        attention=attention,
        mode=mode,
        concurrency=concurrency,
        length=length,
        space=space,
        sampler=sampler,
        trials=trials,
        timeout_s=None if timeout is None else parse_duration(timeout),
        seed=seed,
    )
    with interruptible("finished trials are kept"):
        front = search(config, study, quiet=quiet or json)
    _print_front(front, json)


@app.command()
def show(
    study: StudyArgument,
    json: Annotated[bool, typer.Option("--json", help="Print front.json in place of the table.")] = False,
) -> None:
    """Print the front of a study again."""
    from prunesearch.results.store import load_front

    _print_front(load_front(study)[1], json)


register(app)
register_export(app)


def parse_columns(text: str) -> dict[str, str]:
    """Read `role=name,role=name`."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(role.strip() and equals and name.strip() for role, equals, name in pairs):
        raise PruneSearchError(f"columns are written role=name,role=name (text=review,label=stars), but got '{text}'")
    return {role.strip(): name.strip() for role, _, name in pairs}


def parse_duration(text: str) -> float:
    """Read `90s`, `10m` or `2h` as seconds."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    try:
        seconds = float(text[:-1]) * units[text[-1:]]
    except (KeyError, ValueError):
        raise PruneSearchError(f"a time is written 90s, 10m or 2h, but got '{text}'") from None
    if not 0 < seconds < float("inf"):
        raise PruneSearchError(f"a time must be > 0, but got '{text}'")
    return seconds


def _measured_instead(device: str | None) -> str | None:
    """Offer to measure a device that is at hand but known by an estimate alone; without a terminal, say so."""
    from prunesearch.search.target import measurable

    found = None if device is None else measurable(device)
    if found is None:
        return device
    what = f"'{device}' is at hand ({found}), but its profile is estimated"
    if sys.stdin.isatty() and typer.confirm(f"{what}: measure it now?", default=True, err=True):
        return "cuda"
    typer.echo(f"prunesearch: {what}: --device cuda measures it", err=True)
    return device


def _print_front(front: Any, as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(front.to_dict(), indent=2))
        return
    from prunesearch.results.show import show_front

    show_front(front)


def main() -> None:
    """Run the command line; bad input ends in one line and exit code 2."""
    try:
        app()
    except PruneSearchError as error:
        typer.echo(f"prunesearch: {error}", err=True)
        sys.exit(2)
