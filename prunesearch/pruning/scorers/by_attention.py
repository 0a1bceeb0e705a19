"""Scorers that read attention: of the CLS query, received by a token, and how focused a token's own is."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from itertools import starmap

import numpy as np
import torch
from torch import Tensor

from prunesearch.pruning.attention import AttentionView
from prunesearch.pruning.forward.tokens import wide
from prunesearch.pruning.scorers.base import ScorerInput

_CHUNK = 64  # queries per slab where all rows of the attention are needed: memory O(CHUNK x N), never N x N


def cls_attention(inputs: ScorerInput) -> Tensor:
    """Attention of the CLS query to each key, mean over heads (EViT, Liang et al. 2022).

    Without a CLS token this is `attention_received`: the attention of the average query.
    """
    if inputs.cls is None:
        return attention_received(inputs)
    return _cls_rows(inputs).mean(1)


def tower_cls_attention(inputs: ScorerInput) -> Tensor:
    """Attention of the CLS query of the tower, in the block that made the features of a picture (VisionZip, VisPruner).

    Without a CLS token it is the mean attention received there. An encoder is a tower: its own block is asked.
    """
    told = inputs.tokens.told
    return cls_attention(inputs) if told is None else told.to(wide(told.dtype))


def attention_received(inputs: ScorerInput) -> Tensor:
    """Mean attention a token receives, over heads and real queries (PoWER-BERT, Goyal et al. 2020)."""
    asking = inputs.tokens.queries

    def received(rows: slice, weights: Tensor) -> Tensor:
        per_query = weights.mean(1)
        return (per_query if asking is None else per_query * asking[:, rows, None]).sum(1)

    total = reduce(torch.add, starmap(received, attention_slabs(inputs.attention)))
    count = inputs.tokens.n if asking is None else asking.sum(1, keepdim=True)
    return total / count


def attention_entropy(inputs: ScorerInput) -> Tensor:
    """`log(keys) - H` of a token's own attention, mean over heads: focused tokens are kept, diffuse ones go.

    H is the Shannon entropy in nats of the row that the token attends with.
    """
    valid = inputs.tokens.valid
    tiny = torch.finfo(inputs.wide).tiny  # the slope of entropy at 0, where padding is, is infinite
    slabs = [torch.special.entr(w.clamp(min=tiny)).sum(-1).mean(1) for _, w in attention_slabs(inputs.attention)]
    entropy = torch.cat(slabs, dim=1)
    if valid is None:
        return (float(np.log(inputs.tokens.n)) - entropy).clamp(min=0)
    return (valid.sum(1, keepdim=True).to(entropy.dtype).log() - entropy).clamp(min=0)


def _cls_rows(inputs: ScorerInput) -> Tensor:
    """Probabilities of the CLS query, `[batch, heads, n]`; one row, not N x N."""
    view, valid, cls = inputs.attention, inputs.tokens.valid, inputs.cls or 0
    if valid is None:
        cls %= inputs.tokens.n
        if view.weights is not None:
            return view.weights[:, :, cls].to(inputs.wide)
        return view.logits(view.query[:, :, cls : cls + 1], slice(cls, cls + 1)).softmax(-1)[:, :, 0]
    if cls >= 0 and inputs.tokens.keep_left is not None:  # padding is behind
        return view.logits(view.query[:, :, cls : cls + 1], slice(cls, cls + 1)).softmax(-1)[:, :, 0]
    which = cls + 1 if cls >= 0 else inputs.tokens.length + cls + 1
    place = (inputs.tokens.ordinal < which).sum(1)
    index = place[:, None, None, None].expand(-1, view.query.shape[1], 1, view.query.shape[3])
    return view.logits(view.query.gather(2, index), place).softmax(-1)[:, :, 0]


def attention_slabs(view: AttentionView) -> Iterator[tuple[slice, Tensor]]:
    """Probabilities in slabs of `_CHUNK` queries, one alive at a time: pairs (rows, `[batch, heads, rows, n]`)."""
    n = view.query.shape[2]
    if view.weights is not None:
        yield slice(0, n), view.weights.to(wide(view.weights.dtype))
        return
    for begin in range(0, n, _CHUNK):
        rows = slice(begin, min(begin + _CHUNK, n))
        yield rows, view.logits(view.query[:, :, rows], rows).softmax(-1)
