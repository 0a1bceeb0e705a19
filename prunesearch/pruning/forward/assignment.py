"""The decision of one stage, made once and applied to features, sizes, flags and sources alike."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from prunesearch.pruning.forward.constants import at_the_ends, ones, places
from prunesearch.pruning.forward.tokens import Tokens, add_rows, flat_slots, is_single, split_rows, take_rows, wide


@dataclass(frozen=True)
class Assignment:
    """Which token sits in each slot after a stage, and where the others went.

    Args:
        kept: `[batch, n_out]` token that each slot continues; junk where not `occupied`.
        occupied: `[batch, n_out]` False on slots without a token (shorter rows); None if all are taken.
        slot: `[batch, n_in]` slot that each token went into; None where the others were dropped or spread.
        share: `[batch, n_in, n_out]` fraction of each token that went to each slot (`soft`), else None.
        weight: `[batch, n_in]` weight of each token in the mean of its slot (size, or size x importance); 0 on
            padding. None for `drop`.
        counted: whether a slot counts as many tokens as it holds; else as the one that it continues.
    """

    kept: Tensor
    occupied: Tensor | None = None
    slot: Tensor | None = None
    share: Tensor | None = None
    weight: Tensor | None = None
    counted: bool = True

    @property
    def n_out(self) -> int:
        """Width after the stage."""
        return self.kept.shape[1]

    def features(self, x: Tensor) -> Tensor:
        """Reduce `[batch, n_in, width]` features: the weighted mean of what each slot holds."""
        if self.weight is None:
            return take_rows(x, self.kept)
        return self._means(x, self.weight)[0]

    def _means(self, x: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        """Means by the first of the weights `[batch, n_in]`, and sums of the last `[batch, n_out]`, in one pass."""
        # half precision would lose small weights, and stall where hundreds of tokens are summed
        dtype, width = wide(x.dtype), x.shape[-1]
        columns = [weight.to(dtype)[..., None] for weight in weights]
        sums = self._sum(torch.cat([x * columns[0], *columns], -1))
        # a slot without a token sums to zero; it is masked from then on, but must not become NaN
        least = sums[..., width : width + 1].clamp(min=torch.finfo(dtype).tiny)
        return (sums[..., :width] / least).to(x.dtype), sums[..., -1]

    def apply(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tokens]:
        """The features `x` `[batch, n_in, width]` and the description of the tokens that leave the stage."""
        if self.weight is None or not self.counted:
            return self.features(x), self.advance(tokens)
        features, size = self._means(x, self.weight, *([] if self.weight is tokens.mass else [tokens.mass]))
        return features, self._left(tokens, size)

    def advance(self, tokens: Tokens) -> Tokens:
        """Describe the tokens that leave the stage."""
        size = None
        if self.weight is not None and self.counted:
            size = self._sum(tokens.mass)
        elif tokens.size is not None:
            size = take_rows(tokens.size, self.kept)
            if self.occupied is not None:
                size = size * self.occupied  # an empty slot may hold a copy of a dropped token
        return self._left(tokens, size)

    def _left(self, tokens: Tokens, size: Tensor | None) -> Tokens:
        n_out = self.kept.shape[1]
        place = None if tokens.place is None else take_rows(tokens.place, self.kept)
        if tokens.valid is None:
            ends = at_the_ends(self.kept, n_out, tokens.leading, tokens.trailing)
            return tokens.moved(n=n_out, size=size, marks=ends.expand_as(self.kept), place=place)
        valid = take_rows(tokens.valid, self.kept) if self.occupied is None else self.occupied
        marks = None if tokens.marks is None else take_rows(tokens.marks, self.kept)
        return tokens.moved(n=n_out, size=size, valid=valid, marks=marks, place=place, keep_left=None)

    def _sum(self, x: Tensor) -> Tensor:
        if self.share is not None:
            dtype = max(x.dtype, self.share.dtype, key=lambda d: d.itemsize)
            flat = (x if x.dim() == 3 else x[..., None]).to(dtype)
            out = self.share.to(dtype).transpose(1, 2) @ flat
            return out if x.dim() == 3 else out[..., 0]
        if self.slot is None:
            return take_rows(x, self.kept)  # the others were dropped
        return add_rows(x, self.slot, self.n_out)

    def matrix(self, mass: Tensor) -> Tensor:
        """`[batch, n_out, n_in]` share of each token (with `mass` > 0) held by each slot; dropped columns are zero."""
        if self.share is not None:
            dense = self.share.transpose(1, 2)
        else:
            batch, n_in = mass.shape
            dense = mass.new_zeros(batch, self.n_out + 1, n_in).scatter_(1, self.slots(n_in)[:, None, :], 1.0)
            dense = dense[:, : self.n_out]
        dense = dense * (mass > 0)[:, None, :]
        return dense if self.occupied is None else dense * self.occupied[..., None]

    def inverse(self, y: Tensor, x: Tensor) -> Tensor:
        """Bring `y` `[batch, n_out, width]` back to the stage's input length.

        A token takes the features of the slot that holds the most of it; a dropped token keeps `x`, what it was when
        it left (`[batch, n_in, width]`; the restoration of the Length-Adaptive Transformer).
        """
        if self.share is not None:
            return take_rows(y, self.share.argmax(-1))
        slot = self.slots(x.shape[1])
        back = take_rows(y, slot.clamp(max=self.n_out - 1))
        return torch.where((slot < self.n_out)[..., None], back, x)

    def slots(self, n_in: int) -> Tensor:
        """`[batch, n_in]` slot that each token went into, `n_out` for those that were dropped; none may be spread."""
        if self.slot is not None:
            return self.slot
        slots = torch.arange(self.n_out, device=self.kept.device).expand_as(self.kept)
        if self.occupied is not None:
            slots = slots.where(self.occupied, self.n_out)
        gone = self.kept.new_full((self.kept.shape[0], n_in + 1), self.n_out)
        kept = self.kept if self.occupied is None else self.kept.where(self.occupied, n_in)
        return gone.scatter_(1, kept, slots)[:, :n_in]


@dataclass(frozen=True, init=False, kw_only=True)
class Regrouping(Assignment):
    """An assignment where nothing is padded, in as few passes as it takes: features and sizes move together.

    Args:
        order: `[batch, n_in]` all tokens: those that are kept, in the order of their slots, then the others.
        others: where the others go.
        size: `[batch, n_in]` sizes, in `order`; None: all one.
        importance: `[batch, n_in]` what a token's size is multiplied by in the mean of its slot, in `order`; None: one.
    """

    order: Tensor
    others: Grouped | Spread
    size: Tensor | None = None
    importance: Tensor | None = None

    def __init__(
        self,
        order: Tensor,
        n_out: int,
        others: Grouped | Spread,
        *,
        size: Tensor | None = None,
        importance: Tensor | None = None,
    ) -> None:
        own = self.__dict__  # frozen for all others
        own.update(kept=order[:, :n_out], occupied=None, slot=None, share=None, weight=None)
        own.update(order=order, others=others, size=size, importance=importance)

    def features(self, x: Tensor) -> Tensor:
        """See `Assignment`."""
        return self._merged(x)[0]

    def apply(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tokens]:
        """See `Assignment`."""
        features, weight = self._merged(x)
        size = weight if self.importance is None else self._totals(x, self.size)
        return features, self._left(tokens, size)

    def advance(self, tokens: Tokens) -> Tokens:
        """See `Assignment`."""
        return self._left(tokens, self._totals(self.order, self.size))

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
        weight = torch.ones_like(self.order, dtype=torch.float32) if self.size is None else self.size
        weight = weight if self.importance is None else weight * self.importance
        found = {"weight": weight, **self.others.beside(self.kept)}
        back: dict[str, Any] = {name: _scattered(x, self.order) for name, x in found.items()}
        return Assignment(self.kept, **back)

    def _merged(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features, and the weight of each slot `[batch, n_out]`."""
        weight = self._weight()
        if weight is not None and is_single(x) and not x.requires_grad:
            return self._merged_row(x, weight)
        stays, goes = split_rows(x, self.order, self.n_out)
        stays, goes = stays.to(wide(x.dtype)), goes.to(wide(x.dtype))
        if weight is not None:
            weight = weight.to(stays.dtype)
            stays *= weight[:, : self.n_out, None]
            goes = goes * weight[:, self.n_out :, None]
        total = self._totals(stays, weight)
        stays = self.others.add_(stays, goes)
        stays /= total[..., None]
        return stays.to(x.dtype), total

    def _merged_row(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """As `_merged`, of one row: every view less counts where a forward takes a few milliseconds."""
        rows, weight, dtype, n_out = x[0].index_select(0, self.order[0]), weight[0], wide(x.dtype), self.kept.shape[1]
        if rows.dtype is not dtype or weight.dtype is not dtype:
            rows, weight = rows.to(dtype), weight.to(dtype)
        total = self.others.sum_row(weight[:n_out], weight[n_out:])
        rows.mul_(weight[:, None])
        stays = self.others.add_row_(rows[:n_out], rows[n_out:])
        stays.div_(total[:, None])
        return stays[None] if x.dtype is dtype else stays[None].to(x.dtype), total[None]

    def _weight(self) -> Tensor | None:
        if self.size is None or self.importance is None:
            return self.importance if self.size is None else self.size
        return self.size * self.importance

    def _totals(self, like: Tensor, weight: Tensor | None) -> Tensor:
        """Sum of the weights of what each slot holds, `[batch, n_out]`; of ones in the dtype of `like`."""
        if weight is None:
            dtype = wide(like.dtype) if like.is_floating_point() else torch.float32
            return self.others.counts(like, self.n_out, dtype)
        return self.others.sums(like, weight[:, : self.n_out], weight[:, self.n_out :])


@dataclass(frozen=True)
class Grouped:
    """Tokens that are not kept each go into one slot: `into` is `[batch, m]`."""

    into: Tensor

    def add_(self, stays: Tensor, goes: Tensor) -> Tensor:
        """`stays` `[batch, n_out, width]` with the others `[batch, m, width]` added to their slots, in place."""
        stays.flatten(0, 1).index_add_(0, flat_slots(stays, self.into, stays.shape[1]), goes.flatten(0, 1))
        return stays

    def sums(self, like: Tensor, stays: Tensor, goes: Tensor) -> Tensor:
        """As `add_`, of one number a token, into a new tensor `[batch, n_out]`; `like` has the batch's rows."""
        flat = flat_slots(like, self.into, stays.shape[1])
        return stays.reshape(-1).index_add(0, flat, goes.reshape(-1)).view_as(stays)

    def add_row_(self, stays: Tensor, goes: Tensor) -> Tensor:
        """As `add_`, of one row: `[n_out, width]` and `[m, width]`."""
        return stays.index_add_(0, self.into[0], goes)

    def sum_row(self, stays: Tensor, goes: Tensor) -> Tensor:
        """As `sums`, of one row: `[n_out]` and `[m]`."""
        return stays.index_add(0, self.into[0], goes)

    def counts(self, like: Tensor, n_out: int, dtype: torch.dtype) -> Tensor:
        """How many tokens each slot holds."""
        batch, m = self.into.shape
        stays, goes = (ones(self.into, batch * n, dtype) for n in (n_out, m))
        return stays.index_add(0, flat_slots(like, self.into, n_out), goes).view(batch, n_out)

    def beside(self, kept: Tensor) -> dict[str, Tensor]:
        """What an `Assignment` calls it: the slot of every token, the kept ones before the others."""
        own = places(kept, kept.shape[1]).expand_as(kept)
        return {"slot": torch.cat([own, self.into], 1)}


@dataclass(frozen=True)
class Spread:
    """Tokens that are not kept are spread: `share` is `[batch, m, n_out]`, the fraction of each for each slot."""

    share: Tensor

    def add_(self, stays: Tensor, goes: Tensor) -> Tensor:
        """See `Grouped`."""
        return stays.baddbmm_(self.share.to(stays.dtype).transpose(1, 2), goes)

    def sums(self, like: Tensor, stays: Tensor, goes: Tensor) -> Tensor:
        """See `Grouped`."""
        share = self.share.transpose(1, 2).to(stays.dtype)
        return torch.baddbmm(stays[..., None], share, goes[..., None])[..., 0]

    def add_row_(self, stays: Tensor, goes: Tensor) -> Tensor:
        """See `Grouped`."""
        return stays.addmm_(self.share[0].to(stays.dtype).t(), goes)

    def sum_row(self, stays: Tensor, goes: Tensor) -> Tensor:
        """See `Grouped`."""
        return torch.addmm(stays[:, None], self.share[0].to(stays.dtype).t(), goes[:, None])[:, 0]

    def counts(self, like: Tensor, n_out: int, dtype: torch.dtype) -> Tensor:
        """See `Grouped`."""
        return self.share.sum(1) + 1

    def beside(self, kept: Tensor) -> dict[str, Tensor]:
        """See `Grouped`."""
        n_out = kept.shape[1]
        stays = torch.eye(n_out, dtype=self.share.dtype, device=kept.device).expand(kept.shape[0], -1, -1)
        return {"share": torch.cat([stays, self.share], 1)}


def _scattered(x: Tensor, order: Tensor) -> Tensor:
    """`[batch, n, ...]` of tokens in `order`, in their own."""
    index = order.reshape(*order.shape, *[1] * (x.dim() - 2)).expand_as(x)
    return torch.empty_like(x).scatter_(1, index, x)
