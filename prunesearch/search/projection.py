"""A sampler around a sampler: what the inner one draws is brought inside the budget and away from what is known.

The repaired parameters are the ones the study records, so that the inner sampler learns from what was evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from prunesearch.core.schedule import Schedule
from prunesearch.search.space import Space


class ProjectedSampler(BaseSampler):
    """Draws with `inner`, then repairs.

    Args:
        inner: any Optuna sampler.
        space: how schedules and parameters correspond.
        repair: turns a drawn schedule into one that may be evaluated; it must lie in the space.
    """

    def __init__(self, inner: BaseSampler, space: Space, repair: Callable[[Schedule], Schedule]) -> None:
        self.inner, self.space, self.repair = inner, space, repair

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters of the space, drawn together."""
        return self.space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw all parameters, repair the schedule they stand for, and return its parameters."""
        drawn = self.inner.sample_relative(study, trial, search_space)
        for name, distribution in search_space.items():
            if name not in drawn:
                drawn[name] = self.inner.sample_independent(study, trial, name, distribution)
        params = self.space.encode(self.repair(self.space.decode(drawn)))
        if params is None:
            raise optuna.exceptions.OptunaError("a repaired schedule must lie in the space")
        return params

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, distribution: Any) -> Any:
        """Left to the inner sampler."""
        return self.inner.sample_independent(study, trial, param_name, distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Left to the inner sampler."""
        self.inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Left to the inner sampler."""
        self.inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Left to the inner sampler."""
        self.inner.reseed_rng()
