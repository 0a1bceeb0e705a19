"""What the commands do, as functions: `ps.run`, `ps.inspect`, `ps.load_study`, `ps.profile`, `ps.measure`, ..."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from prunesearch.api.study import Study
from prunesearch.commands.inspect import Inspection
from prunesearch.commands.inspect import inspect as inspect_setting
from prunesearch.commands.profile import ProfileConfig
from prunesearch.commands.profile import profile as measure_profile
from prunesearch.commands.tuning.judging import Wanted
from prunesearch.commands.tuning.tune_schedule import TunedSchedule, tune_schedule
from prunesearch.core.errors import PruneSearchError, did_you_mean
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.plans.schedule_text import read_schedule
from prunesearch.core.plans.stage import Stage
from prunesearch.cost.tables.device_profile import Profile
from prunesearch.cost.timing.validate import measure_schedules
from prunesearch.pruning.apply import as_planned
from prunesearch.report.tables.device_list import list_devices
from prunesearch.search.run import run as search
from prunesearch.study.config import VIEW_ROWS, RunConfig
from prunesearch.study.folder import DEFAULT_ROOT, StudyFolder, resolve_study
from prunesearch.study.setup import make_setting
from prunesearch.study.target import resolve_target
from prunesearch.tasks.base import Task
from prunesearch.tasks.objects import digest_of, task_of
from prunesearch.tasks.shapes import load_shape, random_inputs
from prunesearch.tasks.views.alter import Alterations
from prunesearch.training.settings import TrainingSettings

_PROFILE = tuple(field.name for field in fields(ProfileConfig))


def run(
    model: str | Path | nn.Module | None = None,
    data: Any = None,
    *,
    metric: str | Callable[[Any, Any], Any] | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    processor: Any = None,
    study: str | None = None,
    root: str | Path = DEFAULT_ROOT,
    **settings: Any,
) -> Study:
    """Search the schedules of a model for data, a device and a budget; the same call resumes or returns the study.

    Args:
        model: folder, Hub id, or a model object; without model and data, the bundled demo.
        data: file, folder or Hub id; a `datasets.Dataset` or `DatasetDict`; or, for a model object, a DataLoader,
            `(inputs, labels)`, or {"calibration": ..., "holdout": ...} of these (`tasks.objects.task_of`).
        metric: a name, or `(outputs, labels) -> one number a row`, higher is better.
        evaluate: `(model) -> float`, higher is better, in place of a metric: slower, and without intervals.
        processor: tokenizer or image processor of a model object that came from no checkpoint.
        study: its name; None: made from model, device and batch size.
        root: folder of studies.
        settings: what the options of `prunesearch run` say, as fields of `RunConfig`: `budget="2x"`, `batch_size=8`,
            `device="a100"`, `trials=50`, `timeout="10m"`, ...

    Raises:
        PruneSearchError: for bad input, in one line; nothing that was finished is lost.
    """
    config, task = _asked(model, data, metric, evaluate, processor, settings)
    front = search(config, study, root=Path(root), task=task)
    return Study(StudyFolder(Path(root), front.study), task)


def compare(
    model: str | Path | nn.Module | None = None,
    data: Any = None,
    *,
    budget: str | None = None,
    methods: Sequence[str] = (),
    compared: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Study:
    """Search a model as `run` does, or take the study that is there, and put every method beside what was found.

    Args:
        model, data: as `run` takes them.
        budget: the latency that all methods are brought to, which the search is bounded by too: `2x`, `60%`, `10ms`.
        methods: names of `ps.names("rivals")`; see `Study.compare`.
        compared: further fields of `CompareSettings`: `rows`, `seconds`, `train`, `training`.
        settings: as of `run`.

    Returns:
        The study; `study.compared` is a data frame.
    """
    found = run(model, data, budget=budget, **settings)
    return found.compare(budget, methods, **(compared or {}))


def inspect(
    model: str | Path | nn.Module | None = None,
    data: Any = None,
    *,
    metric: str | Callable[[Any, Any], Any] | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    processor: Any = None,
    **settings: Any,
) -> Inspection:
    """What a run with the same arguments would work on, and how long it would take; nothing is searched or written."""
    config, task = _asked(model, data, metric, evaluate, processor, settings)
    return inspect_setting(make_setting(config, task=task))


def _asked(
    model: str | Path | nn.Module | None,
    data: Any,
    metric: Any,
    evaluate: Any,
    processor: Any,
    settings: Mapping[str, Any],
) -> tuple[RunConfig, Task | None]:
    """The request, and the task where parts of it are objects."""
    given = dict(settings)
    named_model, named_data = isinstance(model, (str, Path, type(None))), isinstance(data, (str, Path, type(None)))
    if named_model and named_data and evaluate is None and isinstance(metric, (str, type(None))):
        names = {name: None if value is None else str(value) for name, value in (("model", model), ("data", data))}
        return RunConfig(**names, metric=metric, **given), None
    if model is None:
        raise PruneSearchError("data, a metric or an evaluation of one's own need a model beside them: give model=...")
    config = RunConfig(metric=metric if isinstance(metric, str) else None, **given)
    loading: dict[str, Any] = {"columns": config.columns or None, "length": config.length, "processor": processor}
    reading = {"delimiter": config.delimiter, "header": config.header, "skip_bad": config.skip_bad or None}
    reading["group"] = config.group
    loading |= {name: value for name, value in reading.items() if value is not None}
    if config.robust:
        loading["views"] = Alterations(config.robust, config.severity or None, VIEW_ROWS, config.seed)
    if config.task != "auto":
        loading["task"] = config.task
    if named_model:
        target = resolve_target(config.device)
        loading |= {
            "dtype": target.dtype(config.dtype),
            "device": target.device,
            "attention": target.attention(config.attention),
        }
    task = task_of(
        model,
        data,
        metric=metric,
        evaluate=evaluate,
        batch_size=config.eval_batch_size,
        calibration=config.calibration,
        holdout=config.holdout,
        seed=config.seed,
        **loading,
    )
    name = config.given or _shown(task, metric, evaluate)
    return config.model_copy(update={"given": name, "given_digest": digest_of(task)}), task


def _shown(task: Task, metric: Any, evaluate: Any) -> str:
    """What results call objects: the model's class, and what judges it where that is the caller's own."""
    own = (metric is not None and not isinstance(metric, str)) or evaluate is not None
    return f"{type(task.model).__name__}-{task.metric}"[:60] if own else type(task.model).__name__


def tune(
    model: str | Path | nn.Module,
    data: Any,
    schedule: Schedule | str | Path,
    path: str | Path,
    *,
    train: Any = None,
    run: Mapping[str, Any] | None = None,
    processor: Any = None,
    **settings: Any,
) -> TunedSchedule | None:
    """Train a model under a schedule that is known already, and judge it; a point of a study: `Study.tune`.

    Args:
        model, data, processor: as `run` takes them; the data's calibration and holdout rows judge.
        schedule: of one's own, as text, or the path of a JSON file.
        path: of the folder for plan, weights and card; the same call goes on there.
        train: rows to train on; None: those of `data` that do not judge.
        run: further settings of the model and its data, fields of `RunConfig`.
        settings: fields of `TrainingSettings`: `epochs=3` or `time="30m"`, `parameters="full"`, ...

    Returns:
        The plan with its weights (`.applied(model)`); None where training did not make it better.
    """
    config, task = _asked(model, data, None, None, processor, run or {})
    stages = schedule if isinstance(schedule, Schedule) else read_schedule(str(schedule))
    wanted = Wanted(TrainingSettings(**settings), train=str(train) if isinstance(train, Path) else train)
    return tune_schedule(config, stages, wanted, Path(path), task=task)


def load_tuned(folder: str | Path) -> TunedSchedule:
    """What `tune` wrote into a folder.

    Raises:
        PruneSearchError: if it is not there.
    """
    return TunedSchedule.load(Path(folder))


def load_study(study: str | Path, *, root: str | Path = DEFAULT_ROOT, task: Task | None = None) -> Study:
    """A study by its name, or by its folder (or a file in it).

    Args:
        study: name or path.
        root: folder of studies, where a name is looked up.
        task: the caller's own model and data, for a study of objects that is to be exported or verified.

    Raises:
        PruneSearchError: naming the nearest study.
    """
    return Study(resolve_study(str(study), root), task)


def profile(model: str | Sequence[str] | None = None, **settings: Any) -> Profile:
    """Measure cost tables of a model's shape on this device, and keep them in a profile.

    Args:
        model: a shape (`deit-small`), folder or Hub id, or several; weights are not needed. None: the built-in shapes.
        settings: further fields of `ProfileConfig`: `batch_sizes=[1, 8]`, `effort="quick"`, `plot="curves.html"`, ...;
            None stands for the default.

    Raises:
        PruneSearchError: for bad input, in one line.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    unknown = next((name for name in given if name not in _PROFILE), None)
    if unknown is not None:
        raise PruneSearchError(f"unknown setting '{unknown}' of a profile: {did_you_mean(unknown, _PROFILE)}")
    if model is not None:
        given["models"] = [model] if isinstance(model, str) else list(model)
    for name in {"plot", "root"} & given.keys():
        given[name] = Path(given[name])
    return measure_profile(ProfileConfig(**given))


