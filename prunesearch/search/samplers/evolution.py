"""Evolutionary search of the Length-Adaptive Transformer (Kim and Cho 2021, section 3.3) as an Optuna sampler.

Their genes are the lengths of all layers; here they are the parameters of a space. As there, the population is the
front of all finished trials, half of the children are mutants of one parent and half are means of two.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from prunesearch.search.space.plan_space import PlanSpace

_FIRST = 20  # plain schedules that the first population is made of
_MUTATION = 0.5  # probability that a gene of a mutant is drawn anew
_CROSSOVER = 0.5  # share of children with two parents


class EvolutionarySampler(BaseSampler):
    """Breeds from the front of ALL finished trials, seeds among them.

    Trials that break a constraint (`trial.set_constraint`) are in the population only while none keeps them.

    Args:
        space: what may be proposed.
        seed: of everything random.
    """

    def __init__(self, space: PlanSpace, seed: int) -> None:
        self.space = space
        self._random = random.Random(seed)
        self._seen: set[int] = set()
        self._front: list[FrozenTrial] = []

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters of the space, drawn together."""
        return self.space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parameters of a child, or of a plain schedule while the first population is not complete."""
        self._learn(study)
        if len(self._seen) < _FIRST or not self._front:
            return self.space.plain(self._random)
        if len(self._front) > 1 and self._random.random() < _CROSSOVER:
            return self._mean(*self._random.sample(self._front, 2))
        return self._mutant(self._random.choice(self._front))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A uniform draw, for a parameter that is not the space's."""
        return optuna.samplers.RandomSampler(self._random.randrange(2**32)).sample_independent(
            study, trial, param_name, param_distribution
        )

    def reseed_rng(self) -> None:
        """Draw anew, as a copy of the sampler in another process must."""
        self._random.seed()

    def _mutant(self, parent: FrozenTrial) -> dict[str, Any]:
        child = dict(parent.params)
        for name, distribution in self.space.distributions().items():
            if self._random.random() >= _MUTATION:
                continue
            if isinstance(distribution, CategoricalDistribution):
                child[name] = self._random.choice(distribution.choices)
            else:
                child[name] = self._random.randint(*self.space.between(child, name))
        return child

    def _mean(self, one: FrozenTrial, other: FrozenTrial) -> dict[str, Any]:
        """Means of numbers, rounded up; a method is one parent's or the other's."""
        child = {}
        for name, distribution in self.space.distributions().items():
            pair = (one.params[name], other.params[name])
            methods = isinstance(distribution, CategoricalDistribution)
            child[name] = self._random.choice(pair) if methods else (pair[0] + pair[1] + 1) // 2
        return child

    def _learn(self, study: Study) -> None:
        """Take in the trials that finished since the last look."""
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if trial.number in self._seen:
                continue
            self._seen.add(trial.number)
            if not any(_no_worse(known, trial) for known in self._front):
                self._front = [known for known in self._front if not _no_worse(trial, known)] + [trial]


def _no_worse(one: FrozenTrial, other: FrozenTrial) -> bool:
    """Whether `one` breaks constraints by less than `other`, or by as much and is no worse in any value (Deb 2002)."""
    broken = [sum(max(0.0, excess) for excess in trial.constraints.values()) for trial in (one, other)]
    if broken[0] != broken[1]:
        return broken[0] < broken[1]
    values: list[Sequence[float]] = [one.values, other.values]
    return all(a <= b for a, b in zip(*values, strict=True))
