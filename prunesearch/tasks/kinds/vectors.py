"""Tasks of heads whose outputs are numbers, or decisions about each of several classes, whatever the model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.base import Sample, Task
from prunesearch.tasks.batching.batches import EvalSet, rows_of
from prunesearch.tasks.data.answers import flag_columns, flags_of, number_columns, numbers_of
from prunesearch.tasks.data.columns import Columns, check_given, unlabelled_content
from prunesearch.tasks.data.image_cells import decode_image, raw_images
from prunesearch.tasks.data.split import SplitPart, Splits, split_rows
from prunesearch.tasks.kinds.classification import logits_of
from prunesearch.tasks.kinds.fidelity import LOADERS, class_of
from prunesearch.tasks.kinds.head_outputs import Headed, SomeClasses, SomeNumbers, activation_of, spread_of
from prunesearch.tasks.kinds.image import SAMPLES
from prunesearch.tasks.loading import missing_note
from prunesearch.tasks.request import TaskRequest, output_names
from prunesearch.tasks.table import MULTI_LABEL, REGRESSION


def load_regression_task(request: TaskRequest) -> Task:
    """Load a model whose head gives numbers, and rows with the numbers that it is to give."""
    names = output_names(request.config)
    found = _label_columns(request, REGRESSION, number_columns(_first(request), names))
    task, splits = _load(request, REGRESSION, found)
    labels = {role: numbers_of(part, found, len(names)) for role, part in splits.parts.items()}
    activation = activation_of(request.config, request.model_id)
    spread = spread_of(lambda batch: activation(logits_of(task.model(**batch.inputs))), task.calibration)
    task = replace(task, head=SomeNumbers(names, spread), activation=activation, label_names=[])
    return _labelled(task, labels, request)


def load_multi_label_task(request: TaskRequest) -> Task:
    """Load a model that decides about every class by itself, and rows that say which are on."""
    names = output_names(request.config)
    found = _label_columns(request, MULTI_LABEL, flag_columns(_first(request), names))
    task, splits = _load(request, MULTI_LABEL, found)
    labels = {role: flags_of(part, found, names) for role, part in splits.parts.items()}
    on = labels["calibration"].double().mean(dim=0)
    task.notes.append(
        f"{float(on.sum()):.2f} of {len(names)} classes are on in a row (mean of the calibration rows); a class is "
        "decided to be on above a probability of 0.5"
    )
    return _labelled(replace(task, head=SomeClasses(names), label_names=names), labels, request)


def _first(request: TaskRequest) -> Any:
    return next(iter(request.source.splits.values()))


def _label_columns(request: TaskRequest, kind: str, found: list[str]) -> list[str]:
    """The columns with the labels: the one given, else those found."""
    check_given(request.source, _first(request), request.columns)
    given = request.columns.get("label")
    if given is not None:
        return [given]
    if not found:
        names = output_names(request.config)
        wanted = "a number" if kind == REGRESSION else "lists of classes"
        each = f", or one column an output ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
        raise PruneSearchError(
            f"{kind} needs a column with {wanted}{each if len(names) > 1 else ''}, but '{request.source.name}' has "
            f"{', '.join(_first(request).column_names)}: name it with columns label=NAME"
        )
    return found


def _load(request: TaskRequest, kind: str, labels: Sequence[str]) -> tuple[Headed, Splits]:
    """The task without its labels."""
    metric, first = request.metric_of(kind), _first(request).remove_columns(list(labels))
    reads, columns = unlabelled_content(request.source, first, request.columns)
    splits = split_rows(request.source, columns, request.sizes, seed=request.seed, needed=labels)
    model, missing = request.load_model(class_of(request.config))
    rows = LOADERS[reads](request, splits, columns, model)
    named = labels[0] if len(labels) == 1 else f"{', '.join(labels[:4])}{', …' if len(labels) > 4 else ''}"
    notes = [f"columns: {columns}, label={named}", *request.source.notes, *splits.notes, *missing_note(missing)]
    made = Headed(
        name=kind,
        model=model,
        metric=metric,
        notes=[*notes, *rows.notes],
        samples=_samples(splits.parts["calibration"], columns, request),
        **rows.for_task,
    )
    return made, splits


def _labelled(task: Headed, labels: dict[str, Tensor], request: TaskRequest) -> Headed:
    """The task with labels of the rows of each split, and with those of its samples as a reader sees them."""
    sets = {role: with_labels(data, labels[role].to(request.device)) for role, data in task.splits.items()}
    shown = [replace(s, label=task.head.shown(labels["calibration"][s.index])) for s in task.samples]
    return replace(task, splits=sets, samples=shown)


def with_labels(data: EvalSet, labels: Tensor) -> EvalSet:
    """A split with the labels `[n, ...]` of its rows, by their number."""
    return replace(data, batches=data.batches.relabelled([rows_of(labels, rows) for rows in data.batches.numbers]))


def _samples(part: SplitPart, columns: Columns, request: TaskRequest) -> list[Sample]:
    """The first images or texts, to show."""
    count = min(SAMPLES, len(part.labels))
    if columns.image is not None:
        images = raw_images(part.rows, columns.image)
        base = request.source.base
        return [Sample(decode_image(images[i][columns.image], base), "", i) for i in range(count)]
    names = [name for name in (columns.text, columns.text_pair) if name is not None]
    if not names:
        return []
    return [Sample(" | ".join(str(part.rows[i][name]) for name in names), "", i) for i in range(count)]
