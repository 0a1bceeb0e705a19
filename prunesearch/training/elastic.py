"""One network for a whole front: weights on which any schedule near it works, at any width of its blocks.

Every step trains the unpruned model, the smallest plan and two between them on the same rows (the sandwich rule, Yu
and Huang 2019); reduced passes learn from the step's own unpruned pass, which learns from the untouched model and the
labels (in-place distillation). Blocks with fewer heads or neurons have parts of the whole block's layers as theirs, the
fewer within the more, as DynaBERT's (Hou et al. 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from prunesearch.core.pareto import non_dominated
from prunesearch.core.plans.plan import Change, Plan
from prunesearch.core.plans.schedule import Schedule
from prunesearch.core.tables.registry import CHANGES
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


def drawn(plan: Plan) -> Plan:
    """What a training for all plans has of one: its stages, and halves that are left out, or parts of whole ones."""
    rows = {change: CHANGES.entry(change.kind) for change in plan.shaped.changes}
    return Plan(plan.schedule, (change for change, row in rows.items() if row.shares or not row.fitted))


def shared(plans: Sequence[Plan], fits: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """What smaller halves of blocks are where all have parts of the same layers: which heads, or neurons, stay.

    Args:
        plans: whose changes they are.
        fits: each by itself, as the search has them.
    """
    levels: dict[tuple[int, str], dict[int, Change]] = {}
    for change in {change for plan in plans for change in plan.changes if CHANGES.entry(change.kind).shares}:
        levels.setdefault((change.block or 0, change.half), {})[int(change.params[0][1])] = change
    found: dict[str, dict[str, Tensor]] = {}
    for changes in levels.values():
        stays = nested({keep: fits[str(change)]["kept"] for keep, change in changes.items()})
        found |= {str(change): {"kept": stays[keep]} for keep, change in changes.items()}
    return found


def nested(kept: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The groups that stay at each number, those of a smaller one among those of the next.

    Args:
        kept: by how many they are: the groups that were chosen for each number by itself.
    """
    found, inner = {}, list[int]()
    for keep in sorted(kept):
        more = [group for group in kept[keep].tolist() if group not in inner]
        inner = sorted([*inner, *more[: keep - len(inner)]])
        found[keep] = torch.tensor(inner)
    return found
