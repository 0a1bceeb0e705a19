"""What a selection is: which tokens stay, out of their scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from prunesearch.pruning.attention import AttentionView
from prunesearch.pruning.forward.constants import places
from prunesearch.pruning.forward.tokens import Tokens


@dataclass(frozen=True)
class SelectionInput:
    """What a selection may look at.

    `score` is `[batch, n]`; `keep` the fraction of the initial reducible tokens that the stage asks for, `n_out` the
    width that comes of it, protected tokens included; `params` every parameter of the selection, by name
    (`core.tables.registry.SELECTIONS`). `in_order` is False where nobody will ask in which order tokens stand, the
    protected ones at the start apart.
    """

    tokens: Tokens
    attention: AttentionView
    score: Tensor
    keep: float
    n_out: int
    params: Mapping[str, float]
    in_order: bool = True


@dataclass(frozen=True)
class Chosen:
    """Which tokens stay, the protected ones among them.

    Args:
        ranking: `[batch, n]` all tokens in the order in which they were chosen, the kept ones first.
        best: `[batch, n]` their scores, in the same order.
        kept: `[batch, n_out]`, as in `Assignment`.
        occupied: `[batch, n_out]`, as in `Assignment`.
        count: how many stay, an int or `[batch, 1]`.
        in_order: whether `kept` is in the order of the tokens, not of the ranking.
        valid: `[batch, n]`, as in `Tokens`.
    """

    ranking: Tensor
    best: Tensor
    kept: Tensor
    count: int | Tensor
    occupied: Tensor | None = None
    in_order: bool = True
    valid: Tensor | None = None

    @property
    def n_out(self) -> int:
        """Width after the stage."""
        return self.kept.shape[1]

    @cached_property
    def order(self) -> Tensor:
        """`[batch, n]` the kept tokens in the order of their slots, then the others, best first; without padding."""
        return torch.cat([self.kept, self.ranking[:, self.n_out :]], 1) if self.in_order else self.ranking

    @cached_property
    def rank(self) -> Tensor:
        """`[batch, n]` each token's place in the ranking, from 0."""
        place = places(self.ranking, self.ranking.shape[1]).expand_as(self.ranking)
        return torch.empty_like(self.ranking).scatter_(1, self.ranking, place)

    @cached_property
    def is_kept(self) -> Tensor:
        """Bool `[batch, n]`."""
        kept: Tensor = self.rank < self.count
        return kept if self.valid is None else kept & self.valid

    @cached_property
    def own_slot(self) -> Tensor:
        """`[batch, n]` slot of each kept token; some legal slot for the others."""
        return own_slots(self.is_kept) if self.in_order else self.rank.clamp(max=self.n_out - 1)


def slots_in_order(is_kept: Tensor, n_out: int) -> tuple[Tensor, Tensor]:
    """Place the kept tokens of each row in order at its start: `(kept, occupied)`, both `[batch, n_out]`."""
    kept = (~is_kept).byte().sort(stable=True, dim=1).indices[:, :n_out]
    return kept, places(kept, n_out) < is_kept.sum(1, keepdim=True)


def own_slots(is_kept: Tensor) -> Tensor:
    """Slot of each kept token, `[batch, n]`; some legal slot for the others."""
    return (is_kept.cumsum(1) - 1).clamp(min=0)
