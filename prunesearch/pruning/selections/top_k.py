"""The best-scored tokens, as many as the stage says."""

from __future__ import annotations

import torch
from torch import Tensor

from prunesearch.pruning.forward.constants import places, single
from prunesearch.pruning.selections.base import Chosen, SelectionInput


def top_k(inputs: SelectionInput) -> Chosen:
    """Keep the protected tokens and the best-scored others; of equal ones the earlier."""
    return best_of(inputs, inputs.tokens.row_counts(inputs.keep))


def best_of(inputs: SelectionInput, counts: Tensor | None) -> Chosen:
    """As many of each row as `counts` `[batch]` says, protected ones included; None without padding (then `n_out`)."""
    tokens, n_out = inputs.tokens, inputs.n_out
    score = inputs.score.masked_fill(tokens.ends, torch.inf)
    if tokens.valid is not None:
        score = score.where(tokens.valid, single(score, -torch.inf, score.dtype))
    # all of them, not only the first: `topk` leaves equal ones in any order, the protected ones too
    best, ranking = score.sort(stable=True, dim=1, descending=True)
    kept = ranking[:, :n_out]
    if tokens.valid is None or counts is None:
        kept = kept.sort(1).values if inputs.in_order else kept
        return Chosen(ranking, best, kept, n_out, in_order=inputs.in_order)
    count = counts[:, None]
    occupied = places(kept, n_out) < count
    ranks = None
    if inputs.in_order:  # slots of shorter rows that hold nothing come last
        kept, ranks = kept.where(occupied, places(kept, tokens.n, tokens.n - 1)).sort(stable=True, dim=1)
    return Chosen(ranking, best, kept, count, occupied, inputs.in_order, ranks)
