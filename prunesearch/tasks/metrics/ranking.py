"""The metric of ranked documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunesearch.tasks.metrics.metric import Floats, RowMean

_TOP = 10


class Ndcg(RowMean):
    """Mean normalised discounted cumulative gain of the first ten documents (Järvelin and Kekäläinen 2002).

    Documents of equal score share what their places are worth, as scikit-learn's `ndcg_score` has it: the order in
    which the data lists them, often the relevant ones first, counts for nothing.
    """

    name, binary = "ndcg10", False

    def statistics(self, answers: list[list[float]], wanted: list[list[float]]) -> Tensor:
        """nDCG@10 of every query, from the scores and the gains of its documents: `[b, 1]`."""
        rows = [_ndcg(np.array(said), np.array(true)) for said, true in zip(answers, wanted, strict=True)]
        return torch.tensor(rows, dtype=torch.float32)[:, None]

    def constant(self, wanted: Any) -> float | None:
        """Every document of the same score."""
        return float(np.mean([_ndcg(np.zeros(len(gains)), np.array(gains)) for gains in wanted]))

    def fixed(self, wanted: Any) -> str:
        """Where all documents of every query gain as much, every order is the best."""
        return "" if any(len({*gains}) > 1 for gains in wanted) else "all documents of a query have the same gain"


def _ndcg(scores: Floats, gains: Floats) -> float:
    discounts = np.zeros(len(gains))
    discounts[:_TOP] = 1 / np.log2(np.arange(2, 2 + min(_TOP, len(gains))))
    _, place = np.unique(-scores, return_inverse=True)  # equal scores have one place
    counts = np.bincount(place)
    worth = np.bincount(place[np.argsort(-scores, kind="stable")], weights=discounts) / counts
    best = np.sort(gains)[::-1] @ discounts
    return float(gains @ worth[place] / best) if best > 0 else 0.0
