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

from prunesearch.core.plans.plan import Plan
from prunesearch.search.space.plan_space import PlanSpace


class ProjectedSampler(BaseSampler):
    """Draws with `inner`, then repairs.

    Args:
        inner: any Optuna sampler.
        space: how schedules and parameters correspond.
        repair: turns a drawn schedule into one that may be evaluated; it must lie in the space.
        next_seed: a schedule to propose in place of a drawn one; None when there is none left.
    """

    def __init__(
        self,
        inner: BaseSampler,
        space: PlanSpace,
        repair: Callable[[Plan], Plan],
        next_seed: Callable[[], Plan | None],
    ) -> None:
        self.inner, self.space, self.repair, self.next_seed = inner, space, repair, next_seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters of the space, drawn together."""
        return self.space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw all parameters, repair the schedule they stand for, and return its parameters."""
        if "fixed_params" in trial.system_attrs:  # queued with Optuna's own `enqueue_trial`
            return {}
        params = self._seed() or self._draw(study, trial, search_space)
        if params is None:
            raise optuna.exceptions.OptunaError("a repaired schedule must lie in the space")
        return params

    def _seed(self) -> dict[str, Any] | None:
        seed = self.next_seed()
        return None if seed is None else self.space.encode(seed)

    def _draw(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any] | None:
        drawn = self.inner.sample_relative(study, trial, search_space)
        for name, distribution in search_space.items():
            if name not in drawn:
                drawn[name] = self.inner.sample_independent(study, trial, name, distribution)
        return self.space.encode(self.repair(self.space.decode(drawn)))

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
