"""A point of a study as a model: its own model and data are loaded again, on the CPU, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from prunesearch.core.errors import PruneSearchError
from prunesearch.cost.timing.runtimes import Forward
from prunesearch.export.models.card import write_card
from prunesearch.export.models.model_format import ModelOptions, ModelSource
from prunesearch.export.models.record import ModelExport
from prunesearch.export.models.write import check_methods, check_output, export_model, find_model_format
from prunesearch.export.pick import pick
from prunesearch.export.schedules.native import provenance_of
from prunesearch.study.config import RunConfig
from prunesearch.study.front import Front
from prunesearch.study.setup import load_study_task, resolve_model
from prunesearch.tasks.base import EvalSet
from prunesearch.tasks.kinds.classification import Classification

# what a graph is traced with; runtimes choose their own kernels
_TRACED = {"device": "cpu", "dtype": "float32", "attention": "sdpa", "mode": "eager", "concurrency": 1}


def export_study_model(
    front: Front, spec: str, to: str, path: Path, *, options: ModelOptions, seconds: float | None = 20.0
) -> ModelExport:
    """Write the point that `spec` picks as a model of the format `to`; see `write.export_model`.

    With int8 the quality is measured on the holdout rows, beside the study's own of the same point.

    Raises:
        PruneSearchError: for an unknown format or pick, a path that is taken, or a model or data set that is gone.
    """
    target = find_model_format(to)
    point = pick(front, spec)
    check_output(path, target, options)  # before anything is loaded
    check_methods(point.to_schedule(), target)
    config = RunConfig.build(**{**front.config, **_TRACED})
    task = load_study_task(config)
    if options.int8 and not isinstance(task, Classification):
        raise PruneSearchError(f"the quality in int8 is known for classifiers alone, but the task is {task.name}")
    source = ModelSource(
        model=task.model,
        schedule=point.to_schedule(),
        inputs=task.timing_inputs(config.batch_size),
        model_id=resolve_model(config).id,
        provenance=provenance_of(point, front),
        seed=config.seed,
    )
    done = export_model(source, target, path, options=options, seconds=seconds)
    if options.int8:
        rows, accuracy = holdout_accuracy(target.load(path), task.holdout, source.inputs)
        quality = {
            "unpruned": front.unpruned.quality.value,
            "pruned": point.quality.value,
            f"pruned in int8 ({rows} rows)": accuracy,
        }
        done = replace(done, quality=quality)
        write_card(done, source)
    return done


def holdout_accuracy(forward: Forward, split: EvalSet, inputs: Mapping[str, Tensor]) -> tuple[int, float]:
    """Rows that a graph could take, and the share of them that it got right.

    A graph of texts has one length, that of `inputs`: shorter rows are padded to it, longer ones left out.
    """
    right = rows = 0
    length = inputs["input_ids"].shape[1] if "input_ids" in inputs else None
    for batch in split.batches:
        given, labels = dict(batch.inputs), torch.as_tensor(batch.labels)
        if length is not None:
            fits = given["attention_mask"].sum(1) <= length
            given = {n: _at_length(v[fits], length, split.padding.get(n, 0)) for n, v in given.items()}
            labels = labels[fits]
        if len(labels):
            right += int((forward(given).argmax(-1) == labels).sum())
            rows += len(labels)
    return rows, right / max(rows, 1)


def _at_length(x: Tensor, length: int, fill: int) -> Tensor:
    """`[b, n]` padded on the right, or cut of padding, to `[b, length]`."""
    cut = x[:, :length]
    return torch.nn.functional.pad(cut, (0, length - cut.shape[1]), value=fill)
