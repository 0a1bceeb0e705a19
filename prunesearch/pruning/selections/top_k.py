"""The best-scored tokens, as many as the stage says."""

from __future__ import annotations

import torch
from torch import Tensor

from prunesearch.pruning.selections.base import Chosen, SelectionInput, own_slots, slots_in_order


def top_k(inputs: SelectionInput) -> Chosen:
    """Keep the protected tokens and the best-scored others, in their order."""
    tokens, n_out = inputs.tokens, inputs.n_out
    score = inputs.score.masked_fill(tokens.protected, torch.inf)
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
        kept, occupied = slots_in_order(is_kept, n_out)
    return Chosen(kept, occupied, rank, is_kept, own_slots(is_kept), count)
