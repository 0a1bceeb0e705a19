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
    protected ones at the start apart. `number` is what the stage's amount says (`core.plans.amount.Amount`).
    """

    tokens: Tokens
    attention: AttentionView
    score: Tensor
    keep: float
    n_out: int
    params: Mapping[str, float]
    in_order: bool = True
    number: float = 1.0


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
        ranks: with padding, `[batch, n_out]` place in the ranking of what is in each slot; None where it is the slot's.
    """

    ranking: Tensor
    best: Tensor
    kept: Tensor
    count: int | Tensor
    occupied: Tensor | None = None
    in_order: bool = True
    ranks: Tensor | None = None

    @property
    def n_out(self) -> int:
        """Width after the stage."""
        return self.kept.shape[1]

    @cached_property
    def order(self) -> Tensor:
        """`[batch, n]` the kept tokens in the order of their slots, then the others, best first; without padding."""
        return torch.cat([self.kept, self.ranking[:, self.n_out :]], 1) if self.in_order else self.ranking

    @cached_property
    def slots(self) -> Tensor:
        """`[batch, n_out]` each slot's own number, 0 on those without a token."""
        own = places(self.kept, self.n_out)
        return own.expand_as(self.kept) if self.occupied is None else own * self.occupied

    @cached_property
    def marked(self) -> Tensor:
        """`[batch, n_out]` as `kept`, but the token of slot 0 on slots without one."""
        return self.kept if self.occupied is None else self.kept.where(self.occupied, self.kept[:, :1])
