"""Batches, metrics and evaluations that a caller of the library made, as a task."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets.arrow_dataset import Dataset
from datasets.dataset_dict import DatasetDict
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.pruning.families.find import find_encoder
from prunesearch.tasks import load_task
from prunesearch.tasks.base import Forward, Outputs, Task, named
from prunesearch.tasks.batching.batches import Batch, EvalSet, Held, Inputs, Labels, merge_batches
from prunesearch.tasks.data.split import CAPS, stratified_order
from prunesearch.tasks.kinds.fidelity import Fidelity, label_by_itself
from prunesearch.tasks.kinds.head_outputs import HeadOutputs, head_of_problem, spread_of
from prunesearch.tasks.kinds.image import repeat_rows
from prunesearch.tasks.loading import count_tokens, to_device
from prunesearch.tasks.metrics.own import RowFunction, Scorer, Whole, WholeModel
from prunesearch.tasks.request import output_names
from prunesearch.tasks.table import CLASSES, FIDELITY, NUMBERS, fidelity_metric

_LABELS = ("labels", "label")
_ROLES = ("calibration", "holdout")
_SAMPLED = 64  # values of a tensor that a digest looks at
_MULTIPLE = 8  # a length that latency is measured at is one of these


def task_of(
    model: str | Path | nn.Module,
    data: Any,
    *,
    metric: str | Scorer | None = None,
    evaluate: Whole | None = None,
    batch_size: int = 64,
    calibration: int | None = None,
    holdout: int | None = None,
    seed: int = 0,
    **loading: Any,
) -> Task:
    """A task of whatever a caller has.

    Args:
        model: a folder, a Hub id, a transformers model, or a module around one.
        data: what `load_task` takes; or batches of one's own, which need a model object: `(inputs, labels)`, a
            DataLoader (or any iterable) of `(inputs, labels)` or of dictionaries with "labels", or a dictionary of two
            of these, "calibration" and "holdout". Inputs are a dictionary of tensors, rows first, or one tensor.
        metric: a name in `METRICS`, or a function `(outputs, labels) -> [b]`, higher is better (`RowFunction`).
        evaluate: `(model) -> float`, higher is better, in place of a metric: slower, and without intervals.
        batch_size: rows in a batch whose quality is measured.
        calibration, holdout: rows of each split; None: from the data.
        seed: of the split.
        loading: further arguments of `load_task`, for data that it loads.

    Raises:
        PruneSearchError: for what does not fit together, in one line.
    """
    if metric is not None and evaluate is not None:
        raise PruneSearchError("quality is a metric or an evaluation of one's own, but got both: leave one out")
    known = metric if isinstance(metric, str) else None
    sizes = {"calibration": calibration, "holdout": holdout}
    if isinstance(data, (str, Path, Dataset, DatasetDict)):
        task = load_task(
            model,
            data,
            metric=known,
            batch_size=batch_size,
            seed=seed,
            calibration=calibration,
            holdout=holdout,
            **loading,
        )
    else:
        if isinstance(model, (str, Path)):
            raise PruneSearchError(
                f"batches of one's own need the model object that they are for, but got '{model}': load it, or give "
                "data as a file, a folder, a Hub id or a datasets.Dataset"
            )
        unused = [name for name, value in loading.items() if value is not None]
        if unused:
            raise PruneSearchError(f"`{unused[0]}` is for data that is loaded, but got batches: leave it out")
        task = _own_batches(model, data, batch_size, sizes, seed, labelled=metric is not None or evaluate is not None)
        if known is not None and task.metric != known:
            raise PruneSearchError(f"metric '{known}' is for data that is loaded: give a function (outputs, labels)")
    if evaluate is not None:
        task.own = WholeModel(evaluate, task.model)
        task.notes.append(f"quality is `{task.own.name}(model)`, one number a schedule: no interval can be told")
    elif metric is not None and not isinstance(metric, str):
        task.own = RowFunction(metric)
        task.notes.append(f"quality is the mean of `{task.own.name}(outputs, labels)` over the rows")
    if task.own is not None:
        task.metric = task.own.name
    return task


@dataclass
class OwnBatches(Fidelity):
    """A model object on batches of the caller's: classes where there are, else what a function makes of raw outputs."""

    def outputs(self, forward: Forward, batch: Batch) -> Outputs:
        """Logits `[b, k]`, or any other output as `[b, width]` "state"; what a model returned as it is, "raw"."""
        raw = forward(**batch.inputs)
        found = raw if isinstance(raw, Tensor) else named(raw, "logits")
        if found is None and isinstance(raw, (tuple, list)):
            found = raw[0]
        if found is not None and found.ndim == 2:
            return {"logits": found, "raw": raw}
        if found is not None:
            return {"state": found.flatten(1), "raw": raw}
        return {**super().outputs(lambda **inputs: raw, batch), "raw": raw}

    def condensed(self, outputs: Outputs) -> Outputs:
        """Raw outputs only where a metric of the caller's is given them."""
        return outputs if self.own is not None else {name: x for name, x in outputs.items() if name != "raw"}

    def supervised(self, outputs: Outputs, batch: Batch) -> Tensor | None:
        """What fits the head, where the labels do."""
        fits = "logits" in outputs and self.name != FIDELITY and self.head.fits(batch.labels)
        return self.head.supervised(outputs["logits"], torch.as_tensor(batch.labels)) if fits else None

    def answers(self, outputs: Outputs, batch: Batch) -> Any:
        """Raw outputs for a function of the caller's, logits or states for the metrics of the house."""
        return super().answers(outputs, batch) if self.own is None else outputs["raw"]


