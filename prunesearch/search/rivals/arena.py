"""What methods are compared on: a finished study with its model, its cost table and its trials."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.plan import Plan
from prunesearch.pruning.apply import Handle
from prunesearch.search.costs.costing import Costing
from prunesearch.search.finish.kept import Kept
from prunesearch.search.rivals.any_method import AnyMethod
from prunesearch.search.trials.evaluate import Evaluator
from prunesearch.study.folder import StudyFolder
from prunesearch.study.front import Front
from prunesearch.study.setup import Setting
from prunesearch.study.trials import TrialRecord


@dataclass(frozen=True)
class Effort:
    """What it took to find or to train something, beyond the cost table: seconds, and rows that the model ran.

    Rows are counted in forwards of the unpruned model.
    """

    seconds: float = 0.0
    rows: int = 0

    def __add__(self, other: Effort) -> Effort:
        return Effort(self.seconds + other.seconds, self.rows + other.rows)


@dataclass(frozen=True)
class Entrant:
    """The plans of a method, from the slowest to the fastest by the cost table, and what they took."""

    plans: Sequence[Plan]
    effort: Effort = field(default_factory=Effort)


class LeftOutError(PruneSearchError):
    """A method cannot take part here, and the others go on without it; the message is why."""


@dataclass(frozen=True)
class Arena:
    """All that a method may look at; made once for all of them.

    Attributes:
        front: of the study.
        folder: of the study.
        setting: of its model and data.
        handle: on the model.
        costing: what schedules cost by prediction.
        trials: finished ones of the study.
        searched_on: calibration rows that the trials were evaluated on.
        share: of the unpruned model's latency, that plans may take.
        kept: what was timed and judged before.
        learnt: what training each learned scorer took whose weights are in the model.
    """

    front: Front
    folder: StudyFolder
    setting: Setting
    handle: Handle
    costing: Costing
    trials: Sequence[TrialRecord]
    searched_on: int
    share: float
    kept: Kept
    learnt: dict[str, Effort] = field(default_factory=dict)

    @cached_property
    def prices(self) -> AnyMethod:
        """What plans cost by the table of the first load, whatever their methods are."""
        return AnyMethod(self.costing.table)

    @cached_property
    def limit(self) -> float:
        """Predicted latency that plans may have."""
        return self.share * self.prices.predict(Plan())

    def loss(self, plan: Plan) -> tuple[float, float]:
        """Of a plan on the rows of the search, and the seconds that finding it took."""

        def evaluate() -> dict[str, Tensor]:
            begun = time.monotonic()
            found = self.calibration.evaluate(plan).loss
            return {"loss": torch.tensor(found), "seconds": torch.tensor(time.monotonic() - begun)}

        known = self.kept.tensors({"searched": plan.to_dict(), "on": self.searched_on}, evaluate)
        return float(known["loss"]), float(known["seconds"])

    @cached_property
    def calibration(self) -> Evaluator:
        """What evaluates plans on the rows of the search."""
        split = self.setting.task.judging("calibration").take(self.searched_on)
        return Evaluator(self.setting.task, self.handle, split)
