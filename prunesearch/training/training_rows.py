"""Rows to train on: none of them is a calibration or holdout row, which is checked by what the model is given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.events import say, track
from prunesearch.study.setup import Setting
from prunesearch.tasks import load_task
from prunesearch.tasks.base import Task
from prunesearch.tasks.batching.batches import Batch, EvalSet
from prunesearch.tasks.data.readers.delimited import TextTable
from prunesearch.tasks.data.sources import DataSource, as_source
from prunesearch.tasks.data.split import ALIASES
from prunesearch.tasks.objects import task_of

_LEAST = 32  # rows: fewer teach nothing that lasts
_STOPPING = 10  # one row in so many tells when to stop
_MOST_STOPPING = 1000


@dataclass(frozen=True)
class TrainingRows:
    """What is trained on: rows of one or two splits, numbered through, of which some tell when to stop.

    Attributes:
        splits: where the rows are.
        learnt: int64 `[n, 2]`, split and number of each row that is trained on.
        stopping: likewise, of those that are not.
        labelled: whether labels are those of the model's task.
        digest: of all rows' contents, in their order.
        said: where they come from, for people.
    """

    splits: tuple[EvalSet, ...]
    learnt: Tensor
    stopping: Tensor
    labelled: bool
    digest: str
    said: str

    def pick(self, rows: Tensor) -> list[Batch]:
        """Rows `[b, 2]`, ready for the model: a batch for each split (and each number of texts) that they are of."""
        found: list[Batch] = []
        for number, split in enumerate(self.splits):
            mine = rows[rows[:, 0] == number, 1].tolist()
            found += split.batches.pick(mine, split.padding) if mine else []
        return found


def training_rows(setting: Setting, model: Any, data: Any = None, *, seed: int = 0) -> TrainingRows:
    """Rows for a model that a study is of.

    Args:
        setting: of the study, with its calibration and holdout rows.
        model: the model to train, in the dtype that it is trained in; its inputs are made for it.
        data: file, folder, Hub id or what else `task_of` takes; None: rows of the study's own data that are in neither
            of its splits, or those that the demo ships.
        seed: of the split.

    Raises:
        PruneSearchError: if nothing is left to train on.
    """
    given = _default_data(setting) if data is None else data
    task, said = _load(setting, model, given, seed)
    judged = {digest for split in setting.task.splits.values() for digest in row_digests(split, setting.task)}
    order = torch.Generator().manual_seed(seed)
    kept: list[tuple[int, int]] = []
    seen, whole, met = set(judged), hashlib.sha256(), 0
    splits = tuple(task.splits[role] for role in ("holdout", "train", "calibration") if role in task.splits)
    for number, split in enumerate(splits):
        for row, digest in enumerate(row_digests(split, setting.task)):
            met += digest in judged
            if digest not in seen:
                seen.add(digest)
                kept.append((number, row))
                whole.update(digest)
    if met:
        say(f"{met} rows are calibration or holdout rows, by their content, and are not trained on")
    if len(kept) < _LEAST:
        raise PruneSearchError(
            f"`rows >= {_LEAST}` must be there to train on, but {said} has {len(kept)} that are no calibration or "
            "holdout rows: give others with --train DATA"
        )
    rows = torch.tensor(kept)[torch.randperm(len(kept), generator=order)]
    stopping = min(_MOST_STOPPING, max(1, len(rows) // _STOPPING))
    labelled = _labelled(setting.task, task)
    return TrainingRows(splits, rows[stopping:], rows[:stopping], labelled, whole.hexdigest()[:16], said)


def _labelled(judged: Task, task: Task) -> bool:
    """Whether the rows' labels mean what those of the study's rows do."""
    if task.name == judged.name and task.label_names == judged.label_names:
        return True
    say("labels of the training rows are not those of the study's task: they are not used")
    return False


def _default_data(setting: Setting) -> Any:
    shipped = setting.source.training
    if shipped is not None:
        return shipped
    if setting.source.data is None:
        raise PruneSearchError("rows to train on must be given for a caller's own data: train=... (--train DATA)")
    return setting.source.data


def _load(setting: Setting, model: Any, data: Any, seed: int) -> tuple[Task, str]:
    """All rows as a task: some for calibration, the others for its holdout split; both are trained on."""
    config, source = setting.config, setting.source
    batching: dict[str, Any] = {"batch_size": config.eval_batch_size, "seed": seed}
    if not isinstance(data, str | Path | DataSource) and type(data).__name__ not in ("Dataset", "DatasetDict"):
        whole = data if isinstance(data, Mapping) and "holdout" in data else {"calibration": data, "holdout": data}
        return task_of(model, whole, **batching), "the data given"  # rows that are in both count once
    reading = TextTable(config.delimiter, config.header, tuple(config.columns.values()), config.skip_bad)
    rows = _training_part(as_source(data, reading))
    mine = isinstance(model, PreTrainedModel) and bool(model.name_or_path)
    first = next(iter(model.parameters()))
    made = load_task(
        model if mine else str(source.id),
        rows,
        task=setting.task.name,
        columns=config.columns,
        metric=config.metric,
        dtype=str(first.dtype).removeprefix("torch."),
        device=str(first.device),
        attention=setting.target.attention(config.attention),
        calibration=1,
        whole=True,
        length=config.length,
        skip_bad=config.skip_bad,
        **batching,
    )
    return made, rows.name


def _training_part(source: DataSource) -> DataSource:
    """The split of training rows, the only one, or all of them where the study's own data have none of that name."""
    name = next((name for name in ALIASES["train"] if name in source.splits), None)
    if name is not None:
        return replace(source, splits={name: source.splits[name]})
    if len(source.splits) == 1:
        return source
    first = next(iter(source.splits))  # what a search calibrates on; the content of its rows is left out
    return replace(source, splits={first: source.splits[first]})


def row_digests(split: EvalSet, judged: Task) -> Iterator[bytes]:
    """A digest of what the model is given of each row, in the order of their numbers; padding is no part of it.

    Args:
        split: the rows, in any floating-point dtype.
        judged: the task whose dtype inputs are compared in.
    """
    dtype = next(judged.model.parameters()).dtype
    found: dict[int, bytes] = {}
    for place in track(range(len(split.batches)), len(split.batches), f"Reading {split.name} rows"):
        batch = split.batches.bare(place)
        for at, number in enumerate(batch.index.tolist()):
            found[number] = _digest(batch, at, split.padding, dtype)
    return (found[number] for number in sorted(found))


def _digest(batch: Batch, place: int, padding: Mapping[str, int], dtype: torch.dtype) -> bytes:
    made = hashlib.blake2b(digest_size=16)
    mask = batch.inputs.get("attention_mask")
    for name in sorted(batch.inputs):
        if name.startswith("decoder_"):
            continue  # what is to be written: a label
        row = batch.inputs[name][place]
        if mask is not None and name in padding and mask[place].shape == row.shape:
            row = row[mask[place].bool()]
        row = row.detach().to(dtype) if row.is_floating_point() else row
        made.update(name.encode())
        made.update(np.ascontiguousarray(row.cpu().contiguous().view(torch.uint8).numpy()).tobytes())
    return made.digest()