def _own_batches(
    model: nn.Module, data: Any, batch_size: int, sizes: dict[str, int | None], seed: int, *, labelled: bool
) -> Task:
    encoder = find_encoder(model)
    if isinstance(data, Mapping) and set(data) == set(_ROLES):
        parts = {role: _whole(model, data[role]) for role in _ROLES}
        chosen = {role: torch.arange(len(part)) for role, part in parts.items()}
    else:
        part = _whole(model, data)
        chosen = _split(part, sizes, seed)
        parts = dict.fromkeys(_ROLES, part)
    padding = _padding(encoder.base.config, parts["calibration"].inputs)
    model.eval()
    sets = {}
    for role, part in parts.items():
        limit = sizes[role]
        rows = part.rows(chosen[role] if limit is None else chosen[role][:limit])
        sets[role] = _batched(role, rows, batch_size, padding)
    tokens, timing_inputs = _timed(model, sets["calibration"], padding)
    task = OwnBatches("own batches", model, sets, tokens, timing_inputs)
    task.notes = [f"batches given: {task.calibration.n} calibration and {task.holdout.n} holdout rows"]
    first = _first_outputs(task)
    head = _head(task, model, first) if "logits" in first else None
    task.head, task.metric = head or task.head, fidelity_metric(True) if head is None else head.metrics[0]
    fits = head is not None and all(head.fits(part.labels) for part in parts.values())
    if fits and head is not None:
        task.metric = head.labelled
        if not labelled:
            task.check_measure()
    elif not labelled:
        task.name = FIDELITY
        task.splits = {role: label_by_itself(task, data, task.head) for role, data in sets.items()}
        task.notes.append("no labels that fit the outputs: fidelity to the unpruned model's own outputs")
    return task


@torch.inference_mode()
def _first_outputs(task: OwnBatches) -> Outputs:
    return task.outputs(task.model, task.calibration.batches[0])


def _head(task: OwnBatches, model: nn.Module, first: Outputs) -> HeadOutputs:
    """What the outputs say: numbers, if there is one a row; else as the model's own configuration has it."""
    count, config = first["logits"].shape[1], getattr(model, "config", None)
    said = getattr(config, "problem_type", None)
    if said is None and count == 1:
        said = NUMBERS
    return head_of_problem(
        said or CLASSES,
        output_names(config) if len(output_names(config)) == count else (),
        lambda: spread_of(lambda batch: task.outputs(model, batch)["logits"], task.calibration),
    )


def _whole(model: nn.Module, data: Any) -> Batch:
    """All rows as one batch on the model's device; those of a shorter batch are padded by zeros, on the right."""
    if isinstance(data, Mapping):
        raise PruneSearchError(f"a dictionary of data has {' and '.join(_ROLES)}, but got {', '.join(map(str, data))}")
    pairs = [data] if _is_pair(data) else list(_batches(data))
    if not pairs:
        raise PruneSearchError("data must have rows, but no batch came: give a filled loader")
    first = next(model.parameters())
    batches, start = [], 0
    for given, labels in pairs:
        inputs = to_device(_inputs(model, given), first.device, first.dtype)
        n = len(next(iter(inputs.values())))
        if any(len(value) != n for value in inputs.values()) or (labels is not None and len(labels) != n):
            raise PruneSearchError(
                f"inputs and labels have their rows first, as many of each, but a batch has {n} rows"
            )
        batches.append(Batch(inputs, _labels(labels, n), torch.arange(start, start + n)))
        start += n
    names = {name for batch in batches for name in batch.inputs}
    return merge_batches(batches, dict.fromkeys(names & set(_padding(None, batches[0].inputs)), 0))


def _is_pair(data: Any) -> bool:
    """Whether data are `(inputs, labels)` rather than a list of batches."""
    return (
        isinstance(data, (tuple, list))
        and len(data) == 2
        and isinstance(data[0], (Mapping, Tensor))
        and not isinstance(data[1], Mapping)
    )


