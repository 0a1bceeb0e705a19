"""Quality: what a metric is, one vector of statistics a row, and the intervals that make it honest.

A metric turns what a model answered for a row into a few numbers, which are cached, raced, shipped and resampled; its
value is a function of the numbers of all rows. Values are fractions, and HIGHER IS BETTER, so that an error rate is
reported as one minus it. The table of metrics is `table.METRICS`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunesearch.core.errors import PruneSearchError
from prunesearch.tasks.metrics.pairs import paired_lower_bound
from prunesearch.tasks.table import METRICS

Floats = NDArray[np.float64]
Interval = tuple[float, float, float]  # value, low, high
RESAMPLES = 1000  # of a bootstrap interval: its ends are then off by about a tenth of its half-width
_TEXTS_TRIED = 3
_CHUNK = 4_000_000  # weights of resampled rows held at a time


class Metric(ABC):
    """A quality of a set of rows. Stateless; `name` is what tables and files call it.

    `lowest` and `highest` are the ends of its range; `runs_model`: it runs the task's model itself, whatever the
    answers are of, so that nothing else can be judged by it. `mean_of_rows`: it is the mean of one number a row, which
    is 0 or 1 in every row where it is `binary`.
    """

    name: ClassVar[str]
    runs_model: ClassVar[bool] = False
    mean_of_rows: ClassVar[bool] = False
    binary: ClassVar[bool] = False
    lowest: ClassVar[float] = 0.0
    highest: ClassVar[float] = 1.0

    @abstractmethod
    def statistics(self, answers: Any, wanted: Any) -> Tensor:
        """Numbers of every row, `[b, k]` float, that `value` is computed from.

        Args:
            answers: of the model, as its kind of task gives them (class logits `[b, classes]`, tags, texts, ...).
            wanted: the labels of the same rows, `Batch.labels`.
        """

    @abstractmethod
    def value(self, rows: Tensor) -> float:
        """The metric of rows with the statistics `[n, k]`."""

    @abstractmethod
    def resampled(self, *sets: Tensor) -> Floats:
        """Values `[len(sets), RESAMPLES]` on rows drawn with replacement, the same rows for every set `[n, k]`."""

    def weighted(self, rows: Tensor, times: Floats) -> Floats:
        """Values `[r]` of statistics `[n, k]` of which each counts so many times, `[r, n]` whole numbers."""
        counts = torch.from_numpy(times).long()
        return np.array([self.value(rows.repeat_interleave(count, dim=0)) for count in counts])

    def constant(self, wanted: Any) -> float | None:
        """The most that one answer, the same for every row, can have with the labels `wanted`; None: nobody knows."""
        return None

    def fixed(self, wanted: Any) -> str:
        """Why the value is the same whatever a model answers, with the labels `wanted`; empty where it is not."""
        return ""

    def contrast(self, before: Tensor, after: Tensor) -> float:
        """How much more `after` has than `before`, both `[n, k]`, on the same rows."""
        return self.value(after) - self.value(before)

    def interval(self, rows: Tensor, level: float = 0.95) -> Interval:
        """The value with its interval: percentiles of the bootstrap over rows (Efron and Tibshirani 1993)."""
        return (self.value(rows), *_percentiles(self.resampled(rows)[0], level))

    def difference(self, before: Tensor, after: Tensor, level: float = 0.95) -> Interval:
        """`contrast` with its interval: the paired bootstrap (Koehn 2004, "Statistical significance tests for MT")."""
        _check_paired(before, after)
        drawn = self.resampled(before, after)
        return (self.contrast(before, after), *_percentiles(drawn[1] - drawn[0], level))

    def at_least(self, before: Tensor, after: Tensor, level: float = 0.95) -> float:
        """One-sided lower bound of `contrast`, which a promise rests on: the end of a wider two-sided interval."""
        return self.difference(before, after, 2 * level - 1)[1]

    def mean_contrast(self, before: Tensor, after: Sequence[Tensor]) -> tuple[float, float]:
        """The mean `contrast` of several models to one, and its standard error times the root of the rows."""
        drawn = self.resampled(before, *after)
        value = sum(self.contrast(before, rows) for rows in after) / len(after)
        return value, float((drawn[1:].mean(axis=0) - drawn[0]).std()) * math.sqrt(len(before))


class RowMean(Metric):
    """A metric that is the mean of one number a row, `[n, 1]`; its intervals are exact or normal.

    Of `binary` ones Wilson's interval, and for pairs that of Agresti and Min.
    """

    mean_of_rows: ClassVar[bool] = True
    binary: ClassVar[bool] = True

    def value(self, rows: Tensor) -> float:
        """The mean."""
        return float(rows.double().mean())

    def contrast(self, before: Tensor, after: Tensor) -> float:
        """The mean of the differences."""
        return float((after.double() - before.double()).mean())

    def resampled(self, *sets: Tensor) -> Floats:
        """Values on resampled rows."""
        return np.stack([drawn[:, 0] for drawn in resampled_sums(*sets)]) / len(sets[0])

    def weighted(self, rows: Tensor, times: Floats) -> Floats:
        """Means with weights."""
        return ratio(times @ rows.double().numpy()[:, 0], times.sum(axis=1))

    def interval(self, rows: Tensor, level: float = 0.95) -> Interval:
        """The mean with its interval."""
        if self.binary:
            return wilson(int(rows.sum()), len(rows), level)
        value, half = self.value(rows), half_width(_error(rows.double()), level)
        return value, max(self.lowest, value - half), min(self.highest, value + half)

    def difference(self, before: Tensor, after: Tensor, level: float = 0.95) -> Interval:
        """The mean difference with its interval."""
        if self.binary:
            return paired_difference(before.flatten(), after.flatten(), level)
        _check_paired(before, after)
        value, half = self.contrast(before, after), half_width(_error(after.double() - before.double()), level)
        width = self.highest - self.lowest
        return value, max(-width, value - half), min(width, value + half)

    def at_least(self, before: Tensor, after: Tensor, level: float = 0.95) -> float:
        """One-sided lower bound of the mean difference: of pairs of right and wrong, Tango's."""
        if not self.binary:
            return super().at_least(before, after, level)
        a, b = before.flatten().bool(), after.flatten().bool()
        return float(paired_lower_bound(int((b & ~a).sum()), int((a & ~b).sum()), len(a), level))

    def mean_contrast(self, before: Tensor, after: Sequence[Tensor]) -> tuple[float, float]:
        """The mean difference, and the standard deviation of the rows' differences."""
        difference = torch.stack([rows.double() for rows in after]).mean(dim=0) - before.double()
        return float(difference.mean()), float(difference.std())


