"""The decision of one stage, made once and applied to features, sizes, flags and sources alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prunesearch.pruning.forward.tokens import Tokens, add_rows, take_rows


@dataclass(frozen=True)
class Assignment:
    """Which token sits in each slot after a stage, and where the others went.

    Args:
        kept: `[batch, n_out]` token that each slot continues, in rising order; junk where not `occupied`.
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
        # half precision would lose small weights, and stall where hundreds of tokens are summed
        wide = torch.promote_types(x.dtype, torch.float32)
        weight = self.weight.to(wide)
        # a slot without a token sums to zero; it is masked from then on, but must not become NaN
        total = self._sum(weight).clamp(min=torch.finfo(wide).tiny)
        return (self._sum(x * weight[..., None]) / total[..., None]).to(x.dtype)

    def sizes(self, mass: Tensor) -> Tensor:
        """Reduce `[batch, n_in]` sizes: the sum of what each slot holds."""
        return take_rows(mass, self.kept) if self.weight is None else self._sum(mass)

    def _sum(self, x: Tensor) -> Tensor:
        if self.share is not None:
            wide = torch.promote_types(x.dtype, self.share.dtype)
            flat = (x if x.dim() == 3 else x[..., None]).to(wide)
            out = self.share.to(wide).transpose(1, 2) @ flat
            return out if x.dim() == 3 else out[..., 0]
        assert self.slot is not None  # a merge either assigns or spreads
        return add_rows(x, self.slot, self.n_out)

    def advance(self, tokens: Tokens) -> Tokens:
        """Describe the tokens that leave the stage."""
        merged = self.weight is not None
        size = self.sizes(tokens.mass) if merged or tokens.size is not None else None
        valid = None
        if tokens.valid is not None:
            valid = take_rows(tokens.valid, self.kept)
            valid = valid if self.occupied is None else valid & self.occupied
            size = None if size is None else size * valid  # an empty slot may hold a copy of a dropped token
        protected = take_rows(tokens.protected, self.kept)
        protected = protected if valid is None else protected & valid
        place = None if tokens.place is None else take_rows(tokens.place, self.kept)
        return replace(tokens, n=self.n_out, size=size, valid=valid, protected=protected, place=place)

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
        gone = self.kept.new_full((self.kept.shape[0], n_in), self.n_out)
        return gone.scatter_(1, self.kept, slots)
