"""What `--length buckets` means: the lengths that rows of the data have, each with its share of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from prunesearch.core.errors import PruneSearchError
from prunesearch.study.config import Load, RunConfig
from prunesearch.tasks.base import Task
from prunesearch.tasks.kinds.text import MULTIPLE

BUCKETS = 4  # quarters of the rows


def bucket_loads(lengths: Sequence[int], batch_size: int) -> list[Load]:
    """One load a quarter of the rows, ordered by length: at the middle row's length, rounded up to a multiple of 8.

    Batches of like length have hardly any padding, and neither have these: the unpruned model is measured at the same
    lengths, so that what bucketing saves by itself is no gain of pruning. Quarters of one length are one load.

    Args:
        lengths: tokens of the rows, padding left out.
        batch_size: of every load.

    Returns:
        The loads, longest first; weights are shares of the rows.
    """
    middles = np.quantile(lengths, (np.arange(BUCKETS) + 0.5) / BUCKETS, method="higher")
    rounded = Counter(max(MULTIPLE, math.ceil(n / MULTIPLE) * MULTIPLE) for n in middles.tolist())
    return [
        Load(batch_size=batch_size, length=length, weight=quarters / BUCKETS)
        for length, quarters in sorted(rounded.items(), reverse=True)
    ]


def with_buckets(config: RunConfig, task: Task) -> tuple[RunConfig, Task]:
    """The configuration with the lengths of the data in it, and the task at the longest; as they are without buckets.

    Raises:
        PruneSearchError: if every row of the data has as many tokens.
    """
    if not config.length_buckets:
        return config, task
    if not task.lengths or task.timing_at is None:
        raise PruneSearchError(
            f"this model reads {task.tokens} tokens whatever the row, but got --length buckets: leave it out"
        )
    loads = bucket_loads(task.lengths, config.batch_size)
    changed = {"loads": loads if len(loads) > 1 else [], "length": loads[0].length}
    said = ", ".join(f"{load.length} ({load.weight:.0%})" for load in loads)
    note = f"latency is measured at the lengths of the calibration rows, by quarters: {said}"
    task = replace(task, notes=[*(n for n in task.notes if not n.startswith("latency is measured at")), note])
    return config.model_copy(update=changed), task.at_length(loads[0].length)