def measure(
    model: nn.Module | str | Path,
    inputs: Mapping[str, Tensor] | int,
    schedules: Sequence[Plan | Schedule | Sequence[Stage]],
    *,
    seconds: float = 5.0,
    mode: str = "eager",
) -> pd.DataFrame:
    """Latencies of whole forwards under several schedules, interleaved in random order; the model is left as it was.

    Args:
        model: a supported model; or a shape (`deit-small`), folder or Hub id, with random weights, as time does not
            depend on them.
        inputs: a batch without padding, on its device; or so many random rows.
        schedules: an empty one is the unpruned model; of a plan, its changes of the model are made too.
        seconds: of wall time.
        mode: how forwards are executed.

    Returns:
        One row a schedule: `median_ms`, `p10_ms`, `p90_ms` of a batch, `speedup` over the first, `samples`.
    """
    chosen: list[Plan] = [Plan.of(as_planned(s)) for s in schedules]
    built = model if isinstance(model, nn.Module) else load_shape(str(model))
    batch = random_inputs(built, inputs) if isinstance(inputs, int) else inputs
    found = measure_schedules(built, batch, chosen, time_budget_s=seconds, min_rounds=10, mode=mode)
    rows = [
        {
            "schedule": str(schedule),
            "median_ms": s.median_ms,
            "p10_ms": s.p10_ms,
            "p90_ms": s.p90_ms,
            "speedup": found[0].median_ms / s.median_ms,
            "samples": len(s.ms),
        }
        for schedule, s in zip(chosen, found, strict=True)
    ]
    return pd.DataFrame(rows).set_index("schedule")


def devices() -> pd.DataFrame:
    """The device profiles, yours and the shipped ones: what each holds, and how far it can be trusted."""
    rows, _ = list_devices()
    return pd.DataFrame([row.to_dict() for row in rows]).set_index("name")
