"""The equal error rate: how well one threshold on scores tells trials of the target from others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunesearch.tasks.metrics.metric import Floats, OfRows, resampling_weights

_BLOCKS = 512  # of neighbouring thresholds, looked at as wholes first
_UNDEFINED = 0.5  # the rate of guessing, where there are no targets or nothing else


class EqualErrorAccuracy(OfRows):
    """1 - EER: the share that is right at the threshold where misses and false alarms are equally frequent.

    The rate is where the ROC, straight between its points, meets `fpr = 1 - tpr`. It is that of guessing, 0.5, where
    there are no targets, or nothing else.

    A row is one trial (two recordings, of one speaker or not), or as many as there are classes, of which its label's
    is the target. The scores of classes are log-probabilities: a threshold holds for all rows, and logits may have an
    offset of their own in every row, which the softmax takes out.
    """

    name = "eer_accuracy"

    def statistics(self, answers: Tensor, wanted: Tensor) -> Tensor:
        """The place of the target among the row's trials (-1: none), and their scores: `[b, 1 + trials]`.

        Args:
            answers: class logits `[b, classes]`, or the score of one trial a row `[b]`.
            wanted: class ids `[b]`, or 1 for a target and 0 for none `[b]`.
        """
        if answers.ndim == 1:
            scores, target = answers.float()[:, None], wanted - 1
        else:
            scores, target = torch.log_softmax(answers.float(), dim=-1), wanted
        return torch.cat([target.to(scores)[:, None], scores], dim=1)

    def of_rows(self, rows: Floats) -> float:
        """1 - EER of `[n, 1 + trials]`."""
        return 1 - float(equal_error_rates(rows, np.ones((1, len(rows))))[0])

    def constant(self, wanted: Any) -> float | None:
        """Equal scores are guesses."""
        return 1 - _UNDEFINED

    def resampled(self, *sets: Tensor) -> Floats:
        """Values on resampled rows: trials are ranked once, and weighted by how often their row was drawn."""
        arrays = [rows.double().numpy() for rows in sets]
        drawn = [[equal_error_rates(rows, weights) for rows in arrays] for weights in resampling_weights(len(sets[0]))]
        return 1 - np.concatenate(drawn, axis=1)


def equal_error_rates(rows: Floats, weights: Floats) -> Floats:
    """EERs `[r]` of trials whose rows, `[n, 1 + trials]` as `EqualErrorAccuracy` has them, count `weights` `[r, n]`.

    Misses fall and false alarms rise along the thresholds, so that they cross once: blocks of thresholds say in which
    of them, and only its trials are looked at one by one.
    """
    trials, scores = rows.shape[1] - 1, rows[:, 1:].ravel()
    order = np.argsort(-scores, kind="stable")
    owner, ranked = order // trials, scores[order]
    target = order % trials == rows[owner, 0]
    ends = np.append(ranked[1:] != ranked[:-1], True)  # equal scores pass a threshold together
    point = np.cumsum(ends) - ends
    block = point // math.ceil((point[-1] + 1) / _BLOCKS)

    cells, shape = owner * _BLOCKS + block, (len(rows), _BLOCKS)
    of_targets = np.bincount(cells[target], minlength=shape[0] * shape[1]).reshape(shape)
    of_others = np.bincount(cells[~target], minlength=shape[0] * shape[1]).reshape(shape)
    hits, alarms = (np.cumsum(weights @ counts, axis=1) for counts in (of_targets, of_others))
    targets, others = hits[:, -1:], alarms[:, -1:]
    first = (_excess(hits, alarms, targets, others) >= 0).argmax(axis=1)

    rates = np.full(len(weights), _UNDEFINED)
    defined = ((targets > 0) & (others > 0))[:, 0]
    for b in np.unique(first[defined]):
        which = np.flatnonzero(defined & (first == b))
        inside = slice(*np.searchsorted(block, [b, b + 1]))
        counted = weights[np.ix_(which, owner[inside])]
        rates[which] = _rates(
            _along(hits[which, b - 1] if b else 0.0, counted * target[inside], ends[inside]),
            _along(alarms[which, b - 1] if b else 0.0, counted * ~target[inside], ends[inside]),
            targets[which],
            others[which],
        )
    return rates


def _excess(hits: Floats, alarms: Floats, targets: Floats, others: Floats) -> Floats:
    """False alarm rate less miss rate, times `targets * others`: whole numbers, so that equal is equal."""
    return alarms * targets + hits * others - targets * others


def _along(start: Floats | float, counted: Floats, ends: Floats) -> Floats:
    """Counts `[r, points + 1]` at the points of a block's thresholds, the one before it first."""
    sums = np.cumsum(counted, axis=1)[:, ends]
    before = np.broadcast_to(start, len(sums))[:, None]
    return np.concatenate([before, before + sums], axis=1)


def _rates(hits: Floats, alarms: Floats, targets: Floats, others: Floats) -> Floats:
    """Where the line between two points of the ROC crosses; counts `[r, points]`, of which the first is before it."""
    excess = _excess(hits, alarms, targets, others)
    row, after = np.arange(len(excess)), (excess >= 0).argmax(axis=1)
    below, above = excess[row, after - 1], excess[row, after]
    share = below / (below - above)
    met: Floats = alarms[row, after - 1] + share * (alarms[row, after] - alarms[row, after - 1])
    return met / others[:, 0]
