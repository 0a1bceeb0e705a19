"""Importance of tokens, `[batch, tokens]`: high = keep, never negative, in float32 or better.

Every scorer takes a `ScorerInput` and returns one score per token; what it says of padding and protected tokens is
ignored. A new scorer is one function here and one row in `core.registry.SCORERS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from prunesearch.pruning.attention import AttentionView, mean_key
from prunesearch.pruning.tokens import Tokens

_CHUNK = 64  # queries per slab where all rows of the attention are needed: memory O(CHUNK x N), never N x N
_HASH_FACTOR, _HASH_MASK = 0x45D9F3B, 0xFFFFFFFF  # of a 32-bit integer hash without collisions


@dataclass(frozen=True)
class ScorerInput:
    """What a scorer may look at.

    `cls` is the place of the CLS token among a row's real tokens (-1: the last), or None if the model has none; `keep`
    is the number of reducible tokens that will be left, an int or `[batch]`; `depth` is the number of blocks of the
    model; `params` every parameter of the scorer, by name (`core.registry.SCORERS`).
    """

    attention: AttentionView
    tokens: Tokens
    keep: int | Tensor
    layer: int
    depth: int
    seed: int
    cls: int | None
    params: Mapping[str, float]


def cls_attention(inputs: ScorerInput) -> Tensor:
    """Attention of the CLS query to each key, mean over heads (EViT, Liang et al. 2022).

    Without a CLS token this is `attention_received`: the attention of the average query.
    """
    if inputs.cls is None:
        return attention_received(inputs)
    return _cls_rows(inputs).mean(1)


def attention_received(inputs: ScorerInput) -> Tensor:
    """Mean attention a token receives, over heads and real queries (PoWER-BERT, Goyal et al. 2020)."""
    valid = inputs.tokens.valid
    total: Tensor | None = None
    for rows, weights in _attention_slabs(inputs.attention):
        per_query = weights.mean(1)
        if valid is not None:
            per_query = per_query * valid[:, rows, None]
        part = per_query.sum(1)
        total = part if total is None else total + part
    assert total is not None  # a sequence has at least one query
    count = inputs.tokens.n if valid is None else valid.sum(1, keepdim=True)
    return total / count


def attention_entropy(inputs: ScorerInput) -> Tensor:
    """`log(keys) - H` of a token's own attention, mean over heads: focused tokens are kept, diffuse ones go.

    H is the Shannon entropy in nats of the row that the token attends with.
    """
    valid = inputs.tokens.valid
    tiny = torch.finfo(_wide(inputs)).tiny  # the slope of entropy at 0, where padding is, is infinite
    slabs = [torch.special.entr(w.clamp(min=tiny)).sum(-1).mean(1) for _, w in _attention_slabs(inputs.attention)]
    entropy = torch.cat(slabs, dim=1)
    if valid is None:
        return (float(np.log(inputs.tokens.n)) - entropy).clamp(min=0)
    return (valid.sum(1, keepdim=True).to(entropy.dtype).log() - entropy).clamp(min=0)


def value_norm(inputs: ScorerInput) -> Tensor:
    """Euclidean norm of the value vector, all heads together."""
    value = inputs.attention.value
    wide = torch.promote_types(value.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(value, dim=(1, 3), dtype=wide)
    return norm


def cls_attention_value(inputs: ScorerInput) -> Tensor:
    """CLS attention times value norm (ATS, Fayyaz et al. 2022); without CLS, attention received times value norm."""
    return cls_attention(inputs) * value_norm(inputs)


def key_redundancy(inputs: ScorerInput) -> Tensor:
    """`1 - E`, where E is PiToMe's energy (Tran et al. 2024): mean over reducible keys of `ELU(cos - margin)`.

    Keys are means over heads; the parameter `margin` is that of the first block, and falls linearly to 0 at the last.
    The mean of a non-linear function of all pairs needs one `[batch, n, n]` similarity, without heads.
    """
    key = mean_key(inputs.attention)
    unit = torch.nn.functional.normalize(key, dim=-1)
    margin = inputs.params["margin"] * (1 - inputs.layer / max(inputs.depth - 1, 1))
    energy = torch.nn.functional.elu(unit @ unit.transpose(1, 2) - margin)
    others = inputs.tokens.reducible[:, None, :].to(energy.dtype)
    return 1 - (energy * others).sum(-1) / others.sum(-1).clamp(min=1)


def position(inputs: ScorerInput) -> Tensor:
    """Fixed length: the first n reducible tokens are kept; scores fall linearly with position."""
    return 1 - _ordinal(inputs.tokens).to(_wide(inputs)) / _row_count(inputs.tokens)


def position_stride(inputs: ScorerInput) -> Tensor:
    """Fixed length: every k-th reducible token is kept, `keep` of them spread evenly from the first on."""
    tokens, place = inputs.tokens, _ordinal(inputs.tokens)
    count = _row_count(tokens)
    keep = inputs.keep if isinstance(inputs.keep, int) else inputs.keep[:, None]
    chosen = (place * keep) % count < keep
    return chosen + (1 - place.to(_wide(inputs)) / count) / 2


def random(inputs: ScorerInput) -> Tensor:
    """A seeded random order: the same for every row and every run, different from block to block."""
    x = _ordinal(inputs.tokens).clamp(min=0) + _random_start(inputs.seed, inputs.layer)
    # a hash of the place, worked out on the device: a table drawn here would have to be copied there, which stalls it
    for _ in range(2):
        x = (((x >> 16) ^ x) * _HASH_FACTOR) & _HASH_MASK
    return ((x >> 16) ^ x).double() / (_HASH_MASK + 1)


def _cls_rows(inputs: ScorerInput) -> Tensor:
    """Probabilities of the CLS query, `[batch, heads, n]`; one row, not N x N."""
    view, valid, cls = inputs.attention, inputs.tokens.valid, inputs.cls or 0
    if valid is None:
        cls %= inputs.tokens.n
        if view.weights is not None:
            return view.weights[:, :, cls].to(_wide(inputs))
        return view.logits(view.query[:, :, cls : cls + 1], slice(cls, cls + 1)).softmax(-1)[:, :, 0]
    ordinal = valid.cumsum(1)
    which = cls + 1 if cls >= 0 else ordinal[:, -1:] + cls + 1
    place = ((ordinal == which) & valid).int().argmax(1)
    index = place[:, None, None, None].expand(-1, view.query.shape[1], 1, view.query.shape[3])
    return view.logits(view.query.gather(2, index), place).softmax(-1)[:, :, 0]


def _attention_slabs(view: AttentionView) -> Iterator[tuple[slice, Tensor]]:
    """Probabilities in slabs of `_CHUNK` queries, one alive at a time: pairs (rows, `[batch, heads, rows, n]`)."""
    n = view.query.shape[2]
    if view.weights is not None:
        yield slice(0, n), view.weights.to(torch.promote_types(view.weights.dtype, torch.float32))
        return
    for begin in range(0, n, _CHUNK):
        rows = slice(begin, min(begin + _CHUNK, n))
        yield rows, view.logits(view.query[:, :, rows], rows).softmax(-1)


def _wide(inputs: ScorerInput) -> torch.dtype:
    return torch.promote_types(inputs.attention.query.dtype, torch.float32)


def _ordinal(tokens: Tokens) -> Tensor:
    """Place of each token among the reducible tokens of its row, `[batch, n]`; meaningless elsewhere."""
    return tokens.reducible.cumsum(1) - 1


def _row_count(tokens: Tokens) -> Tensor:
    """Reducible tokens of each row, `[batch, 1]`, at least 1: scores must not depend on a batch's padding."""
    return tokens.reducible.sum(1, keepdim=True).clamp(min=1)


@lru_cache(maxsize=256)
def _random_start(seed: int, layer: int) -> int:
    return int(np.random.default_rng([seed, layer]).integers(_HASH_MASK // 2))
