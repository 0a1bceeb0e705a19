"""What a merge is: an `Assignment` out of a `MergeInput`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prunesearch.pruning.attention import AttentionView, unit_keys
from prunesearch.pruning.forward.constants import by_length, closed_ends
from prunesearch.pruning.forward.tokens import Tokens, left_of, split_rows, take_rows
from prunesearch.pruning.selections.base import Chosen


@dataclass(frozen=True)
class MergeInput:
    """What a merge may look at.

    `attention` is the block's; `score` `[batch, n]` and `selection` are None for merges that ignore them (`uses_scores`
    in their row); `keep` and `keep_before` the fractions that leave this stage and left the one before; `n_out` the
    static width after it; `params` every parameter of the merge, by name (`core.tables.registry.MERGES`). `in_order` is
    False where the order of tokens means nothing to the model, those at the start apart.
    """

    tokens: Tokens
    attention: AttentionView
    score: Tensor | None
    selection: Chosen | None
    keep: float
    keep_before: float
    n_out: int
    params: Mapping[str, float]
    in_order: bool = True

    def sizes(self, order: Tensor) -> Tensor | None:
        """Sizes in another order of the tokens, None if all are one."""
        return None if self.tokens.size is None else take_rows(self.tokens.size, order)

    @property
    def left(self) -> Tensor:
        """`[batch, 1]` tokens of each row that leave the stage, where rows have counts of their own."""
        count = self.chosen[0].count
        if not isinstance(count, Tensor):
            raise TypeError("rows without padding keep as many")
        return count

    @property
    def chosen(self) -> tuple[Chosen, Tensor]:
        """The selection and the scores that it was made from, for merges that use them."""
        if self.selection is None or self.score is None:
            raise TypeError("this merge needs scores: its row in MERGES must say so")
        return self.selection, self.score


def similarity_to_kept(inputs: MergeInput, chosen: Chosen, scale: float = 1.0) -> Tensor:
    """`scale` x cosine of keys to the key in every slot; least for slots that take nothing in.

    Returns:
        `[batch, m, n_out]`: of the tokens that are not kept, in `chosen.order`; with padding of all, in their own.
    """
    unit, tokens = unit_keys(inputs.attention), inputs.tokens
    if tokens.valid is None:
        kept, others = split_rows(unit, chosen.order, chosen.n_out)
        closed = closed_ends(unit, chosen.n_out, tokens.leading, tokens.trailing, unit.dtype)
        return torch.baddbmm(closed, others, kept.transpose(1, 2), alpha=scale)
    ends = tokens.leading, tokens.trailing, chosen.n_out, unit.dtype
    if tokens.by_row:
        closed = _closed_of(inputs.left, *ends)
    else:
        closed = _closed_slots(tokens.started, tokens.n_start, inputs.keep, tokens.n_start, *ends)
    return torch.baddbmm(closed, unit, take_rows(unit, chosen.kept).transpose(1, 2), alpha=scale)


@by_length
def _closed_slots(
    length: Tensor, keep: float, n_start: int, leading: int, trailing: int, n_out: int, dtype: torch.dtype
) -> Tensor:
    """`_closed_of` rows that started with `length` `[m, 1]`."""
    return _closed_of(left_of(length, keep, n_start, leading + trailing), leading, trailing, n_out, dtype)


def _closed_of(left: Tensor, leading: int, trailing: int, n_out: int, dtype: torch.dtype) -> Tensor:
    """`[m, 1, n_out]` of rows with `left` `[m, 1]` tokens: 0 on slots that take something in, else least.

    Finite, since a row with nothing to give has no open slot: any value will do there, its weights are zero.
    """
    place = torch.arange(n_out, device=left.device)
    closed = (place < leading) | (place >= left - trailing)
    return closed.to(dtype)[:, None] * torch.finfo(dtype).min
