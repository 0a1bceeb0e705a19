"""What becomes of the tokens that are not kept.

Every merge takes a `MergeInput` and returns an `Assignment`. A new merge is one function here and one row in
`core.registry.MERGES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from prunesearch.core.stage import kept_count
from prunesearch.pruning.assignment import Assignment
from prunesearch.pruning.attention import AttentionView, mean_key
from prunesearch.pruning.tokens import Tokens, take_rows


@dataclass(frozen=True)
class MergeInput:
    """What a merge may look at.

    `attention` is the block's, `score` `[batch, n]` (None for merges that ignore it); `keep` and
    `keep_before` the fractions that leave this stage and left the one before; `n_out` the static width after it;
    `params` every parameter of the merge, by name (`core.registry.MERGES`).
    """

    tokens: Tokens
    attention: AttentionView
    score: Tensor | None
    keep: float
    keep_before: float
    n_out: int
    params: Mapping[str, float]


def drop(inputs: MergeInput) -> Assignment:
    """Tokens that are not kept disappear (PoWER-BERT, DynamicViT)."""
    chosen = _select(inputs)
    return Assignment(chosen.kept, chosen.occupied)


def fuse(inputs: MergeInput) -> Assignment:
    """Tokens that are not kept become ONE, their mean weighted by size x score (EViT).

    The fused token counts as one of the tokens that leave; it takes the place of the best-scored token in it.
    """
    chosen = _select(inputs)
    group = (chosen.rank >= chosen.count - 1) & inputs.tokens.reducible
    if inputs.tokens.valid is not None:  # a row too short to reduce has no fused token
        reduces = chosen.count < inputs.tokens.valid.sum(1, keepdim=True)
        group = group & reduces
    anchor = ((chosen.rank == chosen.count - 1) * chosen.own_slot).sum(1, keepdim=True)
    slot = torch.where(group, anchor, chosen.own_slot)
    mass = inputs.tokens.mass
    weighted = mass * _scores(inputs).clamp(min=0)
    total = (weighted * group).sum(1, keepdim=True)
    weight = torch.where(group & (total > 0), weighted, mass.to(weighted.dtype))
    return Assignment(chosen.kept, chosen.occupied, slot=slot, weight=weight)


def nearest(inputs: MergeInput) -> Assignment:
    """Each token that is not kept is averaged, by size, into the kept token with the most similar key (cosine).

    Protected tokens take nothing in.
    """
    chosen = _select(inputs)
    target = _similarity_to_kept(inputs, chosen).argmax(-1)
    slot = torch.where(chosen.is_kept, chosen.own_slot, target)
    return Assignment(chosen.kept, chosen.occupied, slot=slot, weight=inputs.tokens.mass)


def soft(inputs: MergeInput) -> Assignment:
    """Each token that is not kept is spread over the kept ones by softmax(cosine of keys / `temperature`), by size.

    Protected tokens take nothing in. Sizes become fractional; their sum is preserved.
    """
    chosen = _select(inputs)
    spread = (_similarity_to_kept(inputs, chosen) / inputs.params["temperature"]).softmax(-1)
    slots = torch.arange(inputs.n_out, device=spread.device)
    own = (chosen.own_slot[..., None] == slots).to(spread.dtype)
    share = torch.where(chosen.is_kept[..., None], own, spread)
    return Assignment(chosen.kept, chosen.occupied, share=share, weight=inputs.tokens.mass)


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


# -- selection by score ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Selection:
    """`kept`, `occupied` as in `Assignment`; the rest `[batch, n]`; `count` is an int or `[batch, 1]`."""

    kept: Tensor
    occupied: Tensor | None
    rank: Tensor
    is_kept: Tensor
    own_slot: Tensor
    count: int | Tensor


def _scores(inputs: MergeInput) -> Tensor:
    if inputs.score is None:
        raise TypeError("this merge needs scores")
    return inputs.score


def _select(inputs: MergeInput) -> _Selection:
    """Keep the protected tokens and the best-scored others, in their order."""
    tokens, n_out = inputs.tokens, inputs.n_out
    score = _scores(inputs).masked_fill(tokens.protected, torch.inf)
    if tokens.valid is not None:
        score = score.masked_fill(~tokens.valid, -torch.inf)
    order = score.sort(stable=True, dim=1, descending=True).indices
    places = torch.arange(tokens.n, device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    counts = tokens.row_counts(inputs.keep)
    if tokens.valid is None or counts is None:
        is_kept = rank < n_out
        kept, occupied = order[:, :n_out].sort(1).values, None
        count: int | Tensor = n_out
    else:
        count = counts[:, None]
        is_kept = (rank < count) & tokens.valid
        kept, occupied = _slots_in_order(is_kept, n_out)
    return _Selection(kept, occupied, rank, is_kept, _own_slot(is_kept), count)


def _slots_in_order(is_kept: Tensor, n_out: int) -> tuple[Tensor, Tensor]:
    """Place the kept tokens of each row in order at its start: `(kept, occupied)`, both `[batch, n_out]`."""
    kept = (~is_kept).byte().sort(stable=True, dim=1).indices[:, :n_out]
    places = torch.arange(n_out, device=kept.device)
    return kept, places < is_kept.sum(1, keepdim=True)


def _own_slot(is_kept: Tensor) -> Tensor:
    """Slot of each kept token, `[batch, n]`; some legal slot for the others."""
    return (is_kept.cumsum(1) - 1).clamp(min=0)


def _similarity_to_kept(inputs: MergeInput, chosen: _Selection) -> Tensor:
    """Cosine of every key to the key in every slot, `[batch, n, n_out]`; -inf for slots that take nothing in."""
    unit = torch.nn.functional.normalize(mean_key(inputs.attention), dim=-1)
    similarity = unit @ take_rows(unit, chosen.kept).transpose(1, 2)
    closed = take_rows(inputs.tokens.protected, chosen.kept)
    if chosen.occupied is not None:
        closed = closed | ~chosen.occupied
        # a row with nothing to give has no open slot: any finite value will do, its weights are zero
        closed = closed & ~closed.all(1, keepdim=True)
    return similarity.masked_fill(closed[:, None, :], -torch.inf)


# -- matching ----------------------------------------------------------------------------------------


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
    kept, occupied = _slots_in_order(stays, width)
    own = _own_slot(stays)
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
