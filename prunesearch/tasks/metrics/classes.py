"""Metrics of classifiers, from class logits `[b, classes]` and class ids `[b]`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunesearch.tasks.metrics.flags import counted
from prunesearch.tasks.metrics.metric import Floats, OfRows, OfSums, RowMean, correct, ratio, shares

_TOP = 5


class Accuracy(RowMean):
    """Share of rows whose largest logit is the label's."""

    name = "accuracy"

    def statistics(self, answers: Tensor, wanted: Tensor) -> Tensor:
        """1 where right, 0 where wrong: `[b, 1]`."""
        return correct(answers, wanted).float()[:, None]

    def constant(self, wanted: Any) -> float | None:
        """The share of the most frequent class."""
        return float(shares(wanted)[0])


class TopFive(RowMean):
    """Share of rows whose label is among the five largest logits (of fewer classes: among all)."""

    name = "top5"

    def statistics(self, answers: Tensor, wanted: Tensor) -> Tensor:
        """1 where right, 0 where wrong: `[b, 1]`."""
        top = answers.topk(min(_TOP, answers.shape[-1]), dim=-1).indices
        return (top == wanted.to(top.device)[:, None]).any(dim=-1, keepdim=True).float()

    def constant(self, wanted: Any) -> float | None:
        """The share of the five most frequent classes."""
        return float(shares(wanted)[:_TOP].sum())


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

    def constant(self, wanted: Any) -> float | None:
        """Class 1 for every row; of more classes than two it is not asked for."""
        if int(torch.as_tensor(wanted).max()) > 1:
            return None
        share = float((torch.as_tensor(wanted) == 1).double().mean())
        return 2 * share / (1 + share)

    def fixed(self, wanted: Any) -> str:
        """Nothing can be found where nothing is."""
        return "" if bool((torch.as_tensor(wanted) == 1).any()) else "no row is of class 1"


class _OfClasses(OfRows):
    """Statistics are the predicted and the true class, `[b, 2]`: few numbers, however many classes."""

    def statistics(self, answers: Tensor, wanted: Tensor) -> Tensor:
        """The predicted and the true class: `[b, 2]`."""
        said = answers.argmax(dim=-1)
        return torch.stack([said, wanted.to(said.device)], dim=1).float()


class MacroF1(_OfClasses):
    """Mean F1 of the classes that are in the labels or in the predictions, as scikit-learn's `average="macro"`.

    Of classes that exclude each other, or of decisions about each of several (labels `[b, classes]`, 0 or 1).
    """

    name = "macro_f1"

    def statistics(self, answers: Tensor, wanted: Tensor) -> Tensor:
        """The predicted and the true class, `[b, 2]`; of decisions their counts, `[b, 3 classes]`."""
        return super().statistics(answers, wanted) if wanted.ndim == 1 else counted(answers, wanted).flatten(1)

    def of_rows(self, rows: Floats) -> float:
        """Macro F1 of the statistics of rows."""
        hits, said, true = _counts(rows) if rows.shape[1] == 2 else rows.sum(axis=0).reshape(3, -1)
        there = (said + true) > 0
        return float((2 * hits[there] / (said + true)[there]).mean()) if there.any() else 0.0

    def constant(self, wanted: Any) -> float | None:
        """The most frequent class for every row; of decisions, every class on."""
        labels = torch.as_tensor(wanted)
        if labels.ndim == 1:
            found = shares(labels)
            return float(2 * found[0] / (1 + found[0]) / len(found))
        on = labels.double().mean(dim=0)
        return float((2 * on / (1 + on)).mean())

    def fixed(self, wanted: Any) -> str:
        """Nothing can be found where nothing is."""
        labels = torch.as_tensor(wanted)
        return "no class is on in any row" if labels.ndim == 2 and not bool((labels > 0).any()) else ""


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

    def constant(self, wanted: Any) -> float | None:
        """A constant correlates with nothing."""
        return 0.0

    def fixed(self, wanted: Any) -> str:
        """Nothing correlates with labels that are all the same."""
        return "all labels are of one class" if len(shares(wanted)) == 1 else ""


def _counts(rows: Floats) -> tuple[Floats, Floats, Floats]:
    """How often each class was right, predicted and true, each `[classes]`."""
    ids: NDArray[np.int64] = rows.astype(np.int64)
    said, true = ids[:, 0], ids[:, 1]
    classes = int(ids.max()) + 1
    right = said[said == true]
    return tuple(np.bincount(x, minlength=classes).astype(np.float64) for x in (right, said, true))  # type: ignore[return-value]
