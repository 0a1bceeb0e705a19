"""Constraints on quality: told to the study for each trial, and judged again on the holdout split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from prunesearch.core.constraint import Constraint
from prunesearch.core.plans.plan import Plan
from prunesearch.search.trials.evaluate import Evaluation
from prunesearch.study.trials import TrialRecord


@dataclass(frozen=True)
class QualityConstraints:
    """What `Search` asks of every evaluation.

    Attributes:
        bounds: the constraints that are on a quality.
        unpruned: the unpruned model on the rows of the search.
    """

    bounds: Sequence[Constraint]
    unpruned: Evaluation

    def __call__(self, schedule: Plan, evaluation: Evaluation) -> dict[str, float]:
        """How far each constraint is broken, by its text; 0 or less is feasible, as Optuna has it."""
        # one that lost its race has the first rows alone: both models are judged by the same
        unpruned, found = self.unpruned.first(evaluation.n), {}
        for bound in self.bounds:
            mine, base = ((e.in_views.get(bound.view, e) if bound.view else e) for e in (evaluation, unpruned))
            value = mine.agreement if bound.on_agreement else mine.quality
            found[bound.text] = bound.violation(value, base.quality)
        return found


def feasible_records(study: optuna.Study, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Of finished trials, those that keep every constraint; where none does, the one that breaks them least."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    broken = {t.number: sum(max(0.0, value) for value in t.constraints.values()) for t in trials}
    kept = [r for r in records if broken[r.number] == 0]
    return kept or sorted(records, key=lambda r: broken[r.number])[:1]
