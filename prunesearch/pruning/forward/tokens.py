"""What is known of the tokens between two blocks, and the two moves that all reductions are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any, Self

import torch
from torch import Tensor

from prunesearch.core.plans.amount import ROUNDING_SLACK, kept_count
from prunesearch.pruning.forward.constants import (
    are_kept,
    at_the_ends,
    by_length,
    constant,
    in_between,
    is_looked_up,
    ones,
    places,
    row_starts,
    single,
)


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """Gather tokens: `out[b, j] = x[b, index[b, j]]`.

    Args:
        x: `[batch, n, ...]`.
        index: `[batch, m]` integers in `[0, n)`.
    """
    if is_single(x):
        return x[0].index_select(0, index[0])[None]
    batch, n = x.shape[:2]
    flat = index + row_starts(x, batch, n)
    # index_select over flattened rows is several times faster on CPUs than gather with an expanded index
    rows = x.reshape(batch * n, *x.shape[2:]).index_select(0, flat.reshape(-1))
    return rows.view(batch, index.shape[1], *x.shape[2:])


def split_rows(x: Tensor, order: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Gather the tokens of `order` `[batch, m]`: its first `count`, and the others; each is contiguous, and new.

    Args:
        x: `[batch, n, ...]`.
        order: integers in `[0, n)`.
        count: how many come first.
    """
    if is_single(x) and not x.requires_grad:  # two views of one tensor, which is written into, have no gradients
        rows = x[0].index_select(0, order[0])
        return rows[:count][None], rows[count:][None]
    batch, n = x.shape[:2]
    flat, rows = order + row_starts(x, batch, n), x.reshape(batch * n, *x.shape[2:])
    parts = (flat[:, :count], flat[:, count:])
    first, rest = (rows.index_select(0, p.reshape(-1)).view(batch, p.shape[1], *x.shape[2:]) for p in parts)
    return first, rest


def is_single(x: Tensor) -> bool:
    """Whether there is one row, which needs no place among others; whoever traces is given a graph for any number."""
    return not torch.compiler.is_compiling() and x.shape[0] == 1


def flat_slots(like: Tensor, slot: Tensor, n_out: int) -> Tensor:
    """`[batch x m]` places among the slots of all rows, one row after another; `slot` is `[batch, m]`."""
    return slot[0] if is_single(like) else (slot + row_starts(like, slot.shape[0], n_out)).reshape(-1)