def _batches(data: Any) -> Iterable[tuple[Any, Any]]:
    if not isinstance(data, Iterable) or isinstance(data, (Tensor, str)):
        raise PruneSearchError(
            f"data must be a file, a folder, a Hub id, a datasets.Dataset, (inputs, labels) or a DataLoader, but got "
            f"{type(data).__name__}"
        )
    for batch in data:
        if isinstance(batch, Mapping):
            name = next((name for name in _LABELS if name in batch), None)
            yield {key: v for key, v in batch.items() if key != name}, None if name is None else batch[name]
        elif isinstance(batch, (tuple, list)) and len(batch) == 2:
            yield batch[0], batch[1]
        else:
            raise PruneSearchError(
                f"a batch is (inputs, labels) or a dictionary of tensors, but got {type(batch).__name__}"
            )


def _inputs(model: nn.Module, given: Any) -> Inputs:
    if isinstance(given, Tensor):
        return {_main_input(model): given}
    if isinstance(given, Mapping) and given and all(isinstance(value, Tensor) for value in given.values()):
        return dict(given)
    raise PruneSearchError(f"inputs are a tensor or a dictionary of tensors, but got {type(given).__name__}")


def _main_input(model: nn.Module) -> str:
    """The name of the input that a model is called with when there is one."""
    name = getattr(model, "main_input_name", None)
    return str(name) if name is not None else next(iter(inspect.signature(model.forward).parameters))


def _labels(labels: Any, n: int) -> Labels:
    if labels is None:
        return [None] * n
    return labels if isinstance(labels, Tensor) else list(labels)


def _are_classes(labels: Labels) -> bool:
    return isinstance(labels, Tensor) and labels.ndim == 1 and not labels.is_floating_point()


def _padding(config: Any, inputs: Inputs) -> dict[str, int]:
    """What fills a short row, where rows are texts."""
    if "attention_mask" not in inputs or "input_ids" not in inputs:
        return {}
    fill = {"input_ids": getattr(config, "pad_token_id", None) or 0}
    return {name: fill.get(name, 0) for name, value in inputs.items() if value.ndim == 2}


def _split(part: Batch, sizes: dict[str, int | None], seed: int) -> dict[str, Tensor]:
    """Rows of both splits: each class in its share, a third for calibration, the rest for the holdout."""
    n = len(part)
    classes = torch.as_tensor(part.labels).cpu().numpy() if _are_classes(part.labels) else np.zeros(n, dtype=np.int64)
    asked = sizes["calibration"]
    first = min(CAPS["calibration"], n // 3) if asked is None else asked
    second = sizes["holdout"] or min(CAPS["holdout"], n - first)
    if first < 1 or second < 1 or first + second > n:
        raise PruneSearchError(f"`calibration + holdout <= {n}` must hold, but got {first} + {second}: give more rows")
    order = torch.from_numpy(stratified_order(classes, seed))
    return {"calibration": order[:first], "holdout": order[first : first + second]}


def _batched(role: str, part: Batch, size: int, padding: Mapping[str, int]) -> EvalSet:
    """Rows in batches, those of like length together where they are texts; numbered as they come."""
    order = torch.arange(len(part))
    mask = part.inputs.get("attention_mask")
    if padding and mask is not None:
        order = torch.sort(mask.sum(-1).cpu(), stable=True).indices
    numbered = Batch(part.inputs, part.labels, torch.arange(len(part)))
    batches = []
    for rows in torch.split(order, size):
        batch = numbered.rows(rows)
        if padding:
            width = int(batch.inputs["attention_mask"].sum(-1).max())
            cut = {name: value[:, :width] if name in padding else value for name, value in batch.inputs.items()}
            batch = Batch(cut, batch.labels, batch.index)
        batches.append(batch)
    return EvalSet(role, Held(batches), padding)


def _timed(model: nn.Module, split: EvalSet, padding: Mapping[str, int]) -> tuple[int, Callable[[int], Inputs]]:
    """Tokens at which latency is measured, and batches of so many: of texts, the long rows cut to one length."""
    if not padding:
        return count_tokens(model, split.batches[0].inputs), repeat_rows(split)
    whole = merge_batches(list(split.batches), padding)
    lengths = whole.inputs["attention_mask"].sum(-1).cpu()
    typical = float(np.percentile(lengths.numpy(), 90, method="higher"))
    width = min(int(lengths.max()), math.ceil(typical / _MULTIPLE) * _MULTIPLE)
    long = whole.rows((lengths >= width).nonzero().flatten())
    cut = {name: value[:, :width] if name in padding else value for name, value in long.inputs.items()}
    full = EvalSet(split.name, Held([Batch(cut, long.labels, torch.arange(len(long)))]))
    return count_tokens(model, cut), repeat_rows(full)


def digest_of(task: Task) -> str:
    """A digest of a task's weights and rows: what tells two objects of one class apart. It looks at a part of each."""
    found = hashlib.sha256()
    for name, parameter in task.model.named_parameters():
        few = parameter.detach().flatten()[:_SAMPLED].float().cpu().contiguous()
        found.update(f"{name}{tuple(parameter.shape)}".encode() + few.numpy().tobytes())
    for name, split in task.splits.items():
        batch = split.batches[0]
        found.update(f"{name}{split.n}".encode())
        for value in batch.inputs.values():
            found.update(value.flatten()[:_SAMPLED].double().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
