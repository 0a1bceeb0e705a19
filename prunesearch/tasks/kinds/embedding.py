"""Sentence embeddings: similarity of pairs, and retrieval of documents. No head is needed.

A row has several texts: a pair, or a query and its documents. Its inputs are `[b, texts, n]`; the encoder sees all of
them as one batch.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunesearch.tasks.base import Forward, Outputs, Task
from prunesearch.tasks.batching.batches import Batch
from prunesearch.tasks.kinds.pooled import Pooled, embeddings, lacking
from prunesearch.tasks.kinds.text_rows import single_texts

SAME = 0.999  # a cosine from which on two embeddings count as the same


@dataclass
class Embedding(Task):
    """Texts as vectors: the last states pooled, and what a sentence-transformers checkpoint puts after that.

    Attributes:
        pooling: names in `pooled.POOLINGS`, whose vectors are joined.
        after: what the joined vector goes through; None: nothing.
    """

    pooling: tuple[str, ...] = ("mean",)
    after: nn.Module | None = None

    @property
    def answering(self) -> nn.Module:
        """The encoder with its pooling."""
        return Pooled(self.model, self.pooling, self.after).eval()

    def unable(self, given: Collection[str]) -> str:
        """Pooling needs to know what the tokens that are left stand for."""
        return lacking(given, self.pooling)

    def outputs(self, forward: Forward, batch: Batch) -> Outputs:
        """Embeddings `[b, texts, width]`."""
        rows, texts = batch.inputs["input_ids"].shape[:2]
        flat = single_texts(batch.inputs)
        found = embeddings(forward, self.model, flat, self.pooling, self.after)
        return {"state": torch.unflatten(found, 0, (rows, texts))}

    def divergence(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """`1 - cosine` to the unpruned embedding, its mean over the texts of a row, `[b]`."""
        return 1 - _cosine(reference["state"], outputs["state"]).mean(dim=1)


@dataclass
class Similarity(Embedding):
    """Pairs with scores, float `[b]`; answers are cosines `[b]`."""

    def agrees(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Share of a row's texts whose embedding has a cosine of 0.999 at least to the unpruned one, `[b]`."""
        return (_cosine(reference["state"], outputs["state"]) >= SAME).float().mean(dim=1)

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

    def agrees(self, reference: Outputs, outputs: Outputs, batch: Batch) -> Tensor:
        """Whether the same document is ranked first, `[b]`."""
        pairs = zip(self.answers(reference, batch), self.answers(outputs, batch), strict=True)
        return torch.tensor([first_ranked(a) == first_ranked(b) for a, b in pairs])

    def answers(self, outputs: Outputs, batch: Batch) -> list[list[float]]:
        """The scores of every query's documents."""
        scores: list[list[float]] = _cosine(outputs["state"][:, :1], outputs["state"][:, 1:]).tolist()
        return scores

    def shown(self, outputs: Outputs, batch: Batch) -> list[str]:
        """The number of the document that is ranked first."""
        return [f"document {1 + first_ranked(scores)}" for scores in self.answers(outputs, batch)]

    def shown_labels(self, batch: Batch) -> list[str]:
        """The numbers of the relevant documents."""
        return [", ".join(f"document {1 + i}" for i, gain in enumerate(gains) if gain > 0) for gains in batch.labels]


def first_ranked(scores: list[float]) -> int:
    """The place of the highest score."""
    return max(range(len(scores)), key=scores.__getitem__)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(a.float(), b.float(), dim=-1)
