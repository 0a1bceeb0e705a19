"""`prunesearch tune` and `learn-scorers`: parse, call one function, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prunesearch.cli.border import interruptible, quietly
from prunesearch.cli.devices import JsonOption, QuietOption
from prunesearch.cli.option_help import explained
from prunesearch.cli.printing import print_elastic, print_front, print_scorers
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.token_tables import LEARNED
from prunesearch.core.tables.training_tables import PARAMETERS


def tune(
    study: Annotated[
        str | None, typer.Argument(help="Name of a study, or its folder; none: --model, --data and --schedule.")
    ] = None,
    pick: Annotated[
        str | None, typer.Option(help="best@10ms, best@2x, fastest@0.99, knee, a point (p3) or a trial number.")
    ] = None,
    front: Annotated[bool, typer.Option("--front", help="All points that lose something, each by itself.")] = False,
    elastic: Annotated[
        bool, typer.Option("--elastic", help="One training for all plans near the front, for run --weights.")
    ] = False,
    train: Annotated[
        str | None,
        typer.Option(help="Rows to train on, as of run --data; none: the study's own rows that it does not use."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Without a study: folder or Hub id of a model.")] = None,
    data: Annotated[str | None, typer.Option(help="Rows that judge it, as of run --data.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="JSON file, or as in '3:0.7 cls_attention+fuse > 6:0.5 bipartite'.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for plan and weights.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the rows for each point (3).")] = None,
    time: Annotated[str | None, typer.Option(help="In place of epochs, for all trainings together: 30m.")] = None,
    parameters: Annotated[str | None, typer.Option(help=f"{explained(PARAMETERS, 'full')}.")] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate at its height; none: by parameters.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows in a step (64).")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Steps of rows in one of the optimiser (1).")] = None,
    augment: Annotated[
        bool | None, typer.Option("--augment/--no-augment", help="Mirror and move pictures (default).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Train a point's weights under its schedule.

    They are judged on the holdout rows. The unpruned model teaches; labels are not needed. Ctrl-C and kill -9 lose
    little: the same command goes on.
    """
    settings = {
        "epochs": epochs,
        "time": time,
        "parameters": parameters,
        "rate": rate,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "augment": augment,
        "seed": seed,
    }
    with quietly(quiet or json), interruptible("what was trained until the last checkpoint is kept"):
        if study is None:
            _refuse(["--elastic"] if elastic else [], "needs the schedules that a study has tried", "give STUDY")
            _without_study(model, data, schedule, output, train, settings)
            return
        alone = {"--model": model, "--data": data, "--schedule": schedule, "-o": output}
        _refuse(
            [name for name, value in alone.items() if value is not None],
            "goes without a study",
            "leave it out, or the study",
        )
        if elastic:
            given = [*(["--pick"] if pick is not None else []), *(["--front"] if front else [])]
            _refuse(given, "goes without --elastic", "leave one of them out")
            shared = _load(study).tune_elastic(train, **settings)
        else:
            found = _of_study(study, pick, front, train, settings)
    if elastic:
        print_elastic(shared, json)
    else:
        print_front(found.front, json)


def _load(study: str) -> Any:
    from prunesearch.api.verbs import load_study

    return load_study(study)


def _of_study(study: str, pick: str | None, front: bool, train: str | None, settings: dict[str, Any]) -> Any:
    if front == (pick is not None):
        raise PruneSearchError(
            "what is tuned is one point, all of them, or one network for all: give --pick (as in best@2x), --front or "
            "--elastic"
        )
    return _load(study).tune(pick, train, **settings)


def _without_study(
    model: str | None,
    data: str | None,
    schedule: str | None,
    output: Path | None,
    train: str | None,
    settings: dict[str, Any],
) -> None:
    from prunesearch.api import verbs

    if model is None or data is None or schedule is None or output is None:
        raise PruneSearchError(
            "what is tuned is a point of a study, or a schedule: give STUDY, or --model, --data, --schedule and -o"
        )
    found = verbs.tune(model, data, schedule, output, train=train, **settings)
    if found is not None:
        typer.echo(found.folder / "plan.json")


def _refuse(given: list[str], why: str, way_out: str) -> None:
    if given:
        raise PruneSearchError(f"{given[0]} {why}: {way_out}")


def learn_scorers(
    study: Annotated[str, typer.Argument(help="Name of a study, or its folder.")],
    method: Annotated[
        list[str] | None, typer.Option(help=f"{explained(LEARNED)}; may be repeated; none: the first two.")
    ] = None,
    train: Annotated[str | None, typer.Option(help="Rows to train on, as of tune; labels are not used.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the rows for each method (1).")] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate at its height (1e-3).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows in a step (64).")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Train scorers that have weights, for run --weights STUDY/scorers.

    A control is trained beside them on noise; both are compared with the rules. Ctrl-C and kill -9 lose little.
    """
    settings = {"epochs": epochs, "rate": rate, "batch_size": batch_size, "seed": seed}
    chosen = {} if not method else {"methods": method}
    with quietly(quiet or json), interruptible("what was trained until the last checkpoint is kept"):
        found = _load(study).learn_scorers(train, **chosen, **settings)
    print_scorers(found, json)


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(tune)
    app.command("learn-scorers")(learn_scorers)
