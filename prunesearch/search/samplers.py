"""Samplers by name; each row builds an Optuna sampler from a seed."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from prunesearch.core.registry import Entry, Registry

if TYPE_CHECKING:
    import optuna

_HERE = "prunesearch.search.samplers"

SAMPLERS = Registry(
    "sampler",
    {
        "tpe": Entry(f"{_HERE}:tpe", "multi-objective tree-structured Parzen estimator"),
        "nsga2": Entry(f"{_HERE}:nsga2", "NSGA-II; does not breed from the seeds"),
        "random": Entry(f"{_HERE}:random", "independent uniform draws"),
    },
)


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    """Multivariate TPE; learns from the seeds as from any trial."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=10)


def nsga2(seed: int) -> optuna.samplers.BaseSampler:
    """NSGA-II (Deb 2002) with a population fit for short runs."""
    import optuna

    return optuna.samplers.NSGAIISampler(seed=seed, population_size=20)


def random(seed: int) -> optuna.samplers.BaseSampler:
    """Uniform over the parameters of the space."""
    import optuna

    return optuna.samplers.RandomSampler(seed=seed)
