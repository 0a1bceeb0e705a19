"""What a user asked for, checked and read as far as no model weights are needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from datasets.arrow_dataset import Dataset
from torch import nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.data.answers import flag_columns, number_columns
from prunesearch.tasks.data.columns import content_kind, guess_label
from prunesearch.tasks.data.sources import DataSource
from prunesearch.tasks.data.split import Sizes
from prunesearch.tasks.loading import load_model
from prunesearch.tasks.table import (
    AUDIO,
    CLASSES,
    FIDELITY,
    FLAGS,
    IMAGE,
    NUMBERS,
    TASKS,
    TEXT,
    VIDEO,
    choose_metric,
)

BODIES = ("Model", "ForMaskedLM", "ForPreTraining", "ForMaskedImageModeling")
# what a config has that reads a kind of input; the first that fits says it
_READS = (
    ("video", ("num_frames", "video_size")),
    ("image", ("image_size", "vision_config", "backbone_config", "architecture")),  # the last: of a timm model
    ("audio", ("num_mel_bins", "conv_dim")),
    ("text", ("vocab_size",)),
)


@dataclass(frozen=True)
class TaskRequest:
    """Everything that a task's loader needs; `config` is the model's Hugging Face configuration.

    `metric` is what the user asked for, None for the kind of task's own; `metric_of` settles it.
    `given` is a model made by the caller, taken as it is; `model_id` then says where its tokenizer or processor is.
    """

    model_id: str
    config: Any
    source: DataSource
    columns: dict[str, str]
    batch_size: int
    dtype: torch.dtype
    device: torch.device
    attention: str
    sizes: Sizes
    seed: int
    length: int | None
    metric: str | None = None
    given: nn.Module | None = None

    def load_model(self, auto: Any, attention: str | dict[str, str] | None = None) -> tuple[nn.Module, list[str]]:
        """The model in eval mode, and the names of weights that its checkpoint lacks; see `loading.load_model`.

        Args:
            auto: transformers' class that loads it.
            attention: where its parts need one each; None: the one asked for.
        """
        if self.given is not None:
            return self.given.eval(), []
        chosen = self.attention if attention is None else attention
        return load_model(auto, self.model_id, dtype=self.dtype, device=self.device, attention=chosen)

    def metric_of(self, task: str) -> str:
        """The metric that a task of this kind reports; `PruneSearchError` if it has none of that name."""
        return choose_metric(task, self.metric)


def reads_of(config: Any) -> str | None:
    """What a model with this config reads: image, video, audio or text; None if that cannot be told."""
    return next((kind for kind, names in _READS if any(hasattr(config, name) for name in names)), None)


def head_of(config: Any) -> str | None:
    """Return the kind of task whose head the checkpoint carries (of several, the first), or None for a head of none."""
    return next(iter(_kinds_of(config)), None)


def _kinds_of(config: Any) -> list[str]:
    """The kinds of task that the checkpoint's head serves."""
    reads, heads, problem = reads_of(config), config.architectures or [], problem_of(config)
    return [
        name
        for name, kind in TASKS.entries().items()
        if kind.reads in (None, reads)
        and kind.problem in (None, problem)
        and any(head.endswith(kind.heads) for head in heads)
    ]


def _has_columns(task: str, rows: Dataset) -> bool:
    """Whether a table has columns that only data for this kind of task have."""
    return any(set(names) <= set(rows.column_names) for names in TASKS.entry(task).columns)


def check_head(config: Any, model_id: str, task: str) -> None:
    """Refuse a kind of task that was asked for, where the checkpoint's head says something else.

    Raises:
        PruneSearchError: naming the kinds that fit.
    """
    wanted = TASKS.entry(task).problem if task in TASKS else None
    ends = tuple(head for kind in TASKS.entries().values() if kind.unlabelled for head in kind.heads)
    heads = [name for name in config.architectures or [] if name.endswith(ends)]
    if wanted is None or not heads or problem_of(config) == wanted:
        return
    fitting = [name for name in _kinds_of(config) if TASKS.entry(name).problem is not None]
    raise PruneSearchError(
        f"task {task} is of heads for {wanted}, but '{model_id}' ({heads[0]}) is for {problem_of(config)}: use "
        f"{' or '.join(fitting)}"
    )


def problem_of(config: Any) -> str:
    """What the outputs of a classification head with this config say, in transformers' words."""
    said = getattr(config, "problem_type", None)
    return NUMBERS if said != FLAGS and len(output_names(config)) == 1 else str(said or CLASSES)


def _is_labelled(request: TaskRequest, problem: str | None, rows: Dataset) -> bool:
    """Whether data have a column of labels for a head that says what `problem` names."""
    if "label" in request.columns:
        return True
    names = output_names(request.config)
    if problem == NUMBERS:
        return bool(number_columns(rows, names))
    return bool(flag_columns(rows, names)) if problem == FLAGS else guess_label(rows) is not None


def output_names(config: Any) -> list[str]:
    """The names of a classification head's outputs, in their order."""
    return [str(name) for _, name in sorted((getattr(config, "id2label", None) or {}).items())]


def infer_task(request: TaskRequest) -> str:
    """Infer the task from the checkpoint's head, else (a bare encoder) from the columns of the data.

    Data without labels make it `fidelity`, where the head's own task needs them.
    """
    rows = next(iter(request.source.splits.values()))
    kinds = _kinds_of(request.config)
    head = next((k for k in kinds if _has_columns(k, rows)), next(iter(kinds), None))
    labelled = _is_labelled(request, None if head is None else TASKS.entry(head).problem, rows)
    if head is not None:
        kind, row = content_kind(rows, request.columns), TASKS.entry(head)
        return FIDELITY if row.unlabelled and not labelled and kind == (row.reads or kind) else head
    names = ", ".join(request.config.architectures or ["no architecture"])
    supported = f"supported are {', '.join(TASKS)}"
    if not names.endswith((*BODIES, "no architecture")):
        raise PruneSearchError(
            f"no task is known for '{request.model_id}' ({names}): {supported}; choose one with task"
        )
    without_head = [name for name, kind in TASKS.entries().items() if not kind.heads and _has_columns(name, rows)]
    if without_head:
        return without_head[0]
    kind = content_kind(rows, request.columns)
    if kind is None:
        raise PruneSearchError(
            f"'{request.model_id}' has no head ({names}) and '{request.source.name}' has no text, image, audio or "
            f"video column ({', '.join(rows.column_names)}): {supported}; name the column with columns"
        )
    if not labelled:
        return FIDELITY
    return {"image": IMAGE, "audio": AUDIO, "video": VIDEO}.get(kind, TEXT)
