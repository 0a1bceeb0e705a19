"""The loads whose latency counts: as typed, as several with weights, and as the lengths that the data have."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from prunesearch.core.errors import PruneSearchError

BUCKETS = 4  # quarters of the rows
_BUCKETS = "buckets"


class Load(BaseModel):
    """Rows of a batch, tokens of a text (None: the model's own, or from the data), the weight in a mean of loads.

    `answer`: tokens that are written behind it, where a model writes; None: as many as in the data on average.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: int = Field(ge=1)
    length: int | None = Field(default=None, ge=8)
    answer: int | None = Field(default=None, ge=2)
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)


def read_loads(given: Any) -> list[Any]:
    """Loads as they may be written: a batch size, `1:0.7` with its weight, a mapping, or a `Load`.

    Raises:
        PruneSearchError: for what is no number, or where some have a weight and some have none.
    """
    if not isinstance(given, list | tuple):
        raise PruneSearchError(f"loads are a list of batch sizes or loads, but got {given!r}")
    items = list(given)
    typed = _weighted("loads", [item for item in items if isinstance(item, int | str)])
    read = iter([{"batch_size": rows, "weight": weight} for rows, weight in typed])
    return [next(read) if isinstance(item, int | str) else item for item in items]


def spread_loads(batch_size: Any, length: Any) -> dict[str, Any]:
    """Settings of a run for a batch size and a length that may each be one or several.

    They are written `8`, `[1, 8]`, `["1:0.7", "8:0.3"]` or `{1: 0.7, 8: 0.3}`; a length may also be `buckets`, for
    lengths from the data. Several of both mean every combination; its weight is the product.

    Raises:
        PruneSearchError: for what is no number, or where some have a weight and some have none.
    """
    rows = _weighted("batch_size", _listed(batch_size))
    lengths = _listed(length)
    if _BUCKETS in lengths:
        if len(lengths) > 1 or len(rows) > 1:
            raise PruneSearchError("length buckets stands alone, beside one batch size: leave the others out")
        return {"length_buckets": True} | ({"batch_size": rows[0][0]} if rows else {})
    tokens = _weighted("length", lengths)
    if len(rows) < 2 and len(tokens) < 2:
        return {name: values[0][0] for name, values in (("batch_size", rows), ("length", tokens)) if values}
    if not rows:
        raise PruneSearchError("several lengths need a batch size beside them, as in batch size 8 and lengths 32 128")
    texts: list[tuple[int | None, float]] = [*tokens] or [(None, 1.0)]
    return {
        "loads": [
            {"batch_size": rows_of, "length": tokens_of, "weight": one * other}
            for rows_of, one in rows
            for tokens_of, other in texts
        ]
    }


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [f"{key}:{weight}" for key, weight in value.items()]
    return list(value) if isinstance(value, list | tuple | set) else [value]


def _weighted(name: str, values: Sequence[Any]) -> list[tuple[int, float]]:
    """Read `VALUE` or `VALUE:WEIGHT`; without weights all have 1."""
    found = []
    texts = [str(value) for value in values]
    for text in texts:
        value, colon, weight = text.partition(":")
        try:
            found.append((int(value), float(weight) if colon else 1.0))
        except ValueError:
            raise PruneSearchError(f"{name} takes whole numbers, or 1:0.7 with a weight, but got '{text}'") from None
    if len({":" in text for text in texts}) > 1:
        raise PruneSearchError(f"{name}: all values have a weight, or none has, but got {' '.join(texts)}")
    return found


def in_order(loads: Sequence[Load]) -> list[Load]:
    """The loads with the greatest length first, otherwise as they came.

    Raises:
        PruneSearchError: for a load that is named twice, and if some have a length and some have none.
    """
    if len({(load.batch_size, load.length) for load in loads}) < len(loads):
        raise PruneSearchError("a batch size, or a length, is named once: leave out the repeated one")
    if len({load.length is None for load in loads}) > 1:
        raise PruneSearchError("every load must name a length, or none may: give each one")
    return sorted(loads, key=lambda load: -(load.length or 0))


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
    from prunesearch.tasks.kinds.text import MULTIPLE  # with transformers behind it

    middles = np.quantile(lengths, (np.arange(BUCKETS) + 0.5) / BUCKETS, method="higher")
    rounded = Counter(max(MULTIPLE, math.ceil(n / MULTIPLE) * MULTIPLE) for n in middles.tolist())
    return [
        Load(batch_size=batch_size, length=length, weight=quarters / BUCKETS)
        for length, quarters in sorted(rounded.items(), reverse=True)
    ]
