"""Points of a run on given weights (`run --weights`): the weights are theirs, and quality has two references."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from prunesearch.core.plans.plan import Plan
from prunesearch.search.finish.items import paired_difference_to, value_beside
from prunesearch.search.finish.kept import Kept
from prunesearch.search.trials.evaluate import Evaluation, Evaluator
from prunesearch.study.front_items import Difference, Point, Tuned
from prunesearch.study.settings.given_weights import GivenWeights
from prunesearch.tasks.base import Task

_OWN = "own"  # of a plan on the model's own weights, in the names of what is kept


@dataclass(frozen=True)
class Carried:
    """Makes what a run found on given weights into points that carry them.

    Attributes:
        given: the weights, in the model.
        task: the model with its data.
        kept: evaluations of before.
        evaluator: of the holdout rows, whose reference is the user's model.
        reference: the user's model on them.
    """

    given: GivenWeights
    task: Task
    kept: Kept
    evaluator: Callable[[], Evaluator]
    reference: Evaluation

    def point(self, point: Point, evaluation: Evaluation) -> Point:
        """The point with its weights, what it is without them, and the unpruned model after the same training."""
        plan, beside = point.to_plan(), self.reference.first(evaluation.n)
        before = self._on_own(plan, evaluation.n)
        tuned = Tuned(
            **self.given.told,
            shared=True,
            before=value_beside(self.reference, before, None),
            equal=value_beside(self.reference, self._equal, None),
            difference=paired_difference_to(self._equal.first(beside.n), evaluation),
        )
        whole = Plan(plan.schedule, plan.changes, self.given.name)
        return point.model_copy(update={"plan": whole.to_dict(), "text": str(whole), "tuned": tuned})

    def note(self) -> str:
        """What the weights, and the same training of the unpruned model alone, make of the unpruned model."""
        rows = self.reference.n
        mine = self._kept(Plan(weights=self.given.name), rows, lambda: self.evaluator().evaluate(Plan(), rows=rows))
        return (
            f"without stages the model has {self.task.metric} {100 * self.reference.quality:.2f} % on its own weights, "
            f"{_changed(self.reference, mine)} on those given, {_changed(self.reference, self._equal)} after the same "
            "training alone; every difference is to its own"
        )

    @cached_property
    def _equal(self) -> Evaluation:
        if self.given.equal is None:
            return self.reference
        rows = self.reference.n

        def evaluate() -> Evaluation:
            with self.given.as_equal():
                return self.evaluator().evaluate(Plan(), rows=rows)

        return self._kept(Plan(weights=self.given.equal), rows, evaluate)

    def _on_own(self, plan: Plan, rows: int) -> Evaluation:
        def evaluate() -> Evaluation:
            with self.given.taken_out():
                return self.evaluator().evaluate(plan, rows=rows)

        return self._kept(Plan(plan.schedule, plan.changes, _OWN), rows, evaluate)

    def _kept(self, plan: Plan, rows: int, evaluate: Callable[[], Evaluation]) -> Evaluation:
        return self.kept.evaluation(plan, rows, self.task.scoring, evaluate)[0]


def _changed(reference: Evaluation, evaluation: Evaluation) -> str:
    """`72.00 % (+2.30 points, +1.70 to +2.90)`."""
    difference: Difference = paired_difference_to(reference, evaluation)
    ends = difference.ends
    around = "" if ends is None else f", {100 * ends[0]:+.2f} to {100 * ends[1]:+.2f}"
    return f"{100 * evaluation.quality:.2f} % ({100 * difference.value:+.2f} points{around})"
