"""Metrics of multi-label heads, from logits `[b, classes]` and which classes are on, 0 or 1 `[b, classes]`.

A class is decided to be on where its probability, the sigmoid of its logit, is above a half: its logit above 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunesearch.tasks.metrics.metric import Floats, OfRows, OfSums, RowMean, ratio, resampling_weights


class LabelAccuracy(RowMean):
    """Share of decisions, of every class in every row, that are right: 1 - Hamming loss."""

    name, binary = "label_accuracy", False

    def statistics(self, answers: Tensor, wanted: Tensor) -> Tensor:
        """The share of every row, `[b, 1]`."""
        return ((answers > 0) == (wanted.to(answers.device) > 0)).double().mean(dim=1, keepdim=True)

    def constant(self, wanted: Any) -> float | None:
        """Each class as it is in most rows."""
        share = torch.as_tensor(wanted).double().mean(dim=0)
        return float(torch.maximum(share, 1 - share).mean())


class MicroF1(OfSums):
    """F1 of the decisions of all classes together, as scikit-learn's `average="micro"`."""

    name = "micro_f1"

    def statistics(self, answers: Tensor, wanted: Tensor) -> Tensor:
        """Of every row the classes rightly on, decided on, and on: `[b, 3]`."""
        return counted(answers, wanted).sum(dim=2)

    def of_sums(self, sums: Floats) -> Floats:
        """F1 of counts `[..., 3]`."""
        return ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])

    def constant(self, wanted: Any) -> float | None:
        """The most frequent classes on in every row, as many as are best."""
        share = torch.as_tensor(wanted).double().mean(dim=0).sort(descending=True).values
        on = torch.arange(1, len(share) + 1)
        return float((2 * share.cumsum(0) / (on + share.sum())).max())

    def fixed(self, wanted: Any) -> str:
        """Nothing can be found where nothing is."""
        return "" if bool((torch.as_tensor(wanted) > 0).any()) else "no class is on in any row"


class MeanPrecision(OfRows):
    """Mean over the classes of the average precision of their logits, as scikit-learn's `average_precision_score`.

    Classes that are on in no row are left out of the mean.
    """

    name = "mean_ap"

    def statistics(self, answers: Tensor, wanted: Tensor) -> Tensor:
        """Logits and which classes are on: `[b, 2 classes]`."""
        return torch.cat([answers.double(), wanted.to(answers.device).double()], dim=1)

    def of_rows(self, rows: Floats) -> float:
        """The mean of `[n, 2 classes]`."""
        return float(_precisions(rows, np.ones((1, len(rows))))[0])

    def resampled(self, *sets: Tensor) -> Floats:
        """Values on resampled rows: each class is ranked once, and rows are weighted by how often they were drawn."""
        arrays = [rows.double().numpy() for rows in sets]
        drawn = [[_precisions(rows, weights) for rows in arrays] for weights in resampling_weights(len(sets[0]))]
        return np.concatenate(drawn, axis=1)

    def constant(self, wanted: Any) -> float | None:
        """Of equal scores the precision is the share of rows in which a class is on."""
        share = torch.as_tensor(wanted).double().mean(dim=0)
        return float(share[share > 0].mean()) if bool((share > 0).any()) else None

    def fixed(self, wanted: Any) -> str:
        """A class that is on in all rows, or in none, has nothing to rank."""
        share = torch.as_tensor(wanted).double().mean(dim=0)
        return "" if bool(((share > 0) & (share < 1)).any()) else "every class is on in all rows or in none"


def counted(answers: Tensor, wanted: Tensor) -> Tensor:
    """What F1 counts: rightly on, decided on, on, of every class: 0 or 1, `[b, 3, classes]`."""
    said, true = answers > 0, wanted.to(answers.device) > 0
    return torch.stack([said & true, said, true], dim=1).double()


def _precisions(rows: Floats, weights: Floats) -> Floats:
    """The metric `[r]` of rows `[n, 2 classes]` that count `weights` `[r, n]`."""
    scores, on = np.split(rows, 2, axis=1)
    total, classes = np.zeros(len(weights)), np.zeros(len(weights))
    for score, true in zip(scores.T, on.T, strict=True):
        order = np.argsort(-score, kind="stable")
        ends = np.append(np.diff(score[order]) != 0, True)  # equal scores pass a threshold together
        counts = weights[:, order]
        hits = np.cumsum(counts * true[order], axis=1)[:, ends]
        said = np.cumsum(counts, axis=1)[:, ends]
        gained = np.diff(hits, axis=1, prepend=0)
        total += ratio((gained * ratio(hits, said)).sum(axis=1), hits[:, -1])
        classes += hits[:, -1] > 0
    return ratio(total, classes)
