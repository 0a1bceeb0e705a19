"""One network for a whole front: weights on which any schedule near it works, at any width of its blocks.

Every step trains the unpruned model, the smallest plan and two between them on the same rows (the sandwich rule, Yu
and Huang 2019); reduced passes learn from the step's own unpruned pass, which learns from the untouched model and the
labels (in-place distillation). Blocks with fewer heads or neurons share the rows of the whole block's layers, as
DynaBERT's (Hou et al. 2020); their last layer is their own at each width, and begins as the search fitted it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prunesearch.core.pareto import non_dominated
from prunesearch.core.plans.plan import Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.training.distillation import Draw

_DRAWN = 2  # schedules of a step, beside the unpruned model and the smallest schedule
_NEAR = 32  # schedules that are near the front, at least


def sandwich(near: Sequence[Plan | Schedule]) -> Draw:
    """Draws for each step: unpruned, the last of the plans, which is the smallest, and two of the others.

    Args:
        near: plans from the slowest to the fastest; by torch's own random numbers, which checkpoints carry on.
    """
    plans = [Plan.of(given) for given in near]
    smallest, others = plans[-1], plans[:-1] or plans

    def draw() -> list[Plan]:
        chosen = torch.randint(len(others), (_DRAWN,)).tolist()
        return [Plan(), smallest, *(others[i] for i in chosen)]

    return draw


def looked_at(near: Sequence[Plan | Schedule]) -> list[Plan]:
    """The plans that the stopping rows judge such a training by, the same at every look: both ends and the middle."""
    return [Plan(), *(Plan.of(near[place]) for place in dict.fromkeys((len(near) // 4, len(near) // 2, len(near) - 1)))]


def near_the_front(tried: Sequence[tuple[Plan, float, float]]) -> list[Plan]:
    """Plans that are on the front of what was tried, or next to it, slowest first.

    Fronts are taken off one after another until there are enough, so that what is drawn is where a search looks.

    Args:
        tried: plans with their cost and their loss; the unpruned model is passed over.
    """
    left = [one for one in tried if one[0] != Plan()]
    found: list[tuple[Plan, float, float]] = []
    while left and len(found) < _NEAR:
        stands = non_dominated([(cost, loss) for _, cost, loss in left])
        found += [one for one, stand in zip(left, stands, strict=True) if stand]
        left = [one for one, stand in zip(left, stands, strict=True) if not stand]
    return list(dict.fromkeys(plan for plan, _, _ in sorted(found, key=lambda one: -one[1])))
