"""What is known of the tokens between two blocks, and the two moves that all reductions are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from prunesearch.core.plans.stage import ROUNDING_SLACK, kept_count


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """Gather tokens: `out[b, j] = x[b, index[b, j]]`.

    Args:
        x: `[batch, n, ...]`.
        index: `[batch, m]` integers in `[0, n)`.
    """
    batch, n = x.shape[:2]
    flat = index + torch.arange(batch, device=x.device)[:, None] * n
    # index_select over flattened rows is several times faster on CPUs than gather with an expanded index
    rows = x.reshape(batch * n, *x.shape[2:]).index_select(0, flat.reshape(-1))
    return rows.view(batch, index.shape[1], *x.shape[2:])


def add_rows(x: Tensor, slot: Tensor, n_out: int) -> Tensor:
    """Scatter-add tokens: `out[b, slot[b, i]] += x[b, i]`.

    Args:
        x: `[batch, n, ...]`.
        slot: `[batch, n]` integers in `[0, n_out)`.

    Returns:
        `[batch, n_out, ...]`.
    """
    batch, n = slot.shape
    flat = slot + torch.arange(batch, device=x.device)[:, None] * n_out
    out = x.new_zeros(batch * n_out, *x.shape[2:])
    out.index_add_(0, flat.reshape(-1), x.reshape(batch * n, *x.shape[2:]))
    return out.view(batch, n_out, *x.shape[2:])


@dataclass(frozen=True)
class Tokens:
    """The tokens that flow, without their features.

    `size` `[batch, n]` counts the inputs a token stands for (None: all one); `valid` `[batch, n]` is False on padding
    (None: no padding); `protected` `[batch, n]` tokens are never reduced. `n_protected` is their number in a row
    without padding, `n_start` the width at the start, `row_start` `[batch]` each row's reducible tokens at the start
    (None without padding: then it is `n_start - n_protected` for all). `place` `[batch, n]` is the input that each
    token continues (None where nothing asks for it; junk on padding).
    """

    n: int
    n_start: int
    n_protected: int
    protected: Tensor
    size: Tensor | None = None
    valid: Tensor | None = None
    row_start: Tensor | None = None
    place: Tensor | None = None

    @classmethod
    def start(cls, hidden: Tensor, mask: Tensor | None, leading: int, trailing: int, *, places: bool = False) -> Tokens:
        """Describe a sequence as it enters the first stage.

        Args:
            hidden: `[batch, n, width]`.
            mask: the block's attention mask (any form transformers makes for a bidirectional encoder) or None.
            leading: protected tokens at the start of every row (CLS, distillation, registers).
            trailing: protected tokens at the end of every row (the last separator).
            places: whether to keep account of the tokens' places.
        """
        batch, n = hidden.shape[:2]
        inputs = torch.arange(n, device=hidden.device).expand(batch, n) if places else None
        valid = None if mask is None else key_validity(mask, batch, n)
        if valid is None:
            place = torch.arange(n, device=hidden.device).expand(batch, n)
            protected = (place < leading) | (place >= n - trailing)
            return cls(n, n, leading + trailing, protected, place=inputs)
        place, length = valid.cumsum(1) - 1, valid.sum(1, keepdim=True)
        protected = valid & ((place < leading) | (place >= length - trailing))
        row_start = (valid & ~protected).sum(1)
        return cls(n, n, leading + trailing, protected, None, valid, row_start, inputs)

    @property
    def reducible(self) -> Tensor:
        """`[batch, n]`: tokens that a stage may reduce."""
        return ~self.protected if self.valid is None else self.valid & ~self.protected

    @property
    def mass(self) -> Tensor:
        """`[batch, n]` float32: how many inputs each token stands for; 0 on padding."""
        if self.size is not None:
            return self.size
        alive = torch.ones_like(self.protected) if self.valid is None else self.valid
        return alive.float()

    def width_after(self, keep: float) -> int:
        """Static width after a stage: what the longest possible row keeps, protected tokens included."""
        return self.n_protected + kept_count(keep, self.n_start - self.n_protected)

    def row_counts(self, keep: float) -> Tensor | None:
        """`[batch]` tokens each row keeps, protected ones included; None without padding (then all `width_after`)."""
        if self.valid is None or self.row_start is None:
            return None
        return kept_counts(keep, self.row_start, self.n_start - self.n_protected) + (self.protected & self.valid).sum(1)

    def gives(self, before: float, keep: float) -> bool:
        """True if a stage after one of `before` takes tokens from some row; known without a look at the data.

        With padding, a shorter row may have one to give where the longest has none: 7 of 10 stay both at keep 0.7 and
        at 0.65, while 3 of 3 fall to 2.
        """
        if self.valid is None:
            return self.width_after(keep) < self.n
        return _some_row_gives(before, keep, self.n_start - self.n_protected)

    def attention_mask(self, dtype: torch.dtype, additive: bool) -> Tensor | None:
        """The mask for the next attention: `log(size)` on keys (proportional attention, ToMe), padding closed.

        Args:
            dtype: dtype of the features, which an additive mask must share.
            additive: True if the backend wants numbers even where a boolean mask would do (eager).

        Returns:
            `[batch, 1, 1, n]`, or None where nothing needs masking.
        """
        wide = torch.promote_types(dtype, torch.float32)
        if self.size is None:
            if self.valid is None or not additive:
                return None if self.valid is None else self.valid[:, None, None, :]
            bias = torch.zeros_like(self.valid, dtype=dtype)
        elif self.valid is None:
            return self.size.to(wide).log().to(dtype)[:, None, None, :]
        else:
            bias = self.size.to(wide).where(self.valid, 1.0).log().to(dtype)
        return bias.masked_fill(~self.valid, torch.finfo(dtype).min)[:, None, None, :]


def kept_counts(keep: float, reducible: Tensor, longest: int) -> Tensor:
    """`kept_count` of every entry of an integer tensor, without leaving the device.

    In small integers: runtimes that models are exported to have no float64, and torch's ONNX exporter rounds the
    constants of a float64 product to float32, which would keep another token here and there.

    Args:
        keep: fraction in (0, 1].
        reducible: integers in `[0, longest]`.
        longest: the greatest of them that can be.
    """
    share = _exact_share(keep, longest)
    if share is None:
        kept = (reducible.double() * keep - ROUNDING_SLACK).ceil().long()
    else:
        kept = torch.div(reducible * share.numerator + share.denominator - 1, share.denominator, rounding_mode="floor")
    return torch.maximum(kept, reducible.clamp(max=1))


@lru_cache(maxsize=4096)
def _exact_share(keep: float, longest: int) -> Fraction | None:
    """The fraction with the properties of `keep`: `ceil(fraction x r)` is `kept_count(keep, r)` up to `longest`.

    None if there is none, as for a `keep` that is a hair above a fraction and falls under the rounding slack for some.
    """
    counts = [(r, kept_count(keep, r)) for r in range(1, longest + 1)]
    share = min((Fraction(count, r) for r, count in counts), default=Fraction(1))
    return share if all(math.ceil(share * r) == count for r, count in counts) else None


@lru_cache(maxsize=4096)
def _some_row_gives(before: float, keep: float, longest: int) -> bool:
    return any(kept_count(keep, r) < kept_count(before, r) for r in range(longest + 1))


def key_validity(mask: Tensor, batch: int, n: int) -> Tensor:
    """Read which keys are real from a bidirectional attention mask.

    Args:
        mask: `[batch, n]` or `[batch | 1, 1, q, n]`; boolean (True: attend), 0/1 integers, or additive floats.

    Returns:
        `[batch, n]` booleans.
    """
    row = mask if mask.dim() == 2 else mask[:, 0, 0, :]
    if row.dtype.is_floating_point:
        row = row > torch.finfo(row.dtype).min / 2
    return row.bool().expand(batch, n)
