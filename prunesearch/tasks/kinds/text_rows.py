"""Rows of several texts: the windows of a context, a pair, a query and its documents.

Inputs are `[b, texts, n]`, and a model sees all of them as one batch. The rows of a batch have the same number of
texts, so that none is there for padding.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch import nn

from prunesearch.tasks.batching.batches import Batch, EvalSet, Held, Inputs, Labels, chunks, rows_of
from prunesearch.tasks.kinds.text import padded, padding_values
from prunesearch.tasks.loading import accepted, check_known, to_device
from prunesearch.tasks.request import TaskRequest


def single_texts(inputs: Inputs) -> Inputs:
    """The texts of all rows as rows of their own: `[b, texts, n]` -> `[b * texts, n]`."""
    return {name: value.flatten(0, 1) for name, value in inputs.items()}


def bucket_rows(
    role: str,
    encoded: list[list[dict[str, list[int]]]],
    labels: Labels,
    tokenizer: Any,
    model: nn.Module,
    request: TaskRequest,
) -> EvalSet:
    """Batch rows of as many texts and of like length, padded on the right: inputs `[b, texts, n]`.

    A batch has `request.batch_size` texts at most, but one row at least.

    Args:
        role: name of the split.
        encoded: tokenised texts of every row.
        labels: of all rows `[n, ...]`, on the device they stay on, or a list.
    """
    check_known(tokenizer, (text["input_ids"] for row in encoded for text in row), request.source.name)
    padding = padding_values(tokenizer, encoded[0][0])
    longest = [max(len(text["input_ids"]) for text in row) for row in encoded]
    order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i]), longest[i]))
    batches = []
    for texts, alike in groupby(order, key=lambda i: len(encoded[i])):
        for rows in chunks(alike, max(1, request.batch_size // texts)):
            filled = {
                name: padded([text[name] for i in rows for text in encoded[i]], fill).view(len(rows), texts, -1)
                for name, fill in padding.items()
            }
            inputs = to_device(accepted(model, filled), request.device, request.dtype)
            index = torch.tensor(rows)
            batches.append(Batch(inputs, rows_of(labels, index), index))
    return EvalSet(role, Held(batches), {name: padding[name] for name in batches[0].inputs})
