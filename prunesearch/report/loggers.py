"""A finished study told to an experiment tracker: TensorBoard, MLflow or Weights & Biases, if that is installed.

A new one is a function `(package, folder, front, trials) -> where it went` and a row in `LOGGERS`
(`core/tables/export_tables.py`), which names the modules of which the first that is there is the package.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from prunesearch.core.costs import COSTS, find_cost
from prunesearch.core.errors import PruneSearchError
from prunesearch.core.tables.export_tables import LOGGERS
from prunesearch.study.folder import DEFAULT_ROOT, StudyFolder, load_front
from prunesearch.study.front import Front
from prunesearch.study.storage.reader import Trial, TrialReader

_PROJECT = "prunesearch"
Find = Callable[[str], Any]


def log_study(name: str, folder: StudyFolder, front: Front, trials: Sequence[Trial], find: Find = import_module) -> str:
    """Tell the tracker called `name` of a study: settings, trials, points of the front, and files where it takes them.

    Args:
        name: a row of `LOGGERS`.
        folder: of the study.
        front: its front.
        trials: its trials; those that are complete are told.
        find: imports the tracker's package.

    Returns:
        One line on where it went.

    Raises:
        PruneSearchError: for an unknown name, a package that is not installed, or a tracker that refuses.
    """
    package = _package(name, find)
    try:
        return str(LOGGERS[name](package, folder, front, [trial for trial in trials if trial.complete]))
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PruneSearchError(f"{name} did not take the study ({reason}); its own files are complete") from None


def log_finished(name: str, study: str, *, storage: str | None = None, root: Path = DEFAULT_ROOT) -> str:
    """Tell a tracker of a study by its name, see `log_study`; `storage`: of its trials, None for the folder's own."""
    folder, front = load_front(study, root)
    reader = TrialReader(storage or folder.journal, None if storage is None else folder.name)
    reader.refresh()
    return log_study(name, folder, front, reader.trials)


def check_logger(name: str, find: Find = import_module) -> None:
    """Refuse a name that is not in `LOGGERS`, or whose package is missing: to be called before a run, not after it."""
    _package(name, find)


def scalars(front: Front, trials: Sequence[Trial]) -> list[tuple[int, dict[str, float]]]:
    """What is told, by step: `trial/…` at each trial's number, `front/…` at each point's place from 1 on."""
    found = []
    for trial in trials:
        values = {name: trial.number_of(name) for name in ("quality", *COSTS, "seconds")}
        told = {f"trial/{name}": value for name, value in values.items() if value is not None}
        if trial.values:
            told["trial/loss"] = trial.values[0]
        found.append((trial.number, told))
    for place, point in enumerate(front.points, start=1):
        told = {"front/quality": point.quality.value, "front/speedup": point.speedup}
        told |= {f"front/{n}_{find_cost(n).unit.lower()}": amount.value for n, amount in point.costs.items()}
        found.append((place, told))
    return found


def to_tensorboard(tensorboard: Any, folder: StudyFolder, front: Front, trials: Sequence[Trial]) -> str:
    """See `log_study`."""
    place = folder.path / "tensorboard"
    writer = tensorboard.SummaryWriter(str(place))
    try:
        writer.add_text("config", f"```\n{json.dumps(front.config, indent=1)}\n```")
        writer.add_text("verdict", front.verdict.text)
        for step, told in scalars(front, trials):
            for name, value in told.items():
                writer.add_scalar(name, value, step)
    finally:
        writer.close()
    return f"tensorboard --logdir {place}"


def to_mlflow(mlflow: Any, folder: StudyFolder, front: Front, trials: Sequence[Trial]) -> str:
    """See `log_study`."""
    mlflow.set_experiment(_PROJECT)
    with mlflow.start_run(run_name=front.study) as run:
        mlflow.log_params({name: str(value) for name, value in front.config.items()})
        mlflow.set_tag("verdict", front.verdict.text)
        for step, told in scalars(front, trials):
            mlflow.log_metrics({name.replace("/", "."): value for name, value in told.items()}, step=step)
        for path in _files(folder):
            mlflow.log_artifact(path)
    return f"MLflow run {run.info.run_id}"


def to_wandb(wandb: Any, folder: StudyFolder, front: Front, trials: Sequence[Trial]) -> str:
    """See `log_study`."""
    run = wandb.init(project=_PROJECT, name=front.study, config=front.config)
    try:
        # two counters: points are not trials
        for part in ("trial", "front"):
            run.define_metric(f"{part}/step")
            run.define_metric(f"{part}/*", step_metric=f"{part}/step")
        for step, told in scalars(front, trials):
            part = next(iter(told), "trial/").partition("/")[0]
            run.log({**told, f"{part}/step": step})
        run.summary["verdict"] = front.verdict.text
        artifact = wandb.Artifact(f"front-{run.id}", type="front")
        for path in _files(folder):
            artifact.add_file(path)
        run.log_artifact(artifact)
    finally:
        run.finish()
    return f"Weights & Biases run {run.name}"


def _files(folder: StudyFolder) -> list[str]:
    return [str(path) for path in (folder.front, folder.report) if path.exists()]


def _package(name: str, find: Find) -> Any:
    row = LOGGERS.entry(name)
    for module in row.modules:
        with suppress(ImportError):
            return find(module)
    raise PruneSearchError(f"--log {name} needs a package that is not installed: pip install {row.package}")