def add_rows(x: Tensor, slot: Tensor, n_out: int) -> Tensor:
    """Scatter-add tokens: `out[b, slot[b, i]] += x[b, i]`.

    Args:
        x: `[batch, n, ...]`.
        slot: `[batch, n]` integers in `[0, n_out)`.

    Returns:
        `[batch, n_out, ...]`.
    """
    batch, n = slot.shape
    out = x.new_zeros(batch * n_out, *x.shape[2:])
    out.index_add_(0, flat_slots(x, slot, n_out), x.reshape(batch * n, *x.shape[2:]))
    return out.view(batch, n_out, *x.shape[2:])


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to sum and score in: `dtype`, or float32 if that is wider."""
    return dtype if dtype.itemsize >= 4 else torch.float32


@dataclass(frozen=True)
class Tokens:
    """The tokens that flow, without their features.

    `size` `[batch, n]` counts the inputs a token stands for (None: all one); `valid` `[batch, n]` is False on padding
    (None: no padding); `marks` `[batch, n]` marks those that are never reduced (junk on padding), None where they
    follow from the lengths of rows. `n_start` is the width at the start, `row_start`
    `[batch]` each row's tokens at the start (None without padding: then it is `n_start` for all). `place` `[batch, n]`
    is the input that each token continues (None where nothing asks for it; junk on padding). `keep_left` is the `keep`
    of the stage that they left, which puts padding behind them (None: they come as they were given).
    """

    by_row = False  # whether rows have counts that do not follow from their lengths at the start
    n: int
    n_start: int
    leading: int
    trailing: int
    marks: Tensor | None = None
    size: Tensor | None = None
    valid: Tensor | None = None
    row_start: Tensor | None = None
    place: Tensor | None = None
    keep_left: float | None = None
    _masks: dict[tuple[torch.dtype, bool], Tensor | None] = field(default_factory=dict, init=False, compare=False)

    @classmethod
    def start(
        cls, hidden: Tensor, mask: Tensor | None, leading: int, trailing: int, *, with_places: bool = False
    ) -> Tokens:
        """Describe a sequence as it enters the first stage.

        Args:
            hidden: `[batch, n, width]`.
            mask: the block's attention mask (any form transformers makes for a bidirectional encoder) or None.
            leading: protected tokens at the start of every row (CLS, distillation, registers).
            trailing: protected tokens at the end of every row (the last separator).
            with_places: whether to keep account of the tokens' places.
        """
        batch, n = hidden.shape[:2]
        inputs = places(hidden, n).expand(batch, n) if with_places else None
        valid = None if mask is None else key_validity(mask, batch, n)
        if valid is None:
            ends = at_the_ends(hidden, n, leading, trailing).expand(batch, n)
            return cls(n, n, leading, trailing, ends, place=inputs)
        ordinal = valid.cumsum(1)  # from 1
        found = cls(n, n, leading, trailing, None, None, valid, ordinal[:, -1], inputs)
        found.__dict__["ordinal"] = ordinal  # known already
        return found

    @property
    def like(self) -> Tensor:
        """`[batch, n]`, on the device of the tokens."""
        like = self.valid if self.marks is None else self.marks
        if like is None:
            raise RuntimeError("tokens without padding have marks")
        return like

    @cached_property
    def ends(self) -> Tensor:
        """`[batch, n]` the first `leading` and the last `trailing` of a row; junk on padding (see `protected`)."""
        if self.marks is not None:
            return self.marks
        if self.keep_left is not None:
            counts = self.keep_left, self.n_start, self.leading, self.trailing, self.n
            return _ends_of(self.started, self.n_start, *counts)
        last = _last_reducible(self.like, self.n_start, self.leading, self.trailing)
        last = last.index_select(0, self.ordinal[:, -1])[:, None]
        return self.ordinal != torch.clamp(self.ordinal, places(self.like, self.leading + 2, self.leading + 1), last)

    @property
    def n_protected(self) -> int:
        """Protected tokens of a row without padding."""
        return self.leading + self.trailing

    @cached_property
    def ordinal(self) -> Tensor:
        """`[batch, n]` each token's place among the real ones of its row, from 1."""
        if self.valid is None or self.keep_left is not None:
            return places(self.like, self.n + 1, 1).expand_as(self.like)
        return self.valid.cumsum(1)

    @cached_property
    def length(self) -> Tensor:
        """`[batch, 1]` the real tokens of each row, where there is padding."""
        if self.keep_left is not None:
            return self._looked_up(self.keep_left, self.n_protected)[:, None]
        return self.ordinal[:, -1:]

    @property
    def started(self) -> Tensor:
        """`row_start`, where there is padding."""
        if self.row_start is None:
            raise RuntimeError("what each row started with was not counted")
        return self.row_start

    @property
    def by_length_alone(self) -> bool:
        """Whether what hangs on the places of tokens is known of each length that a row may have started with."""
        if self.valid is None:
            return are_kept(self.like)
        return self.marks is None and is_looked_up(self.started, self.n_start)

    @property
    def among_reducible(self) -> tuple[Tensor, Tensor]:
        """`[batch, n]` each token's place among the reducible ones of its row, from 0, junk on others; and `[batch, 1]`
        how many those are, less than 0 in rows that are shorter than what is protected."""
        return self.ordinal - (self.leading + 1), self.length - self.n_protected

    @property
    def asked(self) -> Tensor:
        """`[batch]` the last real token of each row: of a prompt it is where the answer starts."""
        if self.valid is None:
            return places(self.like, self.n, self.n - 1)[0].expand(self.like.shape[0])
        return (self.ordinal < self.length).sum(1)

    @property
    def asks(self) -> Tensor:
        """`[batch, n]` the tokens that say what is looked for: those that are never reduced."""
        return self.protected

    @property
    def told(self) -> Tensor | None:
        """`[batch, n]` what a tower attended to in each token of a picture, where there is one, and it is asked."""
        return None

    @property
    def patches(self) -> Tensor | None:
        """`[batch, n]` a number of each place of a video, the same in all frames, -1 elsewhere; None: nobody asks."""
        return None

    @property
    def real(self) -> Tensor | None:
        """`[batch, n]` False on what attention must not see; None where it may see all."""
        return self.valid

    @property
    def queries(self) -> Tensor | None:
        """`[batch, n]` how much each token's own attention counts where a scorer averages over tokens; None: alike."""
        return self.valid

    @property
    def protected(self) -> Tensor:
        """`[batch, n]`: tokens that are never reduced."""
        return self.ends if self.valid is None else self.ends & self.valid

    @property
    def reducible(self) -> Tensor:
        """`[batch, n]`: tokens that a stage may reduce."""
        if self.valid is None:
            return in_between(self.like, self.n, self.leading, self.trailing).expand_as(self.like)
        return self.valid & ~self.ends

    @cached_property
    def mass(self) -> Tensor:
        """`[batch, n]` float32 or better: how many inputs each token stands for; 0 on padding."""
        if self.size is not None:
            return self.size
        if self.valid is None:
            return ones(self.like, self.n, torch.float32).expand_as(self.like)
        return self.valid.float()

    def width_after(self, keep: float) -> int:
        """Static width after a stage: what the longest possible row keeps, protected tokens included."""
        protected = self.leading + self.trailing
        return protected + kept_count(keep, self.n_start - protected)

    def row_counts(self, keep: float) -> Tensor | None:
        """`[batch]` tokens each row keeps, protected ones included; None without padding (then all `width_after`)."""
        return None if self.valid is None else self._looked_up(keep, self.n_protected)

    def row_left(self, keep: float) -> int | Tensor:
        """Reducible tokens that are kept, of each row `[batch]` where there is padding."""
        if self.valid is None:
            return kept_count(keep, self.n_start - self.n_protected)
        return self._looked_up(keep, 0)

    def _looked_up(self, keep: float, more: int) -> Tensor:
        return _kept_of(self.started, keep, self.n_start, self.n_protected, more).index_select(0, self.started)

    def most_left(self, keep: float) -> int:
        """Reducible tokens that are kept of the longest possible row."""
        return kept_count(keep, self.n_start - self.n_protected)

    def kept(self, keep: float) -> Tokens:
        """The same, known to have left a stage of `keep`."""
        return self if self.valid is None or self.marks is not None else self.moved(keep_left=keep)

    def moved(self, **changes: Any) -> Self:
        """As `dataclasses.replace`, in a third of its time, which is a stage's share."""
        if torch.compiler.is_compiling():
            return replace(self, **changes)
        twin, own = object.__new__(type(self)), self.__dict__
        # what was worked out of these tokens is not the others'
        twin.__dict__.update({name: own[name] for name in type(self).__dataclass_fields__}, **changes, _masks={})
        return twin

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
        known = (dtype, additive)
        if known not in self._masks:  # the same for all blocks up to the next stage
            self._masks[known] = self._attention_mask(dtype, additive)
        return self._masks[known]

    def _attention_mask(self, dtype: torch.dtype, additive: bool) -> Tensor | None:
        if self.size is None:
            if self.valid is None or not additive:
                return None if self.valid is None else self.valid[:, None, None, :]
            bias = torch.zeros_like(self.valid, dtype=dtype)
        elif self.valid is None:
            summed = self.size if self.size.dtype is wide(dtype) else self.size.to(wide(dtype))
            return summed.log().to(dtype).view(-1, 1, 1, self.n)
        else:
            size = self.size.to(wide(dtype))
            bias = size.where(self.valid, single(size, 1.0, size.dtype)).log().to(dtype)
        return bias.where(self.valid, single(bias, torch.finfo(dtype).min, dtype))[:, None, None, :]