class OfSums(Metric):
    """A metric that is a function of the sums of its statistics over all rows (counts, mostly)."""

    @abstractmethod
    def of_sums(self, sums: Floats) -> Floats:
        """Values `[...]` of sums `[..., k]`."""

    def value(self, rows: Tensor) -> float:
        """The metric of the rows' sums."""
        return float(self.of_sums(rows.double().sum(dim=0).numpy()))

    def resampled(self, *sets: Tensor) -> Floats:
        """Values on resampled rows: all at once, as sums weighted by how often a row was drawn."""
        return np.stack([self.of_sums(drawn) for drawn in resampled_sums(*sets)])

    def weighted(self, rows: Tensor, times: Floats) -> Floats:
        """Of sums with weights."""
        return self.of_sums(times @ rows.double().numpy())


class OfRows(Metric):
    """A metric that needs all rows at once (ranks, counts of classes)."""

    @abstractmethod
    def of_rows(self, rows: Floats) -> float:
        """The value of `[n, k]`."""

    def value(self, rows: Tensor) -> float:
        """The metric of the rows."""
        return self.of_rows(rows.double().numpy())

    def resampled(self, *sets: Tensor) -> Floats:
        """Values on resampled rows, one resample after another."""
        arrays, random = [rows.double().numpy() for rows in sets], np.random.default_rng(0)
        n = len(arrays[0])
        draws = [random.integers(n, size=n) for _ in range(RESAMPLES)]
        return np.array([[self.of_rows(rows[draw]) for draw in draws] for rows in arrays])


@lru_cache(maxsize=64)
def find_metric(name: str) -> Metric:
    """The metric called `name`.

    Raises:
        PruneSearchError: for an unknown name, with the nearest one.
    """
    found: Metric = METRICS.load(name)()
    return found


def resampled_sums(*sets: Tensor) -> list[Floats]:
    """Sums `[RESAMPLES, k]` of statistics `[n, k]` over `n` rows drawn with replacement, the same for every set."""
    arrays = [rows.double().numpy() for rows in sets]
    found: list[list[Floats]] = [[] for _ in sets]
    for weights in resampling_weights(len(sets[0])):
        for sums, rows in zip(found, arrays, strict=True):
            sums.append(weights @ rows)
    return [np.concatenate(sums) for sums in found]


