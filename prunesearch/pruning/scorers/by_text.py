"""Scorers that ask the text of a prompt what it looks at."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from prunesearch.pruning.scorers.base import ScorerInput
from prunesearch.pruning.scorers.by_attention import attention_slabs


def text_attention(inputs: ScorerInput) -> Tensor:
    """Attention of the last token of the prompt to each key, mean over heads.

    FastV (Chen et al. 2024) has it of the block before; PyramidDrop (Xing et al. 2024) of the stage's own. One row, not
    N x N. Without a prompt it is the last real token.
    """
    view, asked = inputs.attention, inputs.tokens.asked
    if view.weights is not None:
        index = asked[:, None, None, None].expand(-1, view.weights.shape[1], 1, view.weights.shape[3])
        return view.weights.gather(2, index)[:, :, 0].to(inputs.wide).mean(1)
    index = asked[:, None, None, None].expand(-1, view.query.shape[1], 1, view.query.shape[3])
    return view.logits(view.query.gather(2, index), asked).softmax(-1)[:, :, 0].mean(1)


def text_attention_mean(inputs: ScorerInput) -> Tensor:
    """Mean attention a token receives from those that are never reduced, over heads (the text, as in SparseVLM).

    What answers the prompt, where a model is taught, is not asked.
    """
    asks = inputs.tokens.asks
    parts = ((weights.mean(1) * asks[:, rows, None]).sum(1) for rows, weights in attention_slabs(inputs.attention))
    total = reduce(torch.add, parts)
    return total / asks.sum(1, keepdim=True).clamp(min=1)
