"""What a selection is: which tokens stay, out of their scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prunesearch.pruning.attention import AttentionView
from prunesearch.pruning.forward.tokens import Tokens


@dataclass(frozen=True)
class SelectionInput:
    """What a selection may look at.

    `score` is `[batch, n]`; `keep` the fraction of the initial reducible tokens that the stage asks for, `n_out` the
    width that comes of it, protected tokens included; `params` every parameter of the selection, by name
    (`core.tables.registry.SELECTIONS`).
    """

    tokens: Tokens
    attention: AttentionView
    score: Tensor
    keep: float
    n_out: int
    params: Mapping[str, float]


@dataclass(frozen=True)
class Chosen:
    """Which tokens stay, the protected ones among them.

    Args:
        kept: `[batch, n_out]`, as in `Assignment`.
        occupied: `[batch, n_out]`, as in `Assignment`.
        rank: `[batch, n]` each token's place in the order in which they were chosen, from 0.
        is_kept: bool `[batch, n]`.
        own_slot: `[batch, n]` slot of each kept token; some legal slot for the others.
        count: how many stay, an int or `[batch, 1]`.
    """

    kept: Tensor
    occupied: Tensor | None
    rank: Tensor
    is_kept: Tensor
    own_slot: Tensor
    count: int | Tensor

    @property
    def n_out(self) -> int:
        """Width after the stage."""
        return self.kept.shape[1]


def slots_in_order(is_kept: Tensor, n_out: int) -> tuple[Tensor, Tensor]:
    """Place the kept tokens of each row in order at its start: `(kept, occupied)`, both `[batch, n_out]`."""
    kept = (~is_kept).byte().sort(stable=True, dim=1).indices[:, :n_out]
    places = torch.arange(n_out, device=kept.device)
    return kept, places < is_kept.sum(1, keepdim=True)


def own_slots(is_kept: Tensor) -> Tensor:
    """Slot of each kept token, `[batch, n]`; some legal slot for the others."""
    return (is_kept.cumsum(1) - 1).clamp(min=0)
