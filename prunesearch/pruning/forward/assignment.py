"""The decision of one stage, made once and applied to features, sizes, flags and sources alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from prunesearch.pruning.forward.constants import at_the_ends, ones, places
from prunesearch.pruning.forward.tokens import Tokens, add_rows, flat_slots, split_rows, take_rows, wide


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
    """

    kept: Tensor
    occupied: Tensor | None = None
    slot: Tensor | None = None
    share: Tensor | None = None
    weight: Tensor | None = None

    @property
    def n_out(self) -> int:
        """Width after the stage."""
        return self.kept.shape[1]

    def features(self, x: Tensor) -> Tensor:
        """Reduce `[batch, n_in, width]` features: the weighted mean of what each slot holds."""
        if self.weight is None:
            return take_rows(x, self.kept)
        return self._means(x, self.weight)[0]

    def _means(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted means, and the sum of the weights `[batch, n_out]`."""
        # half precision would lose small weights, and stall where hundreds of tokens are summed
        dtype = wide(x.dtype)
        total = self._sum(weight.to(dtype))
        # a slot without a token sums to zero; it is masked from then on, but must not become NaN
        least = total.clamp(min=torch.finfo(dtype).tiny)
        return (self._sum(x * weight.to(dtype)[..., None]) / least[..., None]).to(x.dtype), total

    def apply(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tokens]:
        """The features `x` `[batch, n_in, width]` and the description of the tokens that leave the stage."""
        if self.weight is None or self.weight is not tokens.mass:
            return self.features(x), self.advance(tokens)
        features, size = self._means(x, self.weight)
        return features, self._left(tokens, size)

    def advance(self, tokens: Tokens) -> Tokens:
        """Describe the tokens that leave the stage."""
        size = None
        if self.weight is not None:
            size = self._sum(tokens.mass)
        elif tokens.size is not None:
            size = take_rows(tokens.size, self.kept)
        return self._left(tokens, size)

    def _left(self, tokens: Tokens, size: Tensor | None) -> Tokens:
        place = None if tokens.place is None else take_rows(tokens.place, self.kept)
        if tokens.valid is None:
            ends = at_the_ends(self.kept, self.n_out, tokens.leading, tokens.trailing)
            return replace(tokens, n=self.n_out, size=size, ends=ends.expand_as(self.kept), place=place)
        valid = take_rows(tokens.valid, self.kept) if self.occupied is None else self.occupied
        size = None if size is None else size * valid  # an empty slot may hold a copy of a dropped token
        ends = take_rows(tokens.ends, self.kept)
        return replace(tokens, n=self.n_out, size=size, valid=valid, ends=ends, place=place)

    def _sum(self, x: Tensor) -> Tensor:
        if self.share is not None:
            dtype = torch.promote_types(x.dtype, self.share.dtype)
            flat = (x if x.dim() == 3 else x[..., None]).to(dtype)
            out = self.share.to(dtype).transpose(1, 2) @ flat
            return out if x.dim() == 3 else out[..., 0]
        assert self.slot is not None  # a merge either assigns or spreads
        return add_rows(x, self.slot, self.n_out)

    def matrix(self, mass: Tensor) -> Tensor:
        """`[batch, n_out, n_in]` share of each token (with `mass` > 0) held by each slot; dropped columns are zero."""
        if self.share is not None:
            dense = self.share.transpose(1, 2)
        else:
            batch, n_in = mass.shape
            slot = self.slot[:, None, :] if self.slot is not None else self._own_slot(n_in)[:, None, :]
            dense = mass.new_zeros(batch, self.n_out + 1, n_in).scatter_(1, slot, 1.0)
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
        slot = self.slot if self.slot is not None else self._own_slot(x.shape[1])
        back = take_rows(y, slot.clamp(max=self.n_out - 1))
        return torch.where((slot < self.n_out)[..., None], back, x)

    def _own_slot(self, n_in: int) -> Tensor:
        """Slot of each kept token, `n_out` for all others (`[batch, n_in]`)."""
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
        into: `[batch, n_in - n_out]` slot that each of the others goes into; None where they are spread.
        spread: `[batch, n_in - n_out, n_out]` fraction of each of the others that goes to each slot, else None.
        size: `[batch, n_in]` sizes, in `order`; None: all one.
        importance: `[batch, n_in]` what a token's size is multiplied by in the mean of its slot, in `order`; None: one.
    """

    order: Tensor
    into: Tensor | None = None
    spread: Tensor | None = None
    size: Tensor | None = None
    importance: Tensor | None = None

    def __init__(
        self,
        order: Tensor,
        n_out: int,
        *,
        into: Tensor | None = None,
        spread: Tensor | None = None,
        size: Tensor | None = None,
        importance: Tensor | None = None,
    ) -> None:
        super().__init__(order[:, :n_out])
        parts = {"order": order, "into": into, "spread": spread, "size": size, "importance": importance}
        self.__dict__.update(parts)  # frozen for all others

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

    @cached_property
    def spelled_out(self) -> Assignment:
        """The same, said token by token."""
        own = places(self.order, self.n_out).expand_as(self.kept)
        weight = torch.ones_like(self.order, dtype=torch.float32) if self.size is None else self.size
        weight = weight if self.importance is None else weight * self.importance
        weight = torch.empty_like(weight).scatter_(1, self.order, weight)
        if self.into is not None:
            slot = torch.empty_like(self.order).scatter_(1, self.order, torch.cat([own, self.into], 1))
            return Assignment(self.kept, slot=slot, weight=weight)
        assert self.spread is not None  # a merge either assigns or spreads
        stays = torch.eye(self.n_out, dtype=self.spread.dtype, device=own.device).expand(len(own), -1, -1)
        share = torch.cat([stays, self.spread], 1)
        index = self.order[..., None].expand_as(share)
        return Assignment(self.kept, share=torch.empty_like(share).scatter_(1, index, share), weight=weight)

    def _merged(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features, and the weight of each slot `[batch, n_out]`."""
        stays, goes = split_rows(x, self.order, self.n_out)
        stays, goes = stays.to(wide(x.dtype)), goes.to(wide(x.dtype))
        weight = self._weight()
        if weight is not None:
            weight = weight.to(stays.dtype)
            stays *= weight[:, : self.n_out, None]
            goes = goes * weight[:, self.n_out :, None]
        total = self._totals(stays, weight)
        stays = self._add(stays, goes)
        stays /= total[..., None]
        return stays.to(x.dtype), total

    def _weight(self) -> Tensor | None:
        if self.size is None or self.importance is None:
            return self.importance if self.size is None else self.size
        return self.size * self.importance

    def _totals(self, like: Tensor, weight: Tensor | None) -> Tensor:
        """Sum of the weights of what each slot holds, `[batch, n_out]`; of ones in the dtype of `like`."""
        if self.spread is not None:
            if weight is None:
                return self.spread.sum(1) + 1
            stays, goes = weight[:, : self.n_out, None], weight[:, self.n_out :, None]
            return torch.baddbmm(stays, self.spread.transpose(1, 2).to(weight.dtype), goes)[..., 0]
        assert self.into is not None  # a merge either assigns or spreads
        if weight is None:
            dtype = wide(like.dtype) if like.is_floating_point() else torch.float32
            stays, goes = (ones(self.order, n, dtype) for n in (self.kept.numel(), self.into.numel()))
        else:
            stays, goes = weight[:, : self.n_out].reshape(-1), weight[:, self.n_out :].reshape(-1)
        return stays.index_add(0, flat_slots(like, self.into, self.n_out), goes).view_as(self.kept)

    def _add(self, stays: Tensor, goes: Tensor) -> Tensor:
        """`stays` `[batch, n_out, width]` with the others `[batch, m, width]` added to their slots, in place."""
        if self.spread is not None:
            return stays.baddbmm_(self.spread.to(stays.dtype).transpose(1, 2), goes)
        assert self.into is not None  # as above
        stays.flatten(0, 1).index_add_(0, flat_slots(stays, self.into, self.n_out), goes.flatten(0, 1))
        return stays
