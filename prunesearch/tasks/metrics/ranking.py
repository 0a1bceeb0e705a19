"""Metrics of embeddings: correlation of similarities with scores, and the ranking of documents."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from prunesearch.tasks.metrics.metric import Floats, OfRows, RowMean

_TOP = 10


class Spearman(OfRows):
    """Spearman's rank correlation of similarities with the scores of people; 0 where either is constant."""

    name, lowest = "spearman", -1.0

    def statistics(self, answers: Tensor, wanted: Tensor) -> Tensor:
        """Similarity and score, `[b, 2]`."""
        return torch.stack([answers.float(), wanted.to(answers.device).float()], dim=1)

    def of_rows(self, rows: Floats) -> float:
        """The correlation of the columns of `[n, 2]`, ties at their mean rank."""
        ranks = rankdata(rows, axis=0)
        centred = ranks - ranks.mean(axis=0)
        spread = np.sqrt((centred**2).sum(axis=0).prod())
        return float(centred.prod(axis=1).sum() / spread) if spread > 0 else 0.0


class Ndcg(RowMean):
    """Mean normalised discounted cumulative gain of the first ten documents (Järvelin and Kekäläinen 2002)."""

    name, binary = "ndcg10", False

    def statistics(self, answers: list[list[float]], wanted: list[list[float]]) -> Tensor:
        """nDCG@10 of every query, from the scores and the gains of its documents: `[b, 1]`."""
        rows = [_ndcg(np.array(said), np.array(true)) for said, true in zip(answers, wanted, strict=True)]
        return torch.tensor(rows, dtype=torch.float32)[:, None]


def _ndcg(scores: Floats, gains: Floats) -> float:
    discounts = 1 / np.log2(np.arange(2, 2 + min(_TOP, len(gains))))
    order = np.argsort(-scores, kind="stable")
    best = np.sort(gains)[::-1][:_TOP] @ discounts
    return float(gains[order][:_TOP] @ discounts / best) if best > 0 else 0.0
