"""Quality as a caller of the library defines it: a function of every row, or one number for the whole model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.pruning.apply import handle_of
from prunesearch.tasks.metrics.metric import Interval, RowMean

Scorer = Callable[[Any, Any], Any]
Whole = Callable[[nn.Module], float]


class RowFunction(RowMean):
    """The mean of `scorer(outputs, labels)`, one number a row, higher is better; intervals are normal.

    Args:
        scorer: given what the task's metrics see (class logits `[b, classes]`, texts, ...; of batches of one's own, the
            model's raw outputs) and the labels of the same rows; returns `[b]`.
    """

    binary = False
    lowest, highest = -math.inf, math.inf

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.name = name_of(scorer)  # type: ignore[misc]

    def statistics(self, answers: Any, wanted: Any) -> Tensor:
        """The scores `[b, 1]`.

        Raises:
            PruneSearchError: if they are not one finite number a row, or the scorer asks for what is not there.
        """
        try:
            found = self.scorer(answers, wanted)
        except (AttributeError, KeyError) as error:  # what was exported has fewer outputs than the model
            raise PruneSearchError(
                f"metric `{self.name}` must find what it reads in the outputs, but got {type(error).__name__}: {error}"
            ) from error
        scores = torch.as_tensor(found).detach().float().cpu()
        if scores.ndim != 1 or len(scores) != len(wanted):
            raise PruneSearchError(
                f"metric `{self.name}` must return one number a row ([{len(wanted)}] here), but got shape "
                f"{list(scores.shape)}: for one number of the whole model give evaluate="
            )
        if not bool(scores.isfinite().all()):
            raise PruneSearchError(f"metric `{self.name}` must return finite numbers, but got NaN or infinity")
        return scores[:, None]


class WholeModel(RowMean):
    """`evaluate(model)`, one number, higher is better: nothing is known of rows, so there is no interval.

    It is called once for every plan; the plan is in the model while it runs.

    Args:
        evaluate: the caller's evaluation.
        model: what it is given.
    """

    binary, runs_model = False, True
    lowest, highest = -math.inf, math.inf

    def __init__(self, evaluate: Whole, model: nn.Module) -> None:
        self.evaluate, self.model = evaluate, model
        self.name = name_of(evaluate)  # type: ignore[misc]
        self._known: dict[Plan, float] = {}

    def statistics(self, answers: Any, wanted: Any) -> Tensor:
        """The number of the model as it is now, for every row: `[b, 1]`.

        Raises:
            PruneSearchError: if it is no finite number.
        """
        handle = handle_of(self.model)
        plan = Plan() if handle is None else handle.plan
        if plan not in self._known:
            self._known[plan] = self._call()
        return torch.full((len(wanted), 1), self._known[plan])

    def _call(self) -> float:
        try:
            value = float(self.evaluate(self.model))
        except (TypeError, ValueError) as error:
            raise PruneSearchError(f"evaluate `{self.name}` must return a number: {error}") from error
        if not math.isfinite(value):
            raise PruneSearchError(f"evaluate `{self.name}` must return a finite number, but got {value}")
        return value

    def interval(self, rows: Tensor, level: float = 0.95) -> Interval:
        """The number, with an interval that says nothing."""
        return self.value(rows), -math.inf, math.inf

    def difference(self, before: Tensor, after: Tensor, level: float = 0.95) -> Interval:
        """The difference, with an interval that says nothing."""
        return self.contrast(before, after), -math.inf, math.inf


def name_of(function: Callable[..., Any]) -> str:
    """What a function is called; a lambda is "score"."""
    name = str(getattr(function, "__name__", type(function).__name__))
    return "score" if name == "<lambda>" else name
