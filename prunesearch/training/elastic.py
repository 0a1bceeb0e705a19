"""One network for a whole front: weights on which any schedule near it works.

Every step trains the unpruned model, the smallest schedule and two between them on the same rows (the sandwich rule, Yu
and Huang 2019); reduced passes learn from the step's own unpruned pass, which learns from the untouched model and the
labels (in-place distillation).
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


def sandwich(near: Sequence[Schedule]) -> Draw:
    """Draws for each step: unpruned, the last of the schedules, which is the smallest, and two of the others.

    Args:
        near: schedules from the slowest to the fastest; by torch's own random numbers, which checkpoints carry on.
    """
    smallest, others = Plan(near[-1]), [Plan(schedule) for schedule in near[:-1]] or [Plan(near[-1])]

    def draw() -> list[Plan]:
        chosen = torch.randint(len(others), (_DRAWN,)).tolist()
        return [Plan(), smallest, *(others[i] for i in chosen)]

    return draw


def looked_at(near: Sequence[Schedule]) -> list[Plan]:
    """The plans that the stopping rows judge such a training by, the same at every look: both ends and the middle."""
    return [Plan(), *(Plan(near[place]) for place in dict.fromkeys((len(near) // 4, len(near) // 2, len(near) - 1)))]


def near_the_front(tried: Sequence[tuple[Schedule, float, float]]) -> list[Schedule]:
    """Schedules that are on the front of what was tried, or next to it, slowest first.

    Fronts are taken off one after another until there are enough, so that what is drawn is where a search looks.

    Args:
        tried: schedules with their cost and their loss; those without stages are passed over.
    """
    left = [one for one in tried if len(one[0])]
    found: list[tuple[Schedule, float, float]] = []
    while left and len(found) < _NEAR:
        stands = non_dominated([(cost, loss) for _, cost, loss in left])
        found += [one for one, stand in zip(left, stands, strict=True) if stand]
        left = [one for one, stand in zip(left, stands, strict=True) if not stand]
    return list(dict.fromkeys(schedule for schedule, _, _ in sorted(found, key=lambda one: -one[1])))
