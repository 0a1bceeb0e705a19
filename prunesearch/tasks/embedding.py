"""Sentence embeddings: similarity of pairs, and retrieval of documents. No head is needed.

A row has several texts: a pair, or a query and its documents. Its inputs are `[b, texts, n]`; the encoder sees all of
them as one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunesearch.pruning.pooling import mean_pool
from prunesearch.tasks.base import Batch, Outputs, Task

SAME = 0.999  # a cosine from which on two embeddings count as the same


@dataclass
class Embedding(Task):
    """Texts as vectors: the mean of the last states, by the tokens' sizes, or the first one.

    Attributes:
        pooling: mean or cls.
    """

    pooling: str = "mean"

    def outputs(self, batch: Batch) -> Outputs:
        """Embeddings `[b, texts, width]`."""
        rows, texts = batch.inputs["input_ids"].shape[:2]
        flat = {name: value.flatten(0, 1) for name, value in batch.inputs.items()}
        hidden = self.model(**flat).last_hidden_state
        mean = self.pooling == "mean"
        pooled = mean_pool(self.model, hidden, flat.get("attention_mask")) if mean else hidden[:, 0]
        return {"state": pooled.unflatten(0, (rows, texts))}

    def divergence(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """`1 - cosine` to the unpruned embedding, its mean over the texts of a row, `[b]`."""
        return 1 - _mean(_cosine(reference["state"], outputs["state"]), self.counts(batch))

    def counts(self, batch: Batch) -> Sequence[int]:
        """How many texts every row has; those that follow are padding."""
        return [batch.inputs["input_ids"].shape[1]] * len(batch)


@dataclass
class Similarity(Embedding):
    """Pairs with scores, float `[b]`; answers are cosines `[b]`."""

    def agrees(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Share of a row's texts whose embedding has a cosine of 0.999 at least to the unpruned one, `[b]`."""
        same = (_cosine(reference["state"], outputs["state"]) >= SAME).float()
        return _mean(same, self.counts(batch))

    def answers(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Cosines of the pairs, `[b]`."""
        return _cosine(outputs["state"][:, 0], outputs["state"][:, 1])

    def shown(self, outputs: Outputs, batch: Batch) -> list[str]:
        """The cosines."""
        return [f"{value:.3f}" for value in self.answers(outputs, batch).tolist()]

    def shown_labels(self, batch: Batch) -> list[str]:
        """The scores."""
        return [f"{float(value):.3g}" for value in batch.labels]


@dataclass
class Retrieval(Embedding):
    """A query and its documents a row; labels are the documents' gains, and answers their scores (cosines)."""

    def counts(self, batch: Batch) -> Sequence[int]:
        """The query and its documents."""
        return [1 + len(gains) for gains in batch.labels]

    def agrees(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Whether the same document is ranked first, `[b]`."""
        pairs = zip(self.answers(reference, batch), self.answers(outputs, batch), strict=True)
        return torch.tensor([_first(a) == _first(b) for a, b in pairs])

    def answers(self, outputs: Outputs, batch: Batch) -> list[list[float]]:
        """The scores of every query's documents."""
        scores = _cosine(outputs["state"][:, :1], outputs["state"][:, 1:]).tolist()
        return [row[: len(gains)] for row, gains in zip(scores, batch.labels, strict=True)]

    def shown(self, outputs: Outputs, batch: Batch) -> list[str]:
        """The number of the document that is ranked first."""
        return [f"document {1 + _first(scores)}" for scores in self.answers(outputs, batch)]

    def shown_labels(self, batch: Batch) -> list[str]:
        """The numbers of the relevant documents."""
        return [", ".join(f"document {1 + i}" for i, gain in enumerate(gains) if gain > 0) for gains in batch.labels]


def _first(scores: list[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(a.float(), b.float(), dim=-1)


def _mean(values: Tensor, counts: Sequence[Any]) -> Tensor:
    """The mean of the first `counts` of every row of `[b, texts]`."""
    lengths = torch.tensor(counts, device=values.device)
    there = torch.arange(values.shape[1], device=values.device) < lengths[:, None]
    return values.where(there, 0.0).sum(dim=1) / lengths