def resampling_weights(n: int) -> Iterator[Floats]:
    """Yield how often each of `n` rows is drawn: `[r, n]`, some of the `RESAMPLES` at a time, always the same ones."""
    random, left = np.random.default_rng(0), RESAMPLES
    while left:
        count = min(left, max(1, _CHUNK // n))
        yield random.multinomial(n, np.full(n, 1 / n), size=count).astype(np.float64)
        left -= count


def of_one_text(metric: Metric, references: Sequence[Any]) -> float:
    """The most that one text for every row has: none at all, or a reference that comes again, the commonest ones tried.

    Args:
        metric: of texts.
        references: a text for each row, or a list of them.
    """
    counts = Counter(text for row in references for text in {*([row] if isinstance(row, str) else row)})
    tried = ["", *(text for text, count in counts.most_common(_TEXTS_TRIED) if count > 1)]
    return max(metric.value(metric.statistics([text] * len(references), references)) for text in tried)


def shares(labels: Any) -> Floats:
    """Shares of the rows that each class has, the greatest first, of class ids `[n]`; classes without rows left out."""
    counts = np.unique(np.asarray(torch.as_tensor(labels).cpu()), return_counts=True)[1]
    found: Floats = np.sort(counts)[::-1] / counts.sum()
    return found


def ratio(above: Floats, below: Floats) -> Floats:
    """`above / below`, 0 where `below` is."""
    found: Floats = np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below > 0)
    return found


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether the largest logit is the label's: `[n, classes]`, `[n]` -> bool `[n]`."""
    return logits.argmax(dim=-1) == labels.to(logits.device)


def agreement(reference_logits: Tensor, logits: Tensor) -> Tensor:
    """Return whether both models choose the same class: two `[n, classes]` -> bool `[n]`."""
    return reference_logits.argmax(dim=-1) == logits.argmax(dim=-1)


def kl_divergence(reference_logits: Tensor, logits: Tensor) -> Tensor:
    """Return KL(reference || other) of the predicted classes, in nats: two `[n, classes]` -> float32 `[n]`.

    Non-negative but for rounding (about 1e-7); 0 where the two agree in every probability. Further dimensions between
    rows and classes are kept.
    """
    reference = torch.log_softmax(reference_logits.float(), dim=-1)
    other = torch.log_softmax(logits.float(), dim=-1)
    return torch.nn.functional.kl_div(other, reference, reduction="none", log_target=True).sum(-1)


def wilson(successes: float, n: float, level: float = 0.95) -> Interval:
    """Return a proportion with its Wilson score interval: `(value, low, high)`, each in 0..1."""
    if n < 1 or not 0 <= successes <= n:
        raise PruneSearchError(f"`0 <= successes <= n` and `n >= 1` must hold, but got {successes} of {n}")
    z = _z(level)
    value = successes / n
    centre = (successes + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(n * value * (1 - value) + z * z / 4)
    return value, max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(correct_a: Tensor, correct_b: Tensor, level: float = 0.95) -> Interval:
    """Return how much more often b is right than a on the same rows: `(value, low, high)` of b - a.

    The interval is the adjusted Wald interval for matched pairs of Agresti and Min (2005): 0.5 is added
    to each cell of the 2x2 table. The value itself is the plain difference. a, b: bool `[n]`.
    """
    if correct_a.shape != correct_b.shape or correct_a.ndim != 1 or len(correct_a) == 0:
        raise PruneSearchError(
            f"two bool [n] of the same rows are needed, but got shapes "
            f"{tuple(correct_a.shape)} and {tuple(correct_b.shape)}"
        )
    a, b = correct_a.cpu().bool(), correct_b.cpu().bool()
    return matched_pairs(int((b & ~a).sum()), int((a & ~b).sum()), len(a), level)


def matched_pairs(gained: float, lost: float, n: float, level: float = 0.95) -> Interval:
    """`paired_difference` by counts, or effective ones: what only b has right, what only a has, and all."""
    total, plus, minus = n + 2.0, gained + 0.5, lost + 0.5
    centre = (plus - minus) / total
    half = _z(level) / total * math.sqrt(plus + minus - (plus - minus) ** 2 / total)
    return (gained - lost) / n, max(-1.0, centre - half), min(1.0, centre + half)


def _check_paired(before: Tensor, after: Tensor) -> None:
    if before.shape != after.shape or len(before) == 0:
        raise PruneSearchError(
            f"statistics of the same rows are needed, but got shapes {tuple(before.shape)} and {tuple(after.shape)}"
        )


def half_width(error: float, level: float) -> float:
    """Of the normal interval with a standard error."""
    return _z(level) * error


def _error(values: Tensor) -> float:
    """Standard error of a mean of `[n, 1]`; without bound where one row tells nothing of the spread."""
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.inf


def _percentiles(drawn: Floats, level: float) -> tuple[float, float]:
    _z(level)  # refuses what is no level
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _z(level: float) -> float:
    """Return the two-sided normal quantile of a confidence level."""
    if not 0 < level < 1:
        raise PruneSearchError(f"`0 < level < 1` must hold, but got {level}: use 0.95")
    return NormalDist().inv_cdf((1 + level) / 2)
