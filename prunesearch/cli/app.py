"""The command line: parse, call one function, print."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from prunesearch import __version__
from prunesearch.cli.all_names import register as register_names
from prunesearch.cli.border import answer, interruptible, quietly
from prunesearch.cli.compare import register as register_compare
from prunesearch.cli.dashboard import register as register_dashboard
from prunesearch.cli.devices import StudyArgument, register
from prunesearch.cli.export import register as register_export
from prunesearch.cli.option_help import explained, listed, modes, runtimes
from prunesearch.cli.printing import print_front
from prunesearch.cli.tune import register as register_tune
from prunesearch.cli.values import SeveralValues
from prunesearch.core.accuracy import ACCURACIES, STANDARD
from prunesearch.core.costs import COSTS
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.export_tables import LOGGERS
from prunesearch.core.tables.registry import (
    ALL_FREE,
    ATTENTIONS,
    DEVICE_KINDS,
    DTYPES,
    ENGINES,
    FREE,
    PRECISIONS,
    SAMPLERS,
)
from prunesearch.tasks.table import METRICS, TASKS
from prunesearch.tasks.views.view_table import VIEWS, groups

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Find the Pareto-optimal token-pruning schedules for your model, data, device and budget.",
    epilog="Start with: prunesearch run (the bundled demo; --dry-run says how long here)",
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
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from; goes anywhere.")] = False,
) -> None:
    pass


@app.command(cls=SeveralValues)
def run(
    model: Annotated[str | None, typer.Option(help="Folder or Hub id of a transformers model.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Parquet, CSV, TSV, JSONL, image folder, Hub id, or CALIBRATION,HOLDOUT."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Folder of a training (STUDY/elastic) to search on, in place of the model's own.")
    ] = None,
    task: Annotated[str | None, typer.Option(help=f"{listed(TASKS)}; none: from head and data.")] = None,
    columns: Annotated[str | None, typer.Option(help="Column names by role, as in text=review,label=stars.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Of a CSV file; the default finds it out.")] = None,
    header: Annotated[
        bool | None, typer.Option("--header/--no-header", help="Whether a CSV's first row names its columns.")
    ] = None,
    skip_bad: Annotated[
        bool | None, typer.Option("--skip-bad", help="Leave out rows that cannot be read, and count them.")
    ] = None,
    group: Annotated[str | None, typer.Option(help="Column of the data; results are told group by group.")] = None,
    metric: Annotated[str | None, typer.Option(help=f"What quality is: {listed(METRICS)}; none: by task.")] = None,
    device: Annotated[
        str | None,
        typer.Option(help=f"{listed(DEVICE_KINDS)}, cuda:N: measured now; or a name of `prunesearch devices`."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="10ms a batch, 40mJ or 2GMACs an input, 64MiB a batch, 60% or 2x; none: the whole front."),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help=f"Beside quality: {listed(COSTS)}, or several (latency,size).")
    ] = None,
    constraint: Annotated[
        list[str] | None,
        typer.Option(help="'quality >= 0.99*unpruned', 'agreement >= 0.98', 'macs <= 60%', ...; may be repeated."),
    ] = None,
    robust: Annotated[
        str | None,
        typer.Option(
            help=f"Judge rows in these views too: {', '.join(groups())}, or {listed(VIEWS)}; several: fog,snow."
        ),
    ] = None,
    over: Annotated[str | None, typer.Option(help="Of several views: mean (default) or worst.")] = None,
    severity: Annotated[
        int | None, typer.Option(help="Of views, 1 to 5, or 0: each in turn; none: by --accuracy.")
    ] = None,
    robust_rows: Annotated[
        int | None, typer.Option(help="Rows in each view that results are of; none: by --accuracy.")
    ] = None,
    percentile: Annotated[float | None, typer.Option(help="Of the latency that counts: 90; none: the median.")] = None,
    batch_size: Annotated[
        list[str] | None, typer.Option(help="Rows in a batch whose latency counts: 8, several (1 8), or 1:0.7 8:0.3.")
    ] = None,
    across: Annotated[
        str | None, typer.Option(help="Of several batch sizes or lengths: mean (weighted; default) or worst.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help=f"{listed(DTYPES, 'float32')}.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(help=f"Searched beside tokens: {listed(PRECISIONS)}, as in float32,int8; none: all that is here."),
    ] = None,
    free: Annotated[
        str | None,
        typer.Option(help=f"What plans may do: {listed(ALL_FREE)}; none: {','.join(FREE)}, or what the space says."),
    ] = None,
    attention: Annotated[str | None, typer.Option("--attn", help=f"{listed(ATTENTIONS, 'sdpa')}.")] = None,
    mode: Annotated[str | None, typer.Option(help=f"{modes()}: as you will deploy it.")] = None,
    runtime: Annotated[str | None, typer.Option(help=f"What will run the model: {runtimes()}.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests under way at once, if you serve several.")] = None,
    length: Annotated[
        list[str] | None,
        typer.Option(help="Tokens of a text whose latency counts: 128, several, or `buckets` of the data."),
    ] = None,
    answer: Annotated[
        int | None, typer.Option(help="Tokens of an answer whose last is timed; none: as in the data.")
    ] = None,
    space: Annotated[str | None, typer.Option(help="YAML file of a search space, or a name in search_spaces/.")] = None,
    sampler: Annotated[str | None, typer.Option(help=f"{explained(SAMPLERS, 'guided')}.")] = None,
    trials: Annotated[
        int | None, typer.Option(help="Schedules to evaluate; none: until the front has converged.")
    ] = None,
    timeout: Annotated[str | None, typer.Option(help="Stop the search after so long: 90s, 10m, 2h.")] = None,
    race: Annotated[
        bool | None,
        typer.Option("--race/--no-race", help="Stop a schedule where a cheaper one has beaten it (default)."),
    ] = None,
    engine: Annotated[str | None, typer.Option(help=f"{explained(ENGINES, 'local')}.")] = None,
    workers: Annotated[int | None, typer.Option(help="Of the ray engine; none: one a core, or a GPU.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Of a running Ray cluster; none: this machine.")] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="Database that several processes share: postgresql+psycopg://...; none: a file."),
    ] = None,
    log: Annotated[str | None, typer.Option(help=f"Tell the finished study to {listed(LOGGERS)}.")] = None,
    start_from: Annotated[
        list[str] | None, typer.Option(help="Schedule file to try first, as of prunesearch import; may be repeated.")
    ] = None,
    study: Annotated[str | None, typer.Option(help="Name of the study; the same name resumes it.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    calibration: Annotated[int | None, typer.Option(help="Rows that the search sees; none: from the data.")] = None,
    holdout: Annotated[int | None, typer.Option(help="Rows that results are of; none: from the data.")] = None,
    eval_batch_size: Annotated[int | None, typer.Option(help="Rows in a batch whose quality is measured (64).")] = None,
    seeds: Annotated[int | None, typer.Option(help="Solved schedules to try first; none: by sampler.")] = None,
    accuracy: Annotated[
        str | None, typer.Option(help=f"{explained(ACCURACIES, STANDARD)}. Verdicts are at 95 % in any.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="--accuracy quick.")] = False,
    thorough: Annotated[bool, typer.Option("--thorough", help="--accuracy thorough.")] = False,
    search_samples: Annotated[
        int | None, typer.Option(help="Calibration rows of a trial, at most; none: by --accuracy.")
    ] = None,
    sensitivity_samples: Annotated[int | None, typer.Option(help="Of them, rows of a one-stage loss (64).")] = None,
    sensitivity_units: Annotated[
        float | None, typer.Option(help="What one-stage losses may cost, in full evaluations; none: by --accuracy.")
    ] = None,
    table_time: Annotated[str | None, typer.Option(help="For measuring a cost table, at most (50s).")] = None,
    patience: Annotated[str | None, typer.Option(help="How long to wait for a busy CPU (30s).")] = None,
    energy_window: Annotated[str | None, typer.Option(help="Length of an energy measurement (5s, the least).")] = None,
    front_points: Annotated[int | None, typer.Option(help="Candidates that are re-measured (12).")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what was understood, and how long it will take; search nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the table alone.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print front.json in place of the table.")] = False,
) -> None:
    """Search schedules and print the front. Without options: the bundled demo."""
    from prunesearch.api import verbs
    from prunesearch.report.loggers import check_logger

    settings: dict[str, Any] = {
        "model": model,
        "data": data,
        "weights": weights,
        "task": task,
        "columns": columns,
        "delimiter": delimiter,
        "header": header,
        "skip_bad": skip_bad,
        "group": group,
        "metric": metric,
        "device": _measured_instead(device),
        "budget": budget,
        "objectives": objective,
        "constraints": constraint,
        "robust": robust,
        "over": over,
        "severity": severity,
        "robust_rows": robust_rows,
        "percentile": percentile,
        "batch_size": batch_size,
        "length": length,
        "answer": answer,
        "across": across,
        "dtype": dtype,
        "precision": precision,
        "free": free,
        "attention": attention,
        "mode": mode,
        "runtime": runtime,
        "concurrency": concurrency,
        "space": space,
        "sampler": sampler,
        "start_from": start_from,
        "trials": trials,
        "timeout": timeout,
        "race": race,
        "engine": engine,
        "workers": workers,
        "ray_address": ray_address,
        "storage": storage,
        "seed": seed,
        "calibration": calibration,
        "holdout": holdout,
        "eval_batch_size": eval_batch_size,
        "seeds": seeds,
        "accuracy": _accuracy(accuracy, quick=quick, thorough=thorough),
        "search_samples": search_samples,
        "sensitivity_samples": sensitivity_samples,
        "sensitivity_units": sensitivity_units,
        "table_time": table_time,
        "patience": patience,
        "energy_window": energy_window,
        "front_points": front_points,
    }
    if dry_run:
        with quietly(quiet or json):
            _print_inspection(verbs.inspect(**settings), json)
        return
    if log is not None:
        check_logger(log)
    with quietly(quiet or json), interruptible("finished trials are kept"):
        found = verbs.run(**settings, study=study)
    print_front(found.front, json)
    if log is not None:
        typer.echo(found.log(log), err=True)


@app.command()
def show(
    study: StudyArgument,
    json: Annotated[bool, typer.Option("--json", help="Print front.json in place of the table.")] = False,
) -> None:
    """Print the front of a study again."""
    from prunesearch.api.verbs import load_study

    print_front(load_study(study).front, json)


register(app)
register_compare(app)
register_export(app)
register_dashboard(app)
register_names(app)
register_tune(app)


def _accuracy(named: str | None, *, quick: bool, thorough: bool) -> str | None:
    """The preset that is asked for, however it is said."""
    said = [*([named] if named else []), *(["quick"] if quick else []), *(["thorough"] if thorough else [])]
    if len(set(said)) > 1:
        raise PruneSearchError(f"one accuracy is asked for at a time, but got {' and '.join(said)}")
    return said[0] if said else None


def _measured_instead(device: str | None) -> str | None:
    """Offer to measure a device that is at hand but known by an estimate alone; without a terminal, say so."""
    from prunesearch.study.target import measurable

    found = None if device is None else measurable(device)
    if found is None:
        return device
    here, name = found
    what = f"'{device}' is at hand ({name}), but its profile is estimated"
    if sys.stdin.isatty() and typer.confirm(f"{what}: measure it now?", default=True, err=True):
        return here
    typer.echo(f"prunesearch: {what}: --device {here} measures it", err=True)
    return device


def _print_inspection(found: Any, as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(found.to_dict(), indent=2))
        return
    from prunesearch.commands.inspect import show_inspection

    show_inspection(found)


def main() -> None:
    """Run the command line; whatever goes wrong ends in one line, and exit code 2."""
    code = answer(app, sys.argv[1:])
    if code:
        sys.exit(code)
