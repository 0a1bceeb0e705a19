"""Bipartite soft matching: it selects and merges in one, by similarity alone."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from prunesearch.core.plans.amount import kept_count
from prunesearch.pruning.attention import mean_key, of_length_one
from prunesearch.pruning.forward.assignment import Assignment, Grouped, Regrouping
from prunesearch.pruning.forward.constants import by_length, constant, places
from prunesearch.pruning.forward.tokens import Tokens, is_single, left_of, take_rows
from prunesearch.pruning.merges.base import MergeInput


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
    step = _match_once(inputs, tokens, key, 0)
    rounds = _rounds(inputs.keep_before, inputs.keep, tokens, inputs.n_out)
    if rounds == 1:
        return step
    kept, occupied, slot = step.kept, step.occupied, step.slots(tokens.n)
    for done in range(1, rounds):
        key, tokens = step.apply(key, tokens)
        step = _match_once(inputs, tokens, key, done)
        kept, occupied, slot = kept.gather(1, step.kept), step.occupied, step.slots(tokens.n).gather(1, slot)
    return Assignment(kept, occupied, slot, weight=inputs.tokens.mass)


def _rounds(before: float, after: float, tokens: Tokens, n_out: int) -> int:
    """Rounds of halving that the slowest possible row needs; decided on the host, from counts alone."""
    if tokens.valid is None:
        protected = tokens.leading + tokens.trailing
        return _halvings(tokens.n - protected, n_out - protected)
    return _most_halvings(before, after, tokens.n_start)


@lru_cache(maxsize=4096)
def _most_halvings(before: float, after: float, longest: int) -> int:
    return max(_halvings(kept_count(before, r), kept_count(after, r)) for r in range(longest + 1))


@lru_cache(maxsize=4096)
def _halvings(count: int, goal: int) -> int:
    rounds = 0
    while count > goal:
        count = max(goal, count - count // 2)
        rounds += 1
    return rounds


def _match_once(inputs: MergeInput, tokens: Tokens, key: Tensor, done: int) -> Assignment:
    """One round: merge as many pairs as are still too many, at most half of the reducible tokens."""
    unit, n = of_length_one(key), tokens.n
    width = max(inputs.n_out, n - (n - tokens.n_protected) // 2)
    if tokens.valid is None:
        return _match_plain(inputs, tokens, unit, width)
    return _match_padded(inputs, tokens, tokens.valid, unit, width, done)


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


def _match_padded(inputs: MergeInput, tokens: Tokens, valid: Tensor, unit: Tensor, width: int, done: int) -> Assignment:
    n, gives = tokens.n, tokens.leading % 2
    counts = inputs.keep_before, inputs.keep, tokens.n_start, tokens.n_protected, done
    listed = (tokens.ends >= valid).byte().sort(stable=True, dim=1).indices  # the reducible ones first
    givers, takers = listed[:, gives::2], listed[:, 1 - gives :: 2]
    started, longest, keys = tokens.started, tokens.n_start, take_rows(unit, listed)
    closed_givers, closed_takers = (
        _beyond(started, longest, *counts, gives + i, m, unit.dtype)
        for i, m in enumerate((givers.shape[1], takers.shape[1]))
    )
    pairs = torch.baddbmm(closed_takers[:, None], keys[:, gives::2], keys[:, 1 - gives :: 2].transpose(1, 2))
    best, partner = pairs.max(-1)
    ranking = (best + closed_givers).sort(stable=True, dim=1, descending=True).indices
    ranked = givers.gather(1, ranking)
    gone = _gone(started, longest, *counts, givers.shape[1])  # in the order of the ranking
    place = _place_of(inputs, tokens, valid, ranked, takers, gone)
    # those that are gone behind all others: slots that hold nothing have padding
    order = place.scatter_add(1, ranked, gone * (8 * n)).sort(stable=True, dim=1).indices
    slot = torch.empty_like(order).scatter_(1, order, places(order, n).expand_as(order))
    goal = torch.where(gone, takers.gather(1, partner.gather(1, ranking)), ranked)
    slot = slot.scatter(1, ranked, slot.gather(1, goal)).clamp(max=width - 1)
    occupied = _staying(started, longest, *counts, width)
    return Assignment(order[:, :width], occupied, slot=slot, weight=tokens.mass)


def _place_of(
    inputs: MergeInput, tokens: Tokens, valid: Tensor, ranked: Tensor, takers: Tensor, gone: Tensor
) -> Tensor:
    """Numbers `[batch, n]` in whose order tokens go into slots, padding behind the others."""
    n = tokens.n
    place = places(valid, n).expand_as(valid)
    if not inputs.in_order:
        # behind the leading tokens the first set, then the second, then the trailing ones; each by place, or by rank
        among = ranked if tokens.leading else places(valid, ranked.shape[1]).expand_as(ranked)
        start = torch.where(tokens.ordinal <= tokens.leading, place - n, place + 2 * n)
        sets = start.scatter(1, takers, takers + n).scatter(1, ranked, among)
        # a row that has come to its goal rests
        place = sets.where(tokens.reducible & gone[:, :1], start)
    return place.where(valid, places(valid, 5 * n, 4 * n))


# -- what hangs on the lengths of rows alone: of what started with `length` there are `now` after so many rounds ------


def _now_and_gone(
    length: Tensor, before: float, after: float, n_start: int, protected: int, done: int
) -> tuple[Tensor, Tensor]:
    """Tokens that come into the next round, and how many merge in it."""
    now, goal = (left_of(length, keep, n_start, protected) for keep in (before, after))
    for _ in range(done + 1):
        gone = torch.minimum(now - goal, (now - protected).clamp(min=0) // 2)
        now = now - gone
    return now + gone, gone


@by_length
def _beyond(
    length: Tensor,
    before: float,
    after: float,
    n_start: int,
    protected: int,
    done: int,
    first: int,
    m: int,
    dtype: torch.dtype,
) -> Tensor:
    """`[rows, m]`: 0 on the reducible ones among every second of what is listed, -inf behind them."""
    now, _ = _now_and_gone(length, before, after, n_start, protected, done)
    beyond = torch.arange(m, device=length.device) * 2 + first % 2 >= now - protected
    return torch.zeros(beyond.shape, dtype=dtype, device=length.device).masked_fill(beyond, -torch.inf)


@by_length
def _gone(length: Tensor, before: float, after: float, n_start: int, protected: int, done: int, m: int) -> Tensor:
    """Bool `[rows, m]` places in the ranking of those that merge."""
    _, gone = _now_and_gone(length, before, after, n_start, protected, done)
    return torch.arange(m, device=length.device) < gone


@by_length
def _staying(length: Tensor, before: float, after: float, n_start: int, protected: int, done: int, n: int) -> Tensor:
    """Bool `[rows, n]` slots of those that are left."""
    now, gone = _now_and_gone(length, before, after, n_start, protected, done)
    return torch.arange(n, device=length.device) < now - gone
