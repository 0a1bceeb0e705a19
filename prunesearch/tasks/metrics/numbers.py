"""Metrics of answers that are numbers: of regression heads, of cross-encoders, and of similarities."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from prunesearch.tasks.metrics.metric import Floats, OfRows


class _OfNumbers(OfRows):
    """Statistics are the answers and the labels, `[b, 2 k]` for heads of `k` numbers, whose mean is the value."""

    lowest = -1.0

    def statistics(self, answers: Tensor, wanted: Tensor) -> Tensor:
        """Answers and labels, each `[b]` or `[b, k]`: `[b, 2 k]`."""
        said = answers.double().flatten(1) if answers.ndim > 1 else answers.double()[:, None]
        return torch.cat([said, wanted.to(said).reshape(said.shape)], dim=1)

    def of_rows(self, rows: Floats) -> float:
        """The mean over the numbers of a row."""
        said, true = np.split(rows, 2, axis=1)
        return float(np.mean([self.of_pairs(said[:, i], true[:, i]) for i in range(said.shape[1])]))

    @abstractmethod
    def of_pairs(self, said: Floats, true: Floats) -> float:
        """The value of answers and labels, each `[n]`."""

    def constant(self, wanted: Any) -> float | None:
        """A constant explains nothing."""
        return 0.0

    def fixed(self, wanted: Any) -> str:
        """Labels that are all one number have no order and no spread."""
        numbers = torch.as_tensor(wanted).double().reshape(len(wanted), -1)
        return "all labels are the same number" if bool((numbers == numbers[:1]).all(dim=0).any()) else ""


class Pearson(_OfNumbers):
    """Pearson's correlation of answers with labels; 0 where either is constant."""

    name = "pearson"

    def of_pairs(self, said: Floats, true: Floats) -> float:
        """The correlation."""
        return _correlation(said, true)


class Spearman(_OfNumbers):
    """Spearman's rank correlation of answers (or similarities) with labels; 0 where either is constant."""

    name = "spearman"

    def of_pairs(self, said: Floats, true: Floats) -> float:
        """The correlation of ranks, ties at their mean rank."""
        return _correlation(rankdata(said), rankdata(true))


class RSquared(_OfNumbers):
    """1 - mean squared error over the labels' variance: the share of it that is explained, below 0 for worse than none.

    The mean squared error on a scale that does not depend on the labels' unit: 1 is no error, 0 that of their mean.
    """

    name, lowest = "r2", -float("inf")

    def of_pairs(self, said: Floats, true: Floats) -> float:
        """R² of answers; 0 where the labels are constant."""
        spread = float(((true - true.mean()) ** 2).sum())
        return 1 - float(((said - true) ** 2).sum()) / spread if spread > 0 else 0.0


def _correlation(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip(a @ b / spread, -1, 1)) if spread > 0 else 0.0
