"""Bipartite soft matching: it selects and merges in one, by similarity alone."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from prunesearch.core.plans.stage import kept_count
from prunesearch.pruning.attention import mean_key
from prunesearch.pruning.forward.assignment import Assignment
from prunesearch.pruning.forward.tokens import Tokens, take_rows
from prunesearch.pruning.merges.base import MergeInput
from prunesearch.pruning.selections.base import own_slots, slots_in_order


def bipartite(inputs: MergeInput) -> Assignment:
    """Bipartite soft matching (ToMe, Bolya et al. 2023), written from the paper.

    Reducible tokens alternate between two sets; each of the second finds its most similar key in the first, and the
    most similar pairs merge, averaged by size. One round removes at most half of the tokens; more takes more rounds,
    on keys averaged in the same way. The scorer is ignored.
    """
    tokens, key, total = inputs.tokens, mean_key(inputs.attention), None
    goal = inputs.tokens.row_counts(inputs.keep)
    for _ in range(_rounds(inputs.keep_before, inputs.keep, tokens, inputs.n_out)):
        step = _match_once(tokens, key, inputs.n_out, goal)
        key, tokens = step.features(key), step.advance(tokens)
        total = step if total is None else _compose(total, step)
    assert total is not None  # a stage that removes nothing is skipped before it gets here
    return Assignment(total.kept, total.occupied, total.slot, weight=inputs.tokens.mass)


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


def _match_once(tokens: Tokens, key: Tensor, n_out: int, goal: Tensor | None) -> Assignment:
    """One round: merge as many pairs as are still too many, at most half of the reducible tokens."""
    reducible = tokens.reducible
    first, second, offered = _split_alternately(tokens, reducible)
    unit = torch.nn.functional.normalize(key, dim=-1)
    similarity = take_rows(unit, second) @ take_rows(unit, first).transpose(1, 2)
    if offered is not None:
        taking, giving = offered
        similarity = similarity.masked_fill(~taking[:, None, :], -torch.inf)
        similarity = similarity.masked_fill(~giving[:, :, None], -torch.inf)
    best, partner = similarity.max(-1)
    rank = best.sort(stable=True, dim=1, descending=True).indices.argsort(1)
    half = (tokens.n - tokens.n_protected) // 2
    width = tokens.n - min(tokens.n - n_out, half)
    if tokens.valid is None or goal is None:
        merged: Tensor = rank < tokens.n - width
    else:
        spare = tokens.valid.sum(1) - goal
        merged = rank < torch.minimum(spare, reducible.sum(1) // 2)[:, None]
    gone = torch.zeros_like(reducible).scatter_(1, second, merged)
    stays = ~gone if tokens.valid is None else tokens.valid & ~gone
    kept, occupied = slots_in_order(stays, width)
    own = own_slots(stays)
    target = own.gather(1, first.gather(1, partner))
    slot = own.scatter(1, second, torch.where(merged, target, own.gather(1, second)))
    return Assignment(kept, None if tokens.valid is None else occupied, slot=slot, weight=tokens.mass)


def _split_alternately(tokens: Tokens, reducible: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """Split the reducible tokens by turns into those that take in (`first`) and those that may go (`second`).

    Returns:
        `[batch, a]` and `[batch, b]` token indices, and with padding which of them are real (else None).
    """
    order = (~reducible).byte().sort(stable=True, dim=1).indices
    if tokens.valid is None:
        order = order[:, : tokens.n - tokens.n_protected]
        return order[:, 0::2], order[:, 1::2], None
    real = reducible.gather(1, order)
    return order[:, 0::2], order[:, 1::2], (real[:, 0::2], real[:, 1::2])


def _compose(one: Assignment, two: Assignment) -> Assignment:
    """The assignment that does `one`, then `two` (slots only; weights are the caller's)."""
    assert one.slot is not None
    assert two.slot is not None
    return Assignment(one.kept.gather(1, two.kept), two.occupied, slot=two.slot.gather(1, one.slot))
