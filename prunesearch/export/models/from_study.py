"""A point of a study as a model: its own model and data are loaded again, on the CPU, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunesearch.compress.fits import Fits
from prunesearch.core.errors import PruneSearchError
from prunesearch.export.models.card import write_card
from prunesearch.export.models.model_format import ModelFormat, ModelOptions, ModelSource
from prunesearch.export.models.record import ModelExport
from prunesearch.export.models.write import check_changes, check_methods, check_output, export_model, find_model_format
from prunesearch.export.pick import pick
from prunesearch.export.schedules.native import provenance_of
from prunesearch.pruning.forward.artefacts import with_weights
from prunesearch.study.config import RunConfig
from prunesearch.study.front import Front
from prunesearch.study.front_items import Point
from prunesearch.study.setup import make_setting
from prunesearch.tasks.base import Task
from prunesearch.tasks.quality import inputs_to_calibrate, quality_of, unjudged

# what a graph is traced with; runtimes choose their own kernels
_ROWS = 1024  # holdout rows that a float format is tried on: its outputs were compared already
TRACED = {"device": "cpu", "dtype": "float32", "attention": "sdpa", "mode": "eager", "concurrency": 1}


def export_study_model(
    front: Front,
    spec: str,
    to: str,
    path: Path,
    *,
    options: ModelOptions,
    seconds: float | None = 20.0,
    task: Task | None = None,
    model: nn.Module | None = None,
    weights: Path | None = None,
    fits: Fits | None = None,
) -> ModelExport:
    """Write the point that `spec` picks as a model of the format `to`; see `write.export_model`.

    The quality of what was written is measured on holdout rows, beside the study's own of the same point: on all of
    them in fewer bits, which change outputs by design, else on `_ROWS`. A study of a caller's own model takes it again:
    `task` is the model with its data, on the CPU in float32; `model` alone goes with the data that the study names.
    A tuned point is written with its weights, from the study's folder of them, `weights`; one whose halves of blocks
    are smaller with what the study fitted for them, `fits`.

    Raises:
        PruneSearchError: for an unknown format or pick, a path that is taken, or a model or data set that is gone.
    """
    target = find_model_format(to)
    point = pick(front, spec)
    check_output(path, target, options)  # before anything is loaded
    plan = point.to_plan()
    check_methods(plan.schedule, target)
    check_changes(plan, target)
    own = {"attention": front.config["attention"]} if task is not None or model is not None else {}
    config = RunConfig(**{**front.config, **TRACED, **own})
    setting = make_setting(config, task=task, model=model)
    task = setting.task
    graph = target.applied  # a graph is all that is left of the model, and has to hold the answers
    with with_weights(task.model, plan, weights) as at_work:
        source = ModelSource(
            model=task.answering if graph else task.model,
            schedule=at_work.schedule,
            changes=at_work.changes,
            fits=fits or {},
            inputs=task.timing_inputs(config.batch_size),
            model_id=setting.source.id,
            provenance=provenance_of(point, front),
            seed=config.seed,
            calibration=inputs_to_calibrate(task, task.timing_inputs(1)) if graph else (),
        )
        done = export_model(source, target, path, options=options, seconds=seconds)
        written_in = source.written_in(options)
        done = replace(done, **_quality(task, target, done, front, point, source.inputs, written_in=written_in))
        write_card(done, source)
    return done


def _quality(
    task: Task,
    target: ModelFormat,
    done: ModelExport,
    front: Front,
    point: Point,
    inputs: Mapping[str, Tensor],
    *,
    written_in: str,
) -> dict[str, Any]:
    """The fields of `ModelExport` on quality: the study's own beside that of what was written, in its runtime."""
    served = None if target.open is None else task.served_by(target.open(done.path))
    why = "" if served is not None else unjudged(task, done.outputs)
    if why:
        return {"unmeasured": why}
    split = task.holdout if written_in else task.holdout.take(_ROWS)
    task = served or task
    run = target.load(done.path) if served is None else served.model
    fixed = {name: inputs[name].shape[-1] for name in split.padding if name in inputs} if target.applied else {}
    try:
        found = quality_of(task, lambda **given: run(given), split, fixed)
    except PruneSearchError as error:
        return {"unmeasured": str(error)}
    longer = f", {found.left_out} longer ones left out" if found.left_out else ""
    said = f"pruned in {', '.join(filter(None, (done.runtime, written_in)))} ({found.rows} rows{longer})"
    return {
        "quality": {
            f"{task.metric} unpruned": front.unpruned.quality.value,
            f"pruned ({front.task.holdout} rows)": point.quality.value,
            said: found.value,
        }
    }
