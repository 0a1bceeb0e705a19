"""Scorers that look at no content: fixed lengths, and a random order as the floor to beat."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from torch import Tensor

from prunesearch.pruning.forward.tokens import Tokens
from prunesearch.pruning.scorers.base import ScorerInput

_HASH_FACTOR, _HASH_MASK = 0x45D9F3B, 0xFFFFFFFF  # of a 32-bit integer hash without collisions


def position(inputs: ScorerInput) -> Tensor:
    """Fixed length: the first n reducible tokens are kept; scores fall linearly with position."""
    return 1 - _ordinal(inputs.tokens).to(inputs.wide) / _row_count(inputs.tokens)


def position_stride(inputs: ScorerInput) -> Tensor:
    """Fixed length: every k-th reducible token is kept, `keep` of them spread evenly from the first on."""
    tokens, place = inputs.tokens, _ordinal(inputs.tokens)
    count = _row_count(tokens)
    keep = inputs.keep if isinstance(inputs.keep, int) else inputs.keep[:, None]
    chosen = (place * keep) % count < keep
    return chosen + (1 - place.to(inputs.wide) / count) / 2


def random(inputs: ScorerInput) -> Tensor:
    """A seeded random order: the same for every row and every run, different from block to block."""
    x = _ordinal(inputs.tokens).clamp(min=0) + _random_start(inputs.seed, inputs.layer)
    # a hash of the place, worked out on the device: a table drawn here would have to be copied there, which stalls it
    for _ in range(2):
        x = (((x >> 16) ^ x) * _HASH_FACTOR) & _HASH_MASK
    return ((x >> 16) ^ x).double() / (_HASH_MASK + 1)


def _ordinal(tokens: Tokens) -> Tensor:
    """Place of each token among the reducible tokens of its row, `[batch, n]`; meaningless elsewhere."""
    return tokens.reducible.cumsum(1) - 1


def _row_count(tokens: Tokens) -> Tensor:
    """Reducible tokens of each row, `[batch, 1]`, at least 1: scores must not depend on a batch's padding."""
    return tokens.reducible.sum(1, keepdim=True).clamp(min=1)


@lru_cache(maxsize=256)
def _random_start(seed: int, layer: int) -> int:
    return int(np.random.default_rng([seed, layer]).integers(_HASH_MASK // 2))
