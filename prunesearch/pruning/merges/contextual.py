"""The best tokens stay as they are; of all others a few groups are made, each the mean of its tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prunesearch.pruning.attention import unit_keys
from prunesearch.pruning.forward.assignment import Assignment
from prunesearch.pruning.forward.tokens import take_rows
from prunesearch.pruning.merges.base import MergeInput


def contextual(inputs: MergeInput) -> Assignment:
    """A part `targets` of what leaves are groups of tokens that are not among the best (VisionZip, Yang et al. 2024).

    Of the others, in their order, every so many-th is a target, and each goes to the target with the most similar key
    (cosine). A group is the mean of its tokens by size, and stands where the earliest of them stood, so that positions
    stay in order; it counts as one token, as theirs does. Protected tokens take nothing in.
    """
    tokens, unit, n = inputs.tokens, unit_keys(inputs.attention), inputs.tokens.n
    place = torch.arange(n, device=unit.device)
    stays, groups = _best(inputs)
    rest = tokens.reducible & ~stays
    nth = rest.cumsum(1) - 1
    step = torch.div(rest.sum(1, keepdim=True), groups.clamp(min=1), rounding_mode="floor").clamp(min=1)
    target = rest & (nth % step == 0) & (nth < step * groups)
    group = _nearest(inputs, unit, target).where(rest & ~target, place)
    # of every target, the earliest token that went to it; all others are their own
    earliest = place.expand_as(group).scatter_reduce(1, group, place.where(rest, n).expand_as(group), "amin")
    first = earliest.gather(1, group).where(rest, place)
    kept, occupied = _in_order(stays | (rest & (first == place)), inputs.chosen[0].n_out)
    slot_of = torch.zeros_like(group).scatter(1, kept.where(occupied, kept[:, :1]), _slots(occupied))
    slot = slot_of.gather(1, first)
    padded = None if tokens.valid is None else occupied
    return Assignment(kept, padded, slot=slot, weight=tokens.mass, counted=False)


def _best(inputs: MergeInput) -> tuple[Tensor, Tensor]:
    """Bool `[batch, n]`: what stays as it is; and `[batch, 1]` how many groups there are to be."""
    chosen, _ = inputs.chosen
    protected = inputs.tokens.protected.sum(1, keepdim=True)
    left = chosen.count - protected
    groups = (left.double() * inputs.params["targets"] + 0.5).floor().long()
    groups = torch.minimum(groups.clamp(min=1), left.clamp(min=0))
    place = torch.arange(chosen.ranking.shape[1], device=left.device)
    first = place < protected + left - groups  # in the ranking
    return torch.zeros_like(inputs.tokens.protected).scatter(1, chosen.ranking, first), groups


def _nearest(inputs: MergeInput, unit: Tensor, target: Tensor) -> Tensor:
    """`[batch, n]` the target that is most like each token; similarities are to targets alone."""
    most = max(1, math.floor(inputs.chosen[0].n_out * inputs.params["targets"] + 0.5))
    there, occupied = _in_order(target, most)
    alike = unit @ take_rows(unit, there).transpose(1, 2)
    return there.gather(1, alike.masked_fill(~occupied[:, None, :], -torch.inf).argmax(2))


def _in_order(some: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """`[batch, most]` those of the tokens that are marked, in order, and which slots have one."""
    found = (~some).to(torch.uint8).sort(dim=1, stable=True).indices[:, :most]
    return found, torch.arange(most, device=found.device) < some.sum(1, keepdim=True)


def _slots(occupied: Tensor) -> Tensor:
    """`[batch, n_out]` each slot's own number, 0 on those without a token."""
    return torch.arange(occupied.shape[1], device=occupied.device) * occupied
