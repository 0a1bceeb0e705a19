"""What a sampler may know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prunesearch.search.costs.objectives import Objective
    from prunesearch.search.solve.losses import Sensitivities
    from prunesearch.search.space.plan_space import PlanSpace


@dataclass(frozen=True)
class SamplerContext:
    """What a sampler may know.

    Attributes:
        space: what may be proposed.
        objectives: what is minimised beside the loss (in the order of the study's values 1, 2, ...), and bounds.
        sensitivities: of the space; None where nothing was measured.
        seed: of everything random; another one in every session of a study.
        study_seed: the same in every session.
    """

    space: PlanSpace
    objectives: Sequence[Objective]
    sensitivities: Sensitivities | None = None
    seed: int = 0
    study_seed: int = 0
