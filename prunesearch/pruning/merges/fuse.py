"""Tokens that are not kept become one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from prunesearch.pruning.forward.assignment import Assignment, Grouped, Regrouping
from prunesearch.pruning.forward.constants import by_length, ones, places, single
from prunesearch.pruning.forward.tokens import Tokens, left_of, take_rows, wide
from prunesearch.pruning.merges.base import MergeInput
from prunesearch.pruning.selections.base import Chosen


def fuse(inputs: MergeInput) -> Assignment:
    """Tokens that are not kept become ONE, their mean weighted by size x score (EViT).

    The fused token counts as one of the tokens that leave; it takes the place of the best-scored token in it, which is
    the last one where they do not stand in order.
    """
    chosen, _ = inputs.chosen
    return _fused(inputs, chosen) if inputs.tokens.valid is None else _fused_rows(inputs, chosen)


def _importance(score: Tensor) -> Tensor:
    """Scores, none of them zero: where all are, sizes alone weigh."""
    return score.clamp(min=1e8 * torch.finfo(score.dtype).tiny)  # products with it are not rounded to zero


# -- nothing is padded -----------------------------------------------------------------------------------------------


def _fused(inputs: MergeInput, chosen: Chosen) -> Assignment:
    n_out, order = chosen.n_out, chosen.order
    batch, n_in = order.shape
    scores = _importance(chosen.best[:, n_out - 1 :])
    plain = ones(scores, n_out - 1, scores.dtype).expand(batch, n_out - 1)
    importance = torch.cat([plain, scores], 1)
    into = _slot_of_the_best(chosen) if chosen.in_order else places(order, n_out, n_out - 1)
    if chosen.in_order:
        shown = torch.ones_like(importance[:, :n_out]).scatter(1, into, scores[:, :1])
        importance = torch.cat([shown, scores[:, 1:]], 1)
    slots = into.expand(batch, n_in - n_out)
    return Regrouping(order, n_out, Grouped(slots), size=inputs.sizes(order), importance=importance)


def _slot_of_the_best(chosen: Chosen) -> Tensor:
    """`[batch, 1]` slot of the last of the kept tokens, where they stand in order."""
    last = chosen.ranking[:, chosen.n_out - 1 : chosen.n_out]
    return (chosen.kept < last).sum(1, keepdim=True)


# -- rows of different lengths ---------------------------------------------------------------------------------------


@dataclass(frozen=True, init=False, kw_only=True)
class FusedRows(Assignment):
    """An assignment that makes one token of a group in each row: `[batch, n_in]` all, and in the order of a ranking.

    Args:
        ranking: all tokens.
        group: bool, those of the group, in rows that have one: behind the tokens that are kept as they are.
        importance: what sizes are multiplied by in the mean, in the group; 0 elsewhere.
        mass: sizes, not in the order of the ranking but of the tokens; None: all one.
        ranks: see `Chosen`.
        sizes: `[batch, n_out]` after the stage, if all are one before it.
    """

    ranking: Tensor
    group: Tensor
    importance: Tensor
    mass: Tensor | None
    ranks: Tensor | None
    sizes: Tensor

    def __init__(self, chosen: Chosen, group: Tensor, sizes: Tensor, mass: Tensor | None) -> None:
        super().__init__(chosen.kept, chosen.occupied)
        importance = _importance(chosen.best).where(group, single(chosen.best, 0.0, chosen.best.dtype))
        parts = {"ranking": chosen.ranking, "group": group, "importance": importance}
        self.__dict__.update(parts, mass=mass, ranks=chosen.ranks, sizes=sizes)  # frozen for all others

    def features(self, x: Tensor) -> Tensor:
        """See `Assignment`."""
        dtype = wide(x.dtype)
        weight = self._by_token(self.importance).to(dtype)
        weight = weight if self.mass is None else weight * self.mass
        # a row without a group has no weights; nothing takes its mean, which must not become NaN
        weight = weight / weight.sum(1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
        mean = torch.bmm(weight[:, None], x.to(dtype)).to(x.dtype)
        return mean.where(self._shown[..., None], take_rows(x, self.kept))

    def apply(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tokens]:
        """See `Assignment`."""
        return self.features(x), self.advance(tokens)

    def advance(self, tokens: Tokens) -> Tokens:
        """See `Assignment`."""
        return self._left(tokens, self._sizes)

    def matrix(self, mass: Tensor) -> Tensor:
        """See `Assignment`."""
        return self.spelled_out.matrix(mass)

    def inverse(self, y: Tensor, x: Tensor) -> Tensor:
        """See `Assignment`."""
        return self.spelled_out.inverse(y, x)

    def slots(self, n_in: int) -> Tensor:
        """See `Assignment`."""
        return self.spelled_out.slots(n_in)

    @cached_property
    def spelled_out(self) -> Assignment:
        """The same, said token by token."""
        n_in, own = self.ranking.shape[1], places(self.kept, self.n_out).expand_as(self.kept)
        slot = torch.zeros_like(self.ranking)  # of the kept ones, in the order of the ranking
        slot[:, : self.n_out] = own if self.ranks is None else torch.empty_like(own).scatter_(1, self.ranks, own)
        anchor = (self._shown * own).sum(1, keepdim=True)
        slot = self._by_token(slot.where(~self.group, anchor.expand(-1, n_in)))
        weight = self._by_token(self.importance.where(self.group, torch.ones_like(self.importance)))
        weight = weight if self.mass is None else weight * self.mass
        return Assignment(self.kept, self.occupied, slot=slot, weight=weight)

    @cached_property
    def _sizes(self) -> Tensor:
        sizes = self.sizes
        if self.mass is not None:
            ranked = self.mass.gather(1, self.ranking)
            total = (ranked * self.group).sum(1, keepdim=True)
            sizes = torch.where(sizes > 1, total, ranked[:, : self.n_out] * (sizes > 0))
        return sizes if self.ranks is None else sizes.gather(1, self.ranks)

    @cached_property
    def _shown(self) -> Tensor:
        """Bool `[batch, n_out]`: the slots of the means, each of two tokens at least."""
        if self.mass is None:
            return self._sizes > 1
        shown = self.sizes > 1
        return shown if self.ranks is None else shown.gather(1, self.ranks)

    def _by_token(self, ranked: Tensor) -> Tensor:
        """`[batch, n_in]` in the order of the ranking, in that of the tokens."""
        return ranked.scatter(1, self.ranking, ranked)


def _fused_rows(inputs: MergeInput, chosen: Chosen) -> Assignment:
    tokens = inputs.tokens
    if tokens.by_row:
        group = _group_of(tokens.length, inputs.left, tokens.n)
        return FusedRows(chosen, group, _sizes_of(tokens.length, inputs.left, chosen.n_out), tokens.size)
    counts = inputs.keep_before, inputs.keep, tokens.n_start, tokens.n_protected
    group = _in_group(tokens.started, tokens.n_start, *counts, tokens.n)
    sizes = _left_sizes(tokens.started, tokens.n_start, *counts, chosen.n_out)
    return FusedRows(chosen, group, sizes, tokens.size)


@by_length
def _in_group(length: Tensor, before: float, after: float, n_start: int, protected: int, n: int) -> Tensor:
    """`_group_of` rows that started with `length` `[m, 1]`."""
    now, left = (left_of(length, keep, n_start, protected) for keep in (before, after))
    return _group_of(now, left, n)


@by_length
def _left_sizes(length: Tensor, before: float, after: float, n_start: int, protected: int, n_out: int) -> Tensor:
    """`_sizes_of` rows that started with `length` `[m, 1]`."""
    now, left = (left_of(length, keep, n_start, protected) for keep in (before, after))
    return _sizes_of(now, left, n_out)


def _group_of(now: Tensor, left: Tensor, n: int) -> Tensor:
    """Bool `[m, n]` places in the ranking of the tokens that are fused, of rows that go from `now` to `left` `[m, 1]`.

    A row with nothing to give has none.
    """
    rank = torch.arange(n, device=now.device)
    return (rank >= left - 1) & (rank < now) & (left < now)


def _sizes_of(now: Tensor, left: Tensor, n_out: int) -> Tensor:
    """`[m, n_out]` float32: how many tokens there are in those that leave, in the order of the ranking; 0 for none."""
    rank = torch.arange(n_out, device=now.device)
    fused = (rank == left - 1) & (left < now)
    return torch.where(fused, now - left + 1, rank < left).float()
