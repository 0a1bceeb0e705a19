"""What a merge is: an `Assignment` out of a `MergeInput`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prunesearch.pruning.attention import AttentionView, mean_key
from prunesearch.pruning.forward.tokens import Tokens, take_rows
from prunesearch.pruning.selections.base import Chosen


@dataclass(frozen=True)
class MergeInput:
    """What a merge may look at.

    `attention` is the block's; `score` `[batch, n]` and `selection` are None for merges that ignore them (`uses_scores`
    in their row); `keep` and `keep_before` the fractions that leave this stage and left the one before; `n_out` the
    static width after it; `params` every parameter of the merge, by name (`core.tables.registry.MERGES`).
    """

    tokens: Tokens
    attention: AttentionView
    score: Tensor | None
    selection: Chosen | None
    keep: float
    keep_before: float
    n_out: int
    params: Mapping[str, float]

    @property
    def chosen(self) -> tuple[Chosen, Tensor]:
        """The selection and the scores that it was made from, for merges that use them."""
        if self.selection is None or self.score is None:
            raise TypeError("this merge needs scores: its row in MERGES must say so")
        return self.selection, self.score


def similarity_to_kept(inputs: MergeInput, chosen: Chosen) -> Tensor:
    """Cosine of every key to the key in every slot, `[batch, n, n_out]`; -inf for slots that take nothing in."""
    unit = torch.nn.functional.normalize(mean_key(inputs.attention), dim=-1)
    similarity = unit @ take_rows(unit, chosen.kept).transpose(1, 2)
    closed = take_rows(inputs.tokens.protected, chosen.kept)
    if chosen.occupied is not None:
        closed = closed | ~chosen.occupied
        # a row with nothing to give has no open slot: any finite value will do, its weights are zero
        closed = closed & ~closed.all(1, keepdim=True)
    return similarity.masked_fill(closed[:, None, :], -torch.inf)
