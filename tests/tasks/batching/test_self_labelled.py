"""The unpruned model is asked for a row's label when it is needed, and once, however the rows are taken."""

from __future__ import annotations

import torch
from torch import Tensor

from prunesearch.tasks.batching.batches import Batch, OnDemand
from prunesearch.tasks.batching.self_labelled import SelfLabelled


def made() -> tuple[SelfLabelled, list[list[int]]]:
    """Ten rows in batches of four, whose label is the row's number doubled; and what the model was asked."""
    asked: list[list[int]] = []

    def run(batch: Batch) -> dict[str, Tensor]:
        asked.append(batch.index.tolist())
        return {"logits": batch.inputs["x"]}

    rows = OnDemand(
        lambda numbers: {"x": torch.tensor(numbers)}, list(torch.split(torch.arange(10), 4)), torch.zeros(10)
    )
    return SelfLabelled(rows, run, lambda outputs: 2 * outputs["logits"]), asked


def test_nothing_is_asked_before_a_label_is_needed_and_nothing_twice() -> None:
    batches, asked = made()
    assert len(batches) == 3
    assert batches.self_labelled
    assert not asked
    assert batches.take(2, {}).labels.tolist() == [0, 2]  # type: ignore[union-attr]
    assert asked == [[0, 1]]
    assert torch.as_tensor(batches[1].labels).tolist() == [8, 10, 12, 14]
    assert torch.as_tensor(batches.labels).tolist() == [2 * row for row in range(10)]
    assert torch.as_tensor(batches[1].labels).tolist() == [8, 10, 12, 14]
    assert asked == [[0, 1], [4, 5, 6, 7], [0, 1, 2, 3], [8, 9]]


def test_outputs_that_are_there_already_settle_the_labels() -> None:
    batches, asked = made()
    bare = batches.bare(2)
    assert batches.settled(bare, {"logits": bare.inputs["x"]}).labels.tolist() == [16, 18]  # type: ignore[union-attr]
    assert torch.as_tensor(batches[2].labels).tolist() == [16, 18]
    assert not asked
