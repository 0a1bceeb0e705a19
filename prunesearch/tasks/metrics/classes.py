"""Metrics of classifiers, from class logits `[b, classes]` and class ids `[b]`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunesearch.tasks.metrics.metric import Floats, OfRows, OfSums, RowMean, correct, ratio

_TOP = 5


class Accuracy(RowMean):
    """Share of rows whose largest logit is the label's."""

    name = "accuracy"

    def statistics(self, answers: Tensor, wanted: Tensor) -> Tensor:
        """1 where right, 0 where wrong: `[b, 1]`."""
        return correct(answers, wanted).float()[:, None]


class TopFive(RowMean):
    """Share of rows whose label is among the five largest logits (of fewer classes: among all)."""

    name = "top5"

    def statistics(self, answers: Tensor, wanted: Tensor) -> Tensor:
        """1 where right, 0 where wrong: `[b, 1]`."""
        top = answers.topk(min(_TOP, answers.shape[-1]), dim=-1).indices
        return (top == wanted.to(top.device)[:, None]).any(dim=-1, keepdim=True).float()


class BinaryF1(OfSums):
    """F1 of class 1 against class 0, `2 tp / (2 tp + fp + fn)`; 0 where class 1 is neither there nor predicted."""

    name = "f1"

    def statistics(self, answers: Tensor, wanted: Tensor) -> Tensor:
        """True positives, predicted positives and positives: `[b, 3]`."""
        said, true = answers.argmax(dim=-1) == 1, wanted.to(answers.device) == 1
        return torch.stack([said & true, said, true], dim=1).float()

    def of_sums(self, sums: Floats) -> Floats:
        """F1 of counts `[..., 3]`."""
        return ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


class _OfClasses(OfRows):
    """Statistics are the predicted and the true class, `[b, 2]`: few numbers, however many classes."""

    def statistics(self, answers: Tensor, wanted: Tensor) -> Tensor:
        """The predicted and the true class: `[b, 2]`."""
        said = answers.argmax(dim=-1)
        return torch.stack([said, wanted.to(said.device)], dim=1).float()


class MacroF1(_OfClasses):
    """Mean F1 of the classes that are in the labels or in the predictions, as scikit-learn's `average="macro"`."""

    name = "macro_f1"

    def of_rows(self, rows: Floats) -> float:
        """Macro F1 of `[n, 2]`."""
        hits, said, true = _counts(rows)
        there = (said + true) > 0
        return float((2 * hits[there] / (said + true)[there]).mean())


class Matthews(_OfClasses):
    """Matthews correlation coefficient, for any number of classes (R_K of Gorodkin 2004); 0 where undefined."""

    name = "mcc"
    lowest = -1.0

    def of_rows(self, rows: Floats) -> float:
        """R_K of `[n, 2]`."""
        hits, said, true = _counts(rows)
        n = float(len(rows))
        covariance = hits.sum() * n - said @ true
        spread = (n * n - said @ said) * (n * n - true @ true)
        return float(covariance / np.sqrt(spread)) if spread > 0 else 0.0


def _counts(rows: Floats) -> tuple[Floats, Floats, Floats]:
    """How often each class was right, predicted and true, each `[classes]`."""
    ids: NDArray[np.int64] = rows.astype(np.int64)
    said, true = ids[:, 0], ids[:, 1]
    classes = int(ids.max()) + 1
    right = said[said == true]
    return tuple(np.bincount(x, minlength=classes).astype(np.float64) for x in (right, said, true))  # type: ignore[return-value]
