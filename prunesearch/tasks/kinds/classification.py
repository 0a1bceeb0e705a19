"""Tasks whose model gives every row one vector of class logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.base import Forward, Outputs, Prepared, Task, named
from prunesearch.tasks.batching.batches import Batch
from prunesearch.tasks.data.columns import Columns, find_columns
from prunesearch.tasks.data.labels import head_labels
from prunesearch.tasks.data.split import Sizes, Splits, make_splits
from prunesearch.tasks.loading import missing_note
from prunesearch.tasks.metrics.metric import agreement, kl_divergence
from prunesearch.tasks.request import TaskRequest
from prunesearch.tasks.table import metric_facts

Prepare = Callable[[TaskRequest, Splits, Columns, nn.Module], Prepared]


@dataclass
class Classification(Task):
    """Rows in classes; labels are class ids, int64 `[b]`, and answers are logits `[b, classes]`."""

    def logits(self, outputs: Any) -> Tensor:
        """Return the logits `[batch, classes]` of what a forward returned."""
        return logits_of(outputs)

    def outputs(self, forward: Forward, batch: Batch) -> Outputs:
        """The logits `[b, classes]`."""
        return {"logits": self.logits(forward(**batch.inputs))}

    def divergence(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """KL divergence of the predicted classes, nats `[b]`."""
        return kl_divergence(reference["logits"], outputs["logits"])

    def agrees(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Whether both choose the same class, `[b]`."""
        return agreement(reference["logits"], outputs["logits"])

    def answers(self, outputs: Outputs, batch: Batch) -> Tensor:
        """The logits `[b, classes]`."""
        return outputs["logits"]

    def supervised(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Cross-entropy of the classes, nats `[b]`."""
        return nn.functional.cross_entropy(outputs["logits"].float(), torch.as_tensor(batch.labels), reduction="none")

    def shown(self, outputs: Outputs, batch: Batch) -> list[str]:
        """The predicted classes' names."""
        return [self._name(int(label)) for label in outputs["logits"].argmax(dim=-1)]

    def shown_labels(self, batch: Batch) -> list[str]:
        """The true classes' names."""
        return [self._name(int(label)) for label in batch.labels]

    def _name(self, label: int) -> str:
        return self.label_names[label] if label < len(self.label_names) else str(label)


def logits_of(outputs: Any) -> Tensor:
    """Return the logits of a model's outputs; of a tuple the first one, and a tensor itself.

    Raises:
        PruneSearchError: if there are none.
    """
    found = outputs if isinstance(outputs, Tensor) else named(outputs, "logits")
    if found is None and isinstance(outputs, Sequence):
        found = outputs[0]
    if not isinstance(found, Tensor):
        raise PruneSearchError(f"model outputs must hold logits, but got {type(outputs).__name__}: use a classifier")
    return found


def check_classes(metric: str, names: list[str]) -> None:
    """Raise `PruneSearchError` for a metric of so many classes where there are others."""
    row = metric_facts(metric)
    if row.classes is not None and len(names) != row.classes:
        raise PruneSearchError(
            f"metric {metric} is of {row.classes} classes, but there are {len(names)}: use {row.otherwise}"
        )
    if row.beyond is not None and len(names) <= row.beyond:
        raise PruneSearchError(
            f"metric {metric} is 1 for every model of {row.beyond} classes or fewer, and there are {len(names)}: use "
            f"{row.otherwise}"
        )


def load_classifier(
    request: TaskRequest, task: str, kind: str, auto: Any, prepare: Prepare, sizes: Sizes | None = None
) -> tuple[Classification, Splits, Columns]:
    """Load a checkpoint with a classification head, and rows that are no text.

    Args:
        task: name of the kind of task.
        kind: of the column: image, audio or video.
        auto: transformers' class that loads the model.
        prepare: preprocesses the rows of all splits.
        sizes: of the splits; None: those asked for.

    Returns:
        The task, and the splits and columns that it was made of.
    """
    metric, first = request.metric_of(task), next(iter(request.source.splits.values()))
    columns, id2label = find_columns(request.source, first, kind, request.columns), request.config.id2label
    splits = make_splits(
        request.source,
        columns,
        lambda raw, names: head_labels(raw, names, id2label),
        request.sizes if sizes is None else sizes,
        seed=request.seed,
    )
    check_classes(metric, splits.label_names)
    model, missing = request.load_model(auto)
    rows = prepare(request, splits, columns, model)
    notes = [f"columns: {columns}", *request.source.notes, *splits.notes, *missing_note(missing), *rows.notes]
    made = Classification(
        name=task,
        model=model,
        label_names=splits.label_names,
        metric=metric,
        notes=notes,
        **rows.for_task,
    )
    return made, splits, columns
