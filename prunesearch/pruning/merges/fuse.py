"""Tokens that are not kept become one."""

from __future__ import annotations

import torch
from torch import Tensor

from prunesearch.pruning.forward.assignment import Assignment, Grouped, Regrouping
from prunesearch.pruning.forward.constants import ones, places
from prunesearch.pruning.merges.base import MergeInput
from prunesearch.pruning.selections.base import Chosen


def fuse(inputs: MergeInput) -> Assignment:
    """Tokens that are not kept become ONE, their mean weighted by size x score (EViT).

    The fused token counts as one of the tokens that leave; it takes the place of the best-scored token in it, which is
    the last one where they do not stand in order.
    """
    chosen, score = inputs.chosen
    if inputs.tokens.valid is None:
        return _fused(inputs, chosen)
    group = (chosen.rank >= chosen.count - 1) & inputs.tokens.reducible
    # a row too short to reduce has no fused token
    group = group & (chosen.count < inputs.tokens.valid.sum(1, keepdim=True))
    anchor = ((chosen.rank == chosen.count - 1) * chosen.own_slot).sum(1, keepdim=True)
    slot = torch.where(group, anchor, chosen.own_slot)
    mass = inputs.tokens.mass
    weight = torch.where(group, mass * _importance(score), mass)
    return Assignment(chosen.kept, chosen.occupied, slot=slot, weight=weight)


def _importance(score: Tensor) -> Tensor:
    """Scores, none of them zero: where all are, sizes alone weigh."""
    return score.clamp(min=1e8 * torch.finfo(score.dtype).tiny)  # products with it are not rounded to zero


def _fused(inputs: MergeInput, chosen: Chosen) -> Assignment:
    n_out, order = chosen.n_out, chosen.order
    batch, n_in = order.shape
    scores = _importance(chosen.best[:, n_out - 1 :])
    plain = ones(scores, n_out - 1, scores.dtype).expand(batch, n_out - 1)
    importance = torch.cat([plain, scores], 1)
    into = _slot_of_the_best(chosen) if chosen.in_order else places(order, n_out, n_out - 1)
    if chosen.in_order:
        shown = torch.ones_like(importance[:, :n_out]).scatter(1, into, scores[:, :1])
        importance = torch.cat([shown, scores[:, 1:]], 1)
    slots = into.expand(batch, n_in - n_out)
    return Regrouping(order, n_out, Grouped(slots), size=inputs.sizes(order), importance=importance)


def _slot_of_the_best(chosen: Chosen) -> Tensor:
    """`[batch, 1]` slot of the last of the kept tokens, where they stand in order."""
    last = chosen.ranking[:, chosen.n_out - 1 : chosen.n_out]
    return (chosen.kept < last).sum(1, keepdim=True)
