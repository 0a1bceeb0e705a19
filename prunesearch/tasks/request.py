"""What a user asked for, checked and read as far as no model weights are needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.columns import content_kind
from prunesearch.tasks.data import Source
from prunesearch.tasks.split import Sizes

IMAGE, TEXT = "image-classification", "text-classification"
HEADS = {
    "ForImageClassification": IMAGE,
    "ForImageClassificationWithTeacher": IMAGE,
    "ForSequenceClassification": TEXT,
}
BODIES = ("Model", "ForMaskedLM", "ForPreTraining", "ForMaskedImageModeling")


@dataclass(frozen=True)
class TaskRequest:
    """Everything that a task's loader needs; `config` is the model's Hugging Face configuration."""

    model_id: str
    config: Any
    source: Source
    columns: dict[str, str]
    batch_size: int
    dtype: torch.dtype
    device: torch.device
    attention: str
    sizes: Sizes
    seed: int
    length: int | None
    quiet: bool


def head_of(config: Any) -> str | None:
    """Return the task whose head the checkpoint carries, or None when it has neither of them."""
    for architecture in config.architectures or []:
        for ending, task in HEADS.items():
            if architecture.endswith(ending):
                return task
    return None


def infer_task(request: TaskRequest) -> str:
    """Infer the task from the checkpoint's head, else (a bare encoder) from the columns of the data."""
    head = head_of(request.config)
    if head is not None:
        return head
    names = ", ".join(request.config.architectures or ["no architecture"])
    supported = f"supported are {IMAGE} and {TEXT}"
    if not names.endswith((*BODIES, "no architecture")):
        raise PruneSearchError(
            f"no task is known for '{request.model_id}' ({names}): {supported}; choose one with task"
        )
    rows = next(iter(request.source.splits.values()))
    kind = content_kind(rows, request.columns)
    if kind is None:
        raise PruneSearchError(
            f"'{request.model_id}' has no head ({names}) and '{request.source.name}' has no text or image "
            f"column ({', '.join(rows.column_names)}): {supported}; name the column with columns"
        )
    return IMAGE if kind == "image" else TEXT
