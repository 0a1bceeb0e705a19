"""Bipartite soft matching: it selects and merges in one, by similarity alone."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from prunesearch.core.plans.stage import kept_count
from prunesearch.pruning.attention import mean_key, of_length_one
from prunesearch.pruning.forward.assignment import Assignment, Grouped, Regrouping
from prunesearch.pruning.forward.constants import constant, places
from prunesearch.pruning.forward.tokens import Tokens, is_single, take_rows
from prunesearch.pruning.merges.base import MergeInput
from prunesearch.pruning.selections.base import own_slots


def bipartite(inputs: MergeInput) -> Assignment:
    """Bipartite soft matching (ToMe, Bolya et al. 2023), written from the paper.

    Tokens alternate between two sets, protected ones counted; each reducible one of the first finds its most similar
    key in the second, and the most similar pairs merge, averaged by size. One round removes at most half of the
    reducible tokens; more takes more rounds, on keys averaged in the same way. The scorer is ignored.

    Where order means nothing they are left in ToMe's: what is left of the first set, then the second. The sets of the
    next stage alternate in that order. (Of the first set, those stay in order behind a protected token at the start;
    without one the least similar come last to first, as there.)
    """
    tokens, key = inputs.tokens, mean_key(inputs.attention)
    goal = tokens.row_counts(inputs.keep)
    step = _match_once(inputs, tokens, key, goal)
    rounds = _rounds(inputs.keep_before, inputs.keep, tokens, inputs.n_out)
    if rounds == 1:
        return step
    kept, occupied, slot = step.kept, step.occupied, step.slots(tokens.n)
    for _ in range(rounds - 1):
        key, tokens = step.apply(key, tokens)
        step = _match_once(inputs, tokens, key, goal)
        kept, occupied, slot = kept.gather(1, step.kept), step.occupied, step.slots(tokens.n).gather(1, slot)
    return Assignment(kept, occupied, slot, weight=inputs.tokens.mass)


def _rounds(before: float, after: float, tokens: Tokens, n_out: int) -> int:
    """Rounds of halving that the slowest possible row needs; decided on the host, from counts alone."""
    reducible = tokens.n_start - tokens.n_protected
    if tokens.valid is None:
        return _halvings(tokens.n - tokens.n_protected, n_out - tokens.n_protected)
    return _most_halvings(before, after, reducible + tokens.n_protected)


@lru_cache(maxsize=4096)
def _most_halvings(before: float, after: float, longest: int) -> int:
    return max(_halvings(kept_count(before, r), kept_count(after, r)) for r in range(longest + 1))


def _halvings(count: int, goal: int) -> int:
    rounds = 0
    while count > goal:
        count = max(goal, count - count // 2)
        rounds += 1
    return rounds


def _match_once(inputs: MergeInput, tokens: Tokens, key: Tensor, goal: Tensor | None) -> Assignment:
    """One round: merge as many pairs as are still too many, at most half of the reducible tokens."""
    unit = of_length_one(key)
    half = (tokens.n - tokens.n_protected) // 2
    width = tokens.n - min(tokens.n - inputs.n_out, half)
    if tokens.valid is None or goal is None:
        return _match_plain(inputs, tokens, unit, width)
    return _match_padded(inputs, tokens, tokens.valid, unit, width, goal)


# -- nothing is padded: the sets are slices --------------------------------------------------------------------------


def _match_plain(inputs: MergeInput, tokens: Tokens, unit: Tensor, width: int) -> Assignment:
    leading, end, gone = tokens.leading, tokens.n - tokens.trailing, tokens.n - width
    gives, takes = leading + leading % 2, leading + 1 - leading % 2  # where each set starts
    pairs = torch.bmm(unit[:, gives:end:2], unit[:, takes:end:2].transpose(1, 2))
    best, partner = pairs.max(-1)
    ranking = best.sort(stable=True, dim=1, descending=True).indices
    giver = torch.add(places(unit, gives + 1, gives), ranking, alpha=2)  # as tokens
    merged, left = giver[:, :gone], giver[:, gone:]
    target = partner.gather(1, ranking[:, :gone])
    fixed = (places(unit, leading), _takers_and_last(unit, takes, end, tokens.n))
    first, second = fixed if is_single(unit) else (x.expand(ranking.shape[0], -1) for x in fixed)
    if inputs.in_order:
        kept = torch.cat([first, left, second], 1).sort(1).values
        order = torch.cat([kept, merged], 1)
        slots = places(unit, tokens.n).expand_as(order)
        into = torch.empty_like(order).scatter_(1, order, slots).gather(1, takes + 2 * target)
    else:
        left = left.sort(1).values if leading else left
        order = torch.cat([first, left, second, merged], 1)
        into = target + (leading + left.shape[1])
    sizes = None if tokens.size is None else take_rows(tokens.size, order)
    return Regrouping(order, width, Grouped(into), size=sizes)


@constant
def _takers_and_last(device: torch.device, takes: int, end: int, n: int) -> Tensor:
    """`[1, m]` places of the second set, then of the protected tokens at the end."""
    return torch.cat([torch.arange(takes, end, 2, device=device), torch.arange(end, n, device=device)])[None]


# -- rows of different lengths: the sets are lists -------------------------------------------------------------------


def _match_padded(
    inputs: MergeInput, tokens: Tokens, valid: Tensor, unit: Tensor, width: int, goal: Tensor
) -> Assignment:
    reducible, gives = tokens.reducible, tokens.leading % 2
    listed = (~reducible).byte().sort(stable=True, dim=1).indices
    real = reducible.gather(1, listed)
    givers, takers = listed[:, gives::2], listed[:, 1 - gives :: 2]
    open_pairs = real[:, gives::2, None] & real[:, None, 1 - gives :: 2]
    pairs = take_rows(unit, givers) @ take_rows(unit, takers).transpose(1, 2)
    best, partner = pairs.masked_fill(~open_pairs, -torch.inf).max(-1)
    ranking = best.sort(stable=True, dim=1, descending=True).indices
    most = torch.minimum(valid.sum(1) - goal, reducible.sum(1) // 2)[:, None]
    merged = places(ranking, ranking.shape[1]) < most  # in the order of the ranking
    ranked = givers.gather(1, ranking)
    gone = torch.zeros_like(reducible).scatter_(1, ranked, merged)
    stays = valid & ~gone
    # a row that has come to its goal rests
    moves = reducible if inputs.in_order else reducible & (most > 0)
    kept = _slots_of(inputs, tokens, ranked, takers, stays, moves)[:, :width]
    occupied = places(kept, width) < stays.sum(1, keepdim=True)
    if inputs.in_order:
        own = own_slots(stays)
    else:
        own = torch.zeros_like(listed).scatter_(1, kept, places(kept, width).expand_as(kept) * occupied)
    target = own.gather(1, takers.gather(1, partner.gather(1, ranking)))
    slot = own.scatter(1, ranked, torch.where(merged, target, own.gather(1, ranked)))
    return Assignment(kept, occupied, slot=slot, weight=tokens.mass)


def _slots_of(
    inputs: MergeInput, tokens: Tokens, ranked: Tensor, takers: Tensor, stays: Tensor, moves: Tensor
) -> Tensor:
    """Tokens `[batch, n]` in the order of their slots, those that are gone at the end."""
    n = tokens.n
    place = places(stays, n).expand_as(stays)
    if not inputs.in_order:
        # behind the leading tokens the first set, then the second, then the trailing ones; each by place, or by rank
        among = ranked if tokens.leading else places(stays, ranked.shape[1]).expand_as(ranked)
        start = torch.where(tokens.ordinal <= tokens.leading, place - n, place + 2 * n)
        sets = start.scatter(1, takers, takers + n).scatter(1, ranked, among)
        place = sets.where(moves, start)
    return place.masked_fill(~stays, 4 * n).sort(stable=True, dim=1).indices
