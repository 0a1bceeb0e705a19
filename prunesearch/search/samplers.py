"""Samplers by name; each row builds an Optuna sampler from what a search knows before its first trial."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunesearch.core.registry import Entry, Registry

if TYPE_CHECKING:
    import optuna

    from prunesearch.search.objectives import Objective
    from prunesearch.search.sensitivity import Sensitivities
    from prunesearch.search.space import Space

_HERE = "prunesearch.search.samplers"

SAMPLERS = Registry(
    "sampler",
    {
        "tpe": Entry(f"{_HERE}:tpe", "multi-objective tree-structured Parzen estimator"),
        "nsga2": Entry(f"{_HERE}:nsga2", "NSGA-II; does not breed from the seeds"),
        "random": Entry(f"{_HERE}:random", "independent uniform draws"),
    },
)


@dataclass(frozen=True)
class SamplerContext:
    """What a sampler may know.

    Attributes:
        space: what may be proposed; its methods are those that survived the screening.
        objectives: what is minimised beside the loss (in the order of the study's values 1, 2, ...), and bounds.
        sensitivities: of the space; None where nothing was measured.
        seed: of everything random.
    """

    space: Space
    objectives: Sequence[Objective]
    sensitivities: Sensitivities | None = None
    seed: int = 0


def tpe(context: SamplerContext) -> optuna.samplers.BaseSampler:
    """Multivariate TPE; learns from the seeds as from any trial."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=context.seed, multivariate=True, n_startup_trials=10)


def nsga2(context: SamplerContext) -> optuna.samplers.BaseSampler:
    """NSGA-II (Deb 2002) with a population fit for short runs."""
    import optuna

    return optuna.samplers.NSGAIISampler(seed=context.seed, population_size=20)


def random(context: SamplerContext) -> optuna.samplers.BaseSampler:
    """Uniform over the parameters of the space."""
    import optuna

    return optuna.samplers.RandomSampler(seed=context.seed)
