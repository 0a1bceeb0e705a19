"""Tokens that are chosen one after another, each by what it adds to those before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from prunesearch.pruning.attention import unit_keys
from prunesearch.pruning.forward.tokens import take_rows
from prunesearch.pruning.selections.base import Chosen, SelectionInput
from prunesearch.pruning.selections.top_k import top_k

_LEAST = 1e-12  # that a token may be worth where that divides: what was taken spans all that is left

# given what each token `[batch, n]` is worth and the place `[batch]` of the one that was taken: what each is worth
# next, those that cannot be taken -inf
Worth = Callable[[Tensor, Tensor], Tensor]


def diversity(inputs: SelectionInput) -> Chosen:
    """Keep the tokens that are least alike: max-min distance (the idea of DivPrune, Alvar et al. 2025).

    The distance of two tokens is 1 - cosine of their keys (before the first block of a decoder: of their features). The
    first that is taken is the one whose nearest neighbour is farthest, then always the one whose nearest taken one is.
    Scores weigh what is merged; they choose nothing.
    """
    unit, open_ = unit_keys(inputs.attention), inputs.tokens.reducible
    distance = 1 - unit @ unit.transpose(1, 2)
    same = torch.eye(unit.shape[1], dtype=torch.bool, device=unit.device)
    nearest = distance.masked_fill(same | ~open_[:, None, :], torch.inf).amin(2).masked_fill(~open_, -torch.inf)
    distance = distance.masked_fill(same, -torch.inf)  # what is taken is closed by that
    # of each token, the distance to the nearest that was taken
    apart = [torch.full_like(nearest, torch.inf).masked_fill(~open_, -torch.inf)]

    def after(_: Tensor, taken: Tensor) -> Tensor:
        apart[0] = torch.minimum(apart[0], _of(distance, taken))
        return apart[0]

    return _greedy(inputs, nearest, after)


def dpp(inputs: SelectionInput) -> Chosen:
    """Keep tokens that are both well scored and unlike each other: a determinantal point process (CDPruner's idea).

    Zhang et al. 2025 maximise the determinant of diag(r) S diag(r) greedily (Chen et al. 2018): S are cosines of keys
    (before the first block: of features), r the scores, from 0 to 1 over the reducible tokens of each row.
    """
    unit, may_leave = unit_keys(inputs.attention), inputs.tokens.reducible
    score = inputs.score.to(unit.dtype)
    low = score.masked_fill(~may_leave, torch.inf).amin(1, keepdim=True)
    high = score.masked_fill(~may_leave, -torch.inf).amax(1, keepdim=True)
    relevance = (score - low) / (high - low).clamp(min=torch.finfo(unit.dtype).tiny)
    features = unit * relevance.where(may_leave, 0.0)[..., None]
    parts: list[Tensor] = []  # of the Cholesky factor, a column for each that was taken
    closed = [~may_leave]

    def after(worth: Tensor, taken: Tensor) -> Tensor:
        closed[0] = closed[0].scatter(1, taken[:, None], True)
        column = (features @ _of(features, taken)[..., None])[..., 0]
        for part in parts:
            column = column - part * part.gather(1, taken[:, None])
        part = column / worth.gather(1, taken[:, None]).clamp(min=_LEAST).sqrt()
        parts.append(part)
        return (worth - part.square()).clamp(min=0).masked_fill(closed[0], -torch.inf)

    return _greedy(inputs, features.square().sum(2).masked_fill(~may_leave, -torch.inf), after)


def _greedy(inputs: SelectionInput, worth: Tensor, after: Worth) -> Chosen:
    """Take the token that is worth most, as often as a row may keep; of equal ones the earlier."""
    tokens, picks = inputs.tokens, list[Tensor]()
    most = tokens.most_left(inputs.keep)
    for count in range(most):
        picks.append(worth.argmax(1))
        if count + 1 < most:
            worth = after(worth, picks[-1])
    taken_at = worth.new_zeros(len(worth), tokens.n + 1)
    if picks:
        left = torch.as_tensor(tokens.row_left(inputs.keep), device=worth.device).view(-1, 1)
        nth = torch.arange(most, device=worth.device)
        # what is taken of a row that has fewer left counts for nothing
        place = torch.stack(picks, 1).where(nth < left, tokens.n)
        taken_at = taken_at.scatter(1, place, (most - nth).to(worth.dtype).expand_as(place))
    chosen = top_k(replace(inputs, score=taken_at[:, : tokens.n]))
    return replace(chosen, best=inputs.score.gather(1, chosen.ranking))


def _of(x: Tensor, place: Tensor) -> Tensor:
    """Row `place[b]` of `[batch, n, width]`."""
    return take_rows(x, place[:, None])[:, 0]
