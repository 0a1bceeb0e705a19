"""Tokens of which more is to be said than how long rows are: which may leave, wherever they lie (the pictures in a
prompt, say), or how many each row has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from prunesearch.core.errors import PruneSearchError
from prunesearch.core.plans.amount import kept_count
from prunesearch.pruning.forward.assignment import Assignment
from prunesearch.pruning.forward.constants import places
from prunesearch.pruning.forward.tokens import Tokens, kept_counts


class RowCounts(NamedTuple):
    """Of one row at the start: tokens that may be reduced, and real ones that may not."""

    reducible: int
    others: int


def _given(x: Tensor | None) -> Tensor:
    """What `MixedTokens.given` finds; a dataclass whose parent has defaults must have one too."""
    if x is None:
        raise RuntimeError("tokens of which any may leave are made by `MixedTokens.given`")
    return x


@dataclass(frozen=True)
class MixedTokens(Tokens):
    """`Tokens` whose reducible ones are given, one by one; how many each row has is known on the host.

    `counts` are those of each row at the start, `counted` `[batch, 2]` the same on the device; `last` `[batch]` is the
    place of each row's last token of the prompt, which is never reduced; `full` says
    that no row has padding, or slots without a token. `now` are the reducible tokens that each row still has.
    """

    counts: tuple[RowCounts, ...] = ()
    now: tuple[int, ...] = ()
    told_of_all: Tensor | None = None
    patch_of_all: Tensor | None = None
    counted: Tensor | None = None
    last: Tensor | None = None
    full: bool = False

    @classmethod
    def given(cls, reducible: Tensor, valid: Tensor, last: Tensor | None = None) -> MixedTokens:
        """Describe rows as they start.

        Args:
            reducible: bool `[batch, n]`, the tokens that may leave.
            valid: bool `[batch, n]`, False on padding.
            last: `[batch]` the last token of each row's prompt; None for its last real token.

        Raises:
            PruneSearchError: for a row that is all padding.
        """
        batch, n = valid.shape
        place = places(valid, n).expand(batch, n)
        last = place.where(valid, -1).amax(1) if last is None else last
        may_leave = reducible & valid & (place != last[:, None])
        # the one look at the data of a prompt: how many tokens a row keeps decides the width of everything behind it
        counted = torch.stack([may_leave.sum(1), (valid & ~may_leave).sum(1)], 1)
        counts = tuple(RowCounts(*row) for row in counted.tolist())
        if any(sum(row) == 0 for row in counts):
            raise PruneSearchError("a row of the batch is all padding: leave it out, or give it at least one token")
        full = all(sum(row) == n for row in counts)
        return cls(
            n,
            n,
            0,
            0,
            ~may_leave,
            valid=valid,
            row_start=counted.sum(1),
            place=place,
            counts=counts,
            now=tuple(row.reducible for row in counts),
            counted=counted,
            last=last,
            full=full,
        )

    @property
    def n_protected(self) -> int:
        """Protected tokens of the row that has most of them."""
        return max(row.others for row in self.counts)

    @property
    def among_reducible(self) -> tuple[Tensor, Tensor]:
        """See `Tokens`."""
        so_far = self.reducible.cumsum(1)
        return so_far - 1, so_far[:, -1:]

    @property
    def asked(self) -> Tensor:
        """See `Tokens`."""
        return (self._places == self._last).int().argmax(1)

    @property
    def asks(self) -> Tensor:
        """See `Tokens`."""
        return self.protected & (self._places <= self._last)

    @property
    def told(self) -> Tensor | None:
        """See `Tokens`."""
        if self.told_of_all is None or self.place is None:
            return None
        return self.told_of_all.gather(1, self.place)

    @property
    def patches(self) -> Tensor | None:
        """See `Tokens`."""
        if self.patch_of_all is None:
            return None
        return self.patch_of_all.gather(1, _given(self.place)).where(_given(self.valid), -1)

    @property
    def real(self) -> Tensor | None:
        """See `Tokens`."""
        return None if self.full else self.valid

    @property
    def _last(self) -> Tensor:
        return _given(self.last)[:, None]

    @property
    def _counted(self) -> Tensor:
        return _given(self.counted)

    @cached_property
    def _places(self) -> Tensor:
        """`place`, which is no token's on slots without one."""
        return _given(self.place).where(_given(self.valid), self.n_start)

    def _left(self, keep: float) -> tuple[int, ...]:
        """Reducible tokens that each row keeps: a fraction of what it had, but no more than it has."""
        return tuple(min(kept_count(keep, row.reducible), now) for row, now in zip(self.counts, self.now, strict=True))

    def _lengths(self, keep: float) -> list[int]:
        return [row.others + left for row, left in zip(self.counts, self._left(keep), strict=True)]

    def width_after(self, keep: float) -> int:
        """See `Tokens`."""
        return max(self._lengths(keep))

    def row_counts(self, keep: float) -> Tensor:
        """See `Tokens`."""
        return self.row_left(keep) + self._counted[:, 1]

    def row_left(self, keep: float) -> Tensor:
        """See `Tokens`."""
        left = kept_counts(keep, self._counted[:, 0], max(row.reducible for row in self.counts))
        short = any(kept_count(keep, row.reducible) > now for row, now in zip(self.counts, self.now, strict=True))
        return left.clamp(max=left.new_tensor(self.now)) if short else left

    def most_left(self, keep: float) -> int:
        """See `Tokens`."""
        return max(self._left(keep))

    def gives(self, before: float, keep: float) -> bool:
        """See `Tokens`."""
        return self._left(keep) != self.now

    def kept(self, keep: float) -> MixedTokens:
        """See `Tokens`."""
        return self.having(self._left(keep))

    def having(self, now: tuple[int, ...]) -> MixedTokens:
        """The same, known to have so many reducible tokens left in each row, and no padding between tokens."""
        lengths = {row.others + left for row, left in zip(self.counts, now, strict=True)}
        return self.moved(now=now, full=len(lengths) == 1)

    def without(self, gone: Tensor) -> tuple[Assignment, tuple[int, ...]]:
        """What takes some of the reducible tokens away, and how many each row then has.

        Args:
            gone: bool `[batch, n]`.
        """
        stays = _given(self.valid) & ~gone
        left = (stays & self.reducible).sum(1)
        now = tuple(left.tolist())
        lengths = [row.others + some for row, some in zip(self.counts, now, strict=True)]
        kept = (~stays).to(torch.uint8).argsort(dim=1, stable=True)[:, : max(lengths)]
        if len(set(lengths)) == 1:
            return Assignment(kept), now
        return Assignment(kept, places(kept, kept.shape[1]) < (left + self._counted[:, 1])[:, None]), now

    def _attention_mask(self, dtype: torch.dtype, additive: bool) -> Tensor | None:
        return None if self.full and self.size is None else super()._attention_mask(dtype, additive)


