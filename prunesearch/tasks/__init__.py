"""Tasks: a model, its data and its metric, loaded from a model id and a data set.

A new kind of task is one row in `table.TASKS` and one function `(TaskRequest) -> Task`. Importing this package
imports no torch; `load_task` does.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.table import METRICS, TASKS

if TYPE_CHECKING:
    from datasets.arrow_dataset import Dataset
    from datasets.dataset_dict import DatasetDict
    from torch import nn

    from prunesearch.tasks.base import Task
    from prunesearch.tasks.batching.groups import Grouping
    from prunesearch.tasks.data.sources import DataSource
    from prunesearch.tasks.views.alter import Alterations

__all__ = ["METRICS", "TASKS", "load_task"]


def load_task(
    model: str | Path | nn.Module,
    data: str | Path | Dataset | DatasetDict | DataSource,
    *,
    task: str = "auto",
    columns: dict[str, str] | None = None,
    metric: str | None = None,
    batch_size: int = 32,
    dtype: str = "float32",
    device: str = "cpu",
    attention: str = "sdpa",
    calibration: int | None = None,
    holdout: int | None = None,
    train: int | None = None,
    seed: int = 0,
    length: int | None = None,
    processor: Any = None,
    delimiter: str | None = None,
    header: bool | None = None,
    skip_bad: bool = False,
    whole: bool = False,
    views: Alterations | None = None,
    group: str | None = None,
) -> Task:
    """Load a model and its data, and cache both splits as batches.

    `model` is a folder, a Hub id, or a transformers model, which is taken as it is (`dtype`, `device` and `attention`
    are then its own) with the tokenizer or `processor` given, or that of the checkpoint it came from. `data` is a
    parquet, CSV, TSV or JSON lines file, a folder of class folders, a folder saved by `datasets` or in BEIR's form, a
    Hub id (`owner/name[:config]`), two files "calibration,holdout", or a `datasets.Dataset` or `DatasetDict`.
    `columns` names columns by role (image, text, text_pair, label); text, text_pair
    and label are words (text) and tags, question, context and answers, source and reference (label), or
    query, documents and relevance, as the kind of task has them.
    `calibration`, `holdout` and `train` (rows to fit a head on, where the checkpoint has none) are row
    counts. `length` is the number of tokens to measure a text model at. `task` is a name in `TASKS` or
    "auto"; `metric` a name in `METRICS` that this kind of task has, None for its default.

    `delimiter` (one character) and `header` (whether the first row names the columns) are of CSV and TSV files; None:
    as they look. `skip_bad` leaves out rows that cannot be read or decoded, and counts them in a note, where they are
    an error otherwise. `whole`: all rows are used, those that are not calibration rows for the holdout split. `views`
    are further splits, `holdout@fog`, of rows of the two that judge. `group` names a column that says which group a row
    belongs to.

    Raises `PruneSearchError`, in one line, for whatever cannot be loaded or does not fit together. Batches made by the
    caller: `objects.task_of`.
    """
    from prunesearch.pruning.families.find import check_model_type
    from prunesearch.tasks.batching.groups import Grouping as Groups
    from prunesearch.tasks.data.columns import by_role
    from prunesearch.tasks.data.readers.delimited import TextTable
    from prunesearch.tasks.data.sources import as_source
    from prunesearch.tasks.data.split import Sizes
    from prunesearch.tasks.loading import check_device, check_dtype, given_model, load_config
    from prunesearch.tasks.request import TaskRequest, check_head, infer_task

    if task != "auto":
        TASKS.entry(task)
    if metric is not None:
        METRICS.entry(metric)
    if batch_size < 1:
        raise PruneSearchError(f"`batch_size >= 1` must hold, but got {batch_size}")
    given = None
    if isinstance(model, (str, Path)):
        model_id, config = str(model), load_config(str(model))
        weights: dict[str, Any] = {
            "dtype": check_dtype(dtype),
            "device": check_device(device),
            "attention": attention,
        }
    else:
        given, model_id = given_model(model, processor)
        config, first = copy.copy(given.config), next(given.parameters())
        config.architectures = [type(given).__name__]  # one that was never saved names none
        weights = {"dtype": first.dtype, "device": first.device, "attention": config._attn_implementation}
    check_model_type(config.model_type)
    check_head(config, model_id, task)
    named = (*(columns or {}).values(), *([] if group is None else [group]))
    source = as_source(data, TextTable(delimiter, header, named, skip_bad))
    grouping = None if group is None else Groups(group)
    if grouping is not None:
        grouping.check(source.name, source.splits)
    request = TaskRequest(
        model_id=model_id,
        config=config,
        source=replace(source, views=views, grouping=grouping),
        columns=by_role(columns or {}),
        batch_size=batch_size,
        sizes=Sizes.whole(calibration or 1) if whole else Sizes(calibration, holdout, train),
        seed=seed,
        length=length,
        metric=metric,
        given=given,
        **weights,
    )
    kind = infer_task(request) if task == "auto" else task
    if views is not None and not TASKS.entry(kind).views:
        able = ", ".join(name for name, row in TASKS.entries().items() if row.views)
        raise PruneSearchError(
            f"task {kind} has no views of its rows (its labels are tied to what they hold): leave --robust out, or use "
            f"one of {able}"
        )
    loaded: Task = TASKS.load(kind)(request)
    loaded.check_measure()
    if grouping is not None:
        _take_groups(loaded, grouping)
    inferred = " (from the model's head and the data)" if task == "auto" else ""
    loaded.notes.append(f"task: {loaded.name}{inferred}; metric: {loaded.metric}")
    return loaded


def _take_groups(task: Task, grouping: Grouping) -> None:
    """Let a task know the groups of its rows.

    Raises:
        PruneSearchError: if what it judges are not the rows of the data, one by one.
    """
    split = task.splits["holdout"]
    if len(grouping.values.get("holdout", [])) != split.n:
        raise PruneSearchError(
            f"groups are of rows, but task {task.name} judges {split.n} things that are not one a row: leave --group "
            "out"
        )
    task.groups = dict(grouping.values)
    task.notes.append(f"groups: column '{grouping.column}', {len(set(task.groups['holdout']))} in the holdout rows")
