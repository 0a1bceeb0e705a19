"""Tokens that are not kept become one."""

from __future__ import annotations

import torch

from prunesearch.pruning.forward.assignment import Assignment
from prunesearch.pruning.merges.base import MergeInput


def fuse(inputs: MergeInput) -> Assignment:
    """Tokens that are not kept become ONE, their mean weighted by size x score (EViT).

    The fused token counts as one of the tokens that leave; it takes the place of the best-scored token in it.
    """
    chosen, score = inputs.chosen
    group = (chosen.rank >= chosen.count - 1) & inputs.tokens.reducible
    if inputs.tokens.valid is not None:  # a row too short to reduce has no fused token
        reduces = chosen.count < inputs.tokens.valid.sum(1, keepdim=True)
        group = group & reduces
    anchor = ((chosen.rank == chosen.count - 1) * chosen.own_slot).sum(1, keepdim=True)
    slot = torch.where(group, anchor, chosen.own_slot)
    mass = inputs.tokens.mass
    weighted = mass * score.clamp(min=0)
    total = (weighted * group).sum(1, keepdim=True)
    weight = torch.where(group & (total > 0), weighted, mass.to(weighted.dtype))
    return Assignment(chosen.kept, chosen.occupied, slot=slot, weight=weight)