@constant
def _last_reducible(device: torch.device, n: int, leading: int, trailing: int) -> Tensor:
    """`[n + 1]` for each length of a row: its last token, from 1, that may be reduced; `leading` if there is none."""
    return (torch.arange(n + 1, device=device) - trailing).clamp(min=leading)


@by_length
def _ends_of(length: Tensor, keep: float, n_start: int, leading: int, trailing: int, n: int) -> Tensor:
    """`[m, n]` of rows that left a stage of `keep`, by the lengths `[m, 1]` that they started with."""
    place = torch.arange(n, device=length.device)
    left = left_of(length, keep, n_start, leading + trailing)
    return (place < leading) | (place >= left - trailing)


def left_of(length: Tensor, keep: float, n_start: int, protected: int) -> Tensor:
    """Tokens that leave a stage of `keep`, protected ones included, of rows that started with `length`."""
    return kept_counts(keep, (length - protected).clamp(min=0), n_start - protected) + length.clamp(max=protected)


@constant
def _kept_of(device: torch.device, keep: float, n: int, protected: int, more: int) -> Tensor:
    """`[n + 1]` for each length of a row at the start: the tokens that it keeps, and `more` of its protected ones."""
    length = torch.arange(n + 1, device=device)
    return kept_counts(keep, (length - protected).clamp(min=0), n - protected) + length.clamp(max=more)


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
