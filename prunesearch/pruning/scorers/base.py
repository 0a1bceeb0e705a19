"""What a scorer is: `[batch, tokens]` out of a `ScorerInput`, high = keep, never negative, in float32 or better.

What it says of padding and protected tokens is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prunesearch.pruning.attention import AttentionView
from prunesearch.pruning.forward.tokens import Tokens, wide


@dataclass(frozen=True)
class ScorerInput:
    """What a scorer may look at.

    `cls` is the place of the CLS token among a row's real tokens (-1: the last), or None if the model has none; `share`
    is the fraction of the initial reducible tokens that will be left; `depth` is the number of blocks of the model;
    `params` every parameter of the scorer, by name (`core.tables.registry.SCORERS`). A learned scorer reads `features`,
    the hidden states `[batch, tokens, width]` behind the attention, with the weights of its `probe` at this block; None
    where there are none.
    """

    attention: AttentionView
    tokens: Tokens
    share: float
    layer: int
    depth: int
    seed: int
    cls: int | None
    params: Mapping[str, float]
    features: Tensor | None = None
    probe: Mapping[str, Tensor] | None = None

    @property
    def keep(self) -> int | Tensor:
        """The number of reducible tokens that will be left, an int, or with padding `[batch]`."""
        return self.tokens.row_left(self.share)

    @property
    def wide(self) -> torch.dtype:
        """The dtype to score in: the model's, or float32 if that is wider."""
        return wide(self.attention.query.dtype)
