"""Samplers by name; each row builds an Optuna sampler from what a search knows before its first trial."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prunesearch.search.samplers.context import SamplerContext

if TYPE_CHECKING:
    import optuna


_POPULATION = 20


def guided(context: SamplerContext) -> optuna.samplers.BaseSampler:
    """The project's own: proposes where the front is expected to grow most for the evaluation spent."""
    from prunesearch.search.samplers.guided import GuidedSampler

    return GuidedSampler(context)


def tpe(context: SamplerContext) -> optuna.samplers.BaseSampler:
    """Multivariate TPE (Ozaki 2022); learns from the seeds as from any trial."""
    import optuna

    with _experimental():
        return optuna.samplers.TPESampler(seed=context.seed, multivariate=True, n_startup_trials=10)


def nsga2(context: SamplerContext) -> optuna.samplers.BaseSampler:
    """NSGA-II (Deb 2002) with a population fit for short runs; seeds are members of its first generations."""
    from prunesearch.search.samplers.genetic import SeededNSGAII

    return SeededNSGAII(seed=context.seed, population_size=_POPULATION)


def nsga3(context: SamplerContext) -> optuna.samplers.BaseSampler:
    """NSGA-III (Deb and Jain 2014), whose reference points keep a front of many objectives spread out."""
    from prunesearch.search.samplers.genetic import SeededNSGAIII

    with _experimental():
        return SeededNSGAIII(seed=context.seed, population_size=_POPULATION)


def gp(context: SamplerContext) -> optuna.samplers.BaseSampler:
    """One Gaussian process an objective, and the expected gain in hypervolume (Daulton 2020)."""
    import optuna

    return optuna.samplers.GPSampler(seed=context.seed, n_startup_trials=10, warn_independent_sampling=False)


def evolution(context: SamplerContext) -> optuna.samplers.BaseSampler:
    """Mutants and means of the front (Kim and Cho 2021); seeds that are on the front have children."""
    from prunesearch.search.samplers.evolution import EvolutionarySampler

    return EvolutionarySampler(context.space, context.seed)


def reinforce(context: SamplerContext) -> optuna.samplers.BaseSampler:
    """A policy that learns to propose (Williams 1992), from seeds as from any trial."""
    from prunesearch.search.samplers.reinforce import ReinforceSampler

    return ReinforceSampler(context.space, context.seed)


def qmc(context: SamplerContext) -> optuna.samplers.BaseSampler:
    """A scrambled Sobol sequence (Bergstra and Bengio 2012)."""
    import optuna

    with _experimental():
        return optuna.samplers.QMCSampler(seed=context.seed, scramble=True, warn_independent_sampling=False)


def random(context: SamplerContext) -> optuna.samplers.BaseSampler:
    """Uniform over the parameters of the space."""
    import optuna

    return optuna.samplers.RandomSampler(seed=context.seed)


@contextmanager
def _experimental() -> Iterator[None]:
    """Without the warning that Optuna gives for what is new."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
