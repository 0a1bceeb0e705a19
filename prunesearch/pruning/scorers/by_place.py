"""Scorers that look at no content: fixed lengths, and a random order as the floor to beat."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunesearch.pruning.forward.constants import constant
from prunesearch.pruning.scorers.base import ScorerInput

_HASH_FACTOR, _HASH_MASK = 0x45D9F3B, 0xFFFFFFFF  # of a 32-bit integer hash without collisions


def position(inputs: ScorerInput) -> Tensor:
    """Fixed length: the first n reducible tokens are kept; scores fall linearly with position."""
    return _scored(inputs, _first, inputs.wide)


def position_stride(inputs: ScorerInput) -> Tensor:
    """Fixed length: every k-th reducible token is kept, `keep` of them spread evenly from the first on."""
    keep = inputs.keep if isinstance(inputs.keep, int) else inputs.keep[:, None]
    return _scored(inputs, _spread, keep, inputs.wide)


def random(inputs: ScorerInput) -> Tensor:
    """A seeded random order: the same for every row and every run, different from block to block."""
    return _scored(inputs, _hashed, _random_start(inputs.seed, inputs.layer))


def _scored(inputs: ScorerInput, score: Callable[..., Tensor], *args: Any) -> Tensor:
    """`score(ordinal, count, *args)`; without padding all rows have the same, made once."""
    tokens = inputs.tokens
    if tokens.valid is None:
        row = _of_one_row(tokens.protected, score, tokens.n, tokens.leading, tokens.trailing, *args)
        return row.expand_as(tokens.protected)
    # scores must not depend on a batch's padding
    ordinal, count = tokens.among_reducible
    return score(ordinal, count.clamp(min=1), *args)


@constant
def _of_one_row(
    device: torch.device, score: Callable[..., Tensor], n: int, leading: int, trailing: int, *args: Any
) -> Tensor:
    ordinal = torch.arange(n, device=device)[None] - leading
    return score(ordinal, max(n - leading - trailing, 1), *args)


# `ordinal` `[batch, n]` is the place of each token among the reducible ones of its row, meaningless elsewhere; `count`
# is how many those are, at least 1, an int or `[batch, 1]`


def _first(ordinal: Tensor, count: int | Tensor, dtype: torch.dtype) -> Tensor:
    return 1 - ordinal.to(dtype) / count


def _spread(ordinal: Tensor, count: int | Tensor, keep: int | Tensor, dtype: torch.dtype) -> Tensor:
    return ((ordinal * keep) % count < keep) + (1 - ordinal.to(dtype) / count) / 2


def _hashed(ordinal: Tensor, count: int | Tensor, start: int) -> Tensor:
    x = ordinal.clamp(min=0) + start
    # a hash of the place, worked out on the device: a table drawn here would have to be copied there, which stalls it
    for _ in range(2):
        x = (((x >> 16) ^ x) * _HASH_FACTOR) & _HASH_MASK
    return ((x >> 16) ^ x).double() / (_HASH_MASK + 1)


@lru_cache(maxsize=256)
def _random_start(seed: int, layer: int) -> int:
    return int(np.random.default_rng([seed, layer]).integers(_HASH_MASK // 2))
