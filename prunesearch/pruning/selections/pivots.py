"""Tokens that are chosen by a few others: what is least like them says most that they do not."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from prunesearch.pruning.attention import unit_keys
from prunesearch.pruning.forward.constants import places
from prunesearch.pruning.forward.tokens import wide
from prunesearch.pruning.selections.base import Chosen, SelectionInput
from prunesearch.pruning.selections.top_k import top_k


def duplication(inputs: SelectionInput) -> Chosen:
    """Keep some pivots, and for each of them the tokens that are least like it (DART, Wen et al. 2025).

    Pivots are the `pivots` best-scored tokens (theirs: by `key_norm`), and `text_pivots` of those that are never
    reduced, with the largest keys (L1). They take turns, each an equal share of what a row may keep besides the first
    kind, the earlier ones one more where that leaves a rest; alike is the cosine of keys (before the first
    block: of features).
    """
    tokens, unit, most = inputs.tokens, unit_keys(inputs.attention), inputs.tokens.most_left(inputs.keep)
    left = torch.as_tensor(tokens.row_left(inputs.keep), device=unit.device).expand(len(unit))
    key = inputs.attention.key
    length = torch.linalg.vector_norm(key, 1, dim=(1, 3), dtype=wide(key.dtype))
    own, of_text = (
        _best_of(score, among, int(inputs.params[name]))
        for score, among, name in (
            (inputs.score, tokens.reducible, "pivots"),
            (length, tokens.asks, "text_pivots"),
        )
    )
    first = torch.minimum(own[1], left)
    open_ = tokens.reducible
    taken_at = torch.zeros(open_.shape, dtype=unit.dtype, device=unit.device)
    rounds = own[0].shape[1] + of_text[0].shape[1] + 1
    for turn in range(min(own[0].shape[1], most)):
        it = (places(unit[..., 0], tokens.n) == own[0][:, turn, None]) & (turn < first)[:, None]
        taken_at, open_ = taken_at.masked_fill(it, float(rounds)), open_ & ~it
    share, rest = _shares(left - first, first + of_text[1])
    for turn in range(rounds - 1):
        text = turn - own[0].shape[1]
        pivot, nth = (own[0][:, turn], turn) if text < 0 else (of_text[0][:, text], first + text)
        acts = (turn < first) if text < 0 else (text < of_text[1])
        count = (share + (nth < rest)) * acts
        it = _least_alike(unit, pivot, open_) < count[:, None]
        it = it & open_
        taken_at, open_ = taken_at.masked_fill(it, float(rounds - 1 - turn)), open_ & ~it
    chosen = top_k(replace(inputs, score=taken_at))
    return replace(chosen, best=inputs.score.gather(1, chosen.ranking))


def _best_of(score: Tensor, among: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """`[batch, most]` the best of some tokens, of equal ones the earlier, and `[batch]` how many of these there are."""
    best = score.masked_fill(~among, -torch.inf).sort(dim=1, descending=True, stable=True).indices[:, :most]
    return best, among.sum(1).clamp(max=most)


def _shares(total: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
    """`[batch]` what each of `parts` gets of `total`, and how many of them get one more."""
    share = torch.div(total, parts.clamp(min=1), rounding_mode="floor")
    return share, total - share * parts


def _least_alike(unit: Tensor, pivot: Tensor, open_: Tensor) -> Tensor:
    """`[batch, n]` the place of every open token in the order of its cosine to a pivot `[batch]`, the least first."""
    at = unit.gather(1, pivot[:, None, None].expand(-1, 1, unit.shape[2]))
    alike = (unit @ at.transpose(1, 2))[..., 0].masked_fill(~open_, torch.inf)
    order = alike.sort(dim=1, stable=True).indices
    rank = places(order, order.shape[1]).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, rank)