@dataclass(frozen=True)
class RowTokens(Tokens):
    """`Tokens` of which nothing follows from the length of a row: which are real, and which stay, is said one by one.

    A stage that leaves a fraction takes from such a row what is above that fraction, if anything is.
    """

    by_row = True

    @classmethod
    def of(cls, tokens: Tokens) -> RowTokens:
        """The same tokens, said one by one."""
        batch = tokens.like.shape[0]
        valid, started = tokens.valid, tokens.row_start
        if valid is None or started is None:
            valid = torch.ones(batch, tokens.n, dtype=torch.bool, device=tokens.like.device)
            started = torch.full((batch,), tokens.n_start, device=tokens.like.device)
        return cls(
            tokens.n,
            tokens.n_start,
            tokens.leading,
            tokens.trailing,
            tokens.ends,
            tokens.size,
            valid,
            started,
            tokens.place,
        )

    def gives(self, before: float, keep: float) -> bool:
        """See `Tokens`; nobody knows without a look at the data."""
        return True

    def row_counts(self, keep: float) -> Tensor:
        """See `Tokens`."""
        return torch.minimum(self._looked_up(keep, self.n_protected), self.length[:, 0])

    def row_left(self, keep: float) -> Tensor:
        """See `Tokens`."""
        return torch.minimum(self._looked_up(keep, 0), self.among_reducible[1][:, 0].clamp(min=0))

    def width_after(self, keep: float) -> int:
        """See `Tokens`."""
        return min(self.n, super().width_after(keep))


@dataclass(frozen=True)
class SoftTokens(RowTokens):
    """`RowTokens` of which some are partly gone, while thresholds are learnt: their sizes are below 1.

    Where all are either there or gone, they are to each other what `RowTokens` without those that are gone would be.
    """

    @property
    def queries(self) -> Tensor | None:
        """See `Tokens`; what is gone asks no more."""
        return self.valid if self.size is None else _given(self.valid) * self.size
