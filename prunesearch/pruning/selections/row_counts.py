"""Selections that leave every row a count of its own. Batches are padded to the row that keeps most: one look at the
data a stage, for which the host waits."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from prunesearch.pruning.selections.base import Chosen, SelectionInput
from prunesearch.pruning.selections.top_k import best_of


def at_least(inputs: SelectionInput) -> Chosen | None:
    """Keep the tokens whose score is at least `inputs.number` (LTP, Kim et al. 2022), and the best one of every row."""
    above = (inputs.score >= inputs.number) & inputs.tokens.reducible
    return _best_of_each(inputs, inputs.score, above.sum(1).clamp(min=1))


def holding(inputs: SelectionInput) -> Chosen | None:
    """Keep the fewest tokens that hold the part `inputs.number` of the scores of a row's reducible tokens; all at 1."""
    _, there = inputs.tokens.among_reducible
    if inputs.number >= 1:
        return None
    score = inputs.score * inputs.tokens.reducible
    held = score.sort(dim=1, descending=True).values.cumsum(1)
    # a token stays if those above it do not hold enough
    few = (held < inputs.number * held[:, -1:]).sum(1) + 1
    return _best_of_each(inputs, inputs.score, torch.minimum(few, there[:, 0].clamp(min=0)))


def inverse_cdf(inputs: SelectionInput) -> Chosen | None:
    """Draw tokens at even steps of the sum of scores over a row, in the order of its tokens; each counts once.

    ATS (Fayyaz et al. 2022): of k samples, at (2i - 1) / 2k of the sum, as many tokens stay as they meet. k is what the
    stage's fraction would keep.
    """
    tokens = inputs.tokens
    most, score = tokens.most_left(inputs.keep), inputs.score * tokens.reducible
    if most == 0:
        return None
    held = score.cumsum(1)
    left = tokens.row_left(inputs.keep)
    drawn = left if isinstance(left, Tensor) else torch.full((len(score),), left, device=score.device)
    step = torch.arange(most, device=score.device)
    share = (2 * step + 1) / (2 * drawn.clamp(min=1)[:, None])
    met = torch.searchsorted(held, (share.to(held.dtype) * held[:, -1:]).contiguous())
    # rows that draw fewer, and sums that round to less than their last step, meet what they have met already
    met = met.where(step < drawn[:, None], met[:, :1]).clamp(max=tokens.n - 1)
    taken = torch.zeros_like(tokens.reducible).scatter(1, met, True) & tokens.reducible
    return _best_of_each(inputs, _taken_first(inputs.score, taken), taken.sum(1))


def _taken_first(score: Tensor, taken: Tensor) -> Tensor:
    """Numbers by which tokens that are taken come before the others, of both the best-scored first."""
    best = score.sort(stable=True, dim=1, descending=True).indices
    rank = torch.empty_like(best).scatter_(1, best, torch.arange(best.shape[1], device=best.device).expand_as(best))
    return (taken * (2 * best.shape[1]) - rank).to(score.dtype)


def _best_of_each(inputs: SelectionInput, key: Tensor, count: Tensor) -> Chosen | None:
    """The `count` `[batch]` reducible tokens of each row that are first by `key`; None where all rows keep all."""
    tokens = inputs.tokens
    there = tokens.among_reducible[1][:, 0].clamp(min=0)
    count = torch.minimum(count, there)
    # the one look at the data: how wide what leaves is, and whether anything leaves
    most, gone = torch.stack([count.amax(), (there - count).amax()]).tolist()
    if gone == 0:
        return None
    protected = tokens.length[:, 0] - there
    chosen = best_of(replace(inputs, score=key, n_out=tokens.n_protected + most), protected + count)
    return replace(chosen, best=inputs.score.gather(1, chosen.ranking))
