"""`prunesearch compare`: parse, call one function, print."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prunesearch.cli.border import interruptible, quietly
from prunesearch.cli.devices import JsonOption, QuietOption
from prunesearch.cli.option_help import listed
from prunesearch.cli.values import SeveralValues
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.registry import DEVICE_KINDS, PRECISIONS
from prunesearch.core.tables.rival_table import RIVALS
from prunesearch.tasks.table import TASKS


def compare(
    study: Annotated[
        str | None, typer.Argument(help="Name of a finished study, or its folder; none: --model and --data.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Without a study: as of run; none: the bundled demo.")] = None,
    data: Annotated[str | None, typer.Option(help="As of run.")] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(RIVALS)}; none: all that need no training, and what was trained before."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="The latency of all: 2x, 60% or 10ms; none: the study's own, or 2x.")
    ] = None,
    rows: Annotated[int | None, typer.Option(help="Of the holdout split, at most; none: all.")] = None,
    seconds: Annotated[float, typer.Option(help="Wall time of the measurement.")] = 60.0,
    train: Annotated[
        str | None, typer.Option(help="Rows for learned methods that are asked for, as of tune; no labels.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over them for each method (1).")] = None,
    task: Annotated[str | None, typer.Option(help=f"As of run: {listed(TASKS)}.")] = None,
    device: Annotated[str | None, typer.Option(help=f"As of run: {listed(DEVICE_KINDS)}, cuda:N.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="As of run.")] = None,
    precision: Annotated[str | None, typer.Option(help=f"As of run: {listed(PRECISIONS)}.")] = None,
    trials: Annotated[int | None, typer.Option(help="As of run; none: until the front has converged.")] = None,
    accuracy: Annotated[str | None, typer.Option(help="As of run: quick, standard or thorough.")] = None,
    name: Annotated[str | None, typer.Option("--study", help="Name of the study that is made.")] = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Every method at equal measured latency, on your model.

    Rules, trained scorers, progressive, multi-stage, merging and the search, each at the same latency on this device:
    quality with its interval, what each took to find, and whether a survey's table agrees. What a finished study knows
    is not measured again.
    """
    from prunesearch.api import verbs
    from prunesearch.commands.compare import chosen_methods
    from prunesearch.report.tables.compared_table import show_compared

    asked: dict[str, Any] = {
        "model": model,
        "data": data,
        "task": task,
        "device": device,
        "batch_size": batch_size,
        "precision": precision,
        "trials": trials,
        "accuracy": accuracy,
        "study": name,
    }
    given = {key: value for key, value in asked.items() if value is not None}
    wanted = {"rows": rows, "seconds": seconds, "train": train, "training": _training(epochs)}
    chosen = chosen_methods(methods or [])
    if study is not None and given:
        first = next(iter(given)).replace("_", "-")
        raise PruneSearchError(f"--{first} is of a study that is to be made, but got '{study}' too: leave one out")
    with quietly(quiet or json), interruptible("what was timed and judged is kept"):
        if study is not None:
            found = verbs.load_study(study).compare(budget, chosen, **wanted)
        else:
            found = verbs.compare(budget=budget, methods=chosen, compared=wanted, **given)
    front = found.front
    if json:
        import json as form

        typer.echo(form.dumps(None if front.compared is None else front.compared.model_dump(), indent=2))
    else:
        show_compared(front)


def _training(epochs: float | None) -> Any:
    from prunesearch.training.settings import TrainingSettings

    return None if epochs is None else TrainingSettings(epochs=epochs)


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command(cls=SeveralValues)(compare)
