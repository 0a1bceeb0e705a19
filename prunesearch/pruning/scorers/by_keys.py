"""Scorers that read keys: how alike tokens are, and how large."""

from __future__ import annotations

import torch
from torch import Tensor

from prunesearch.pruning.attention import unit_keys
from prunesearch.pruning.scorers.base import ScorerInput


def key_norm(inputs: ScorerInput) -> Tensor:
    """Sum of the absolute values of the key vector, all heads together.

    The pivots of DART (Wen et al. 2025) are the largest.
    """
    key = inputs.attention.key
    norm: Tensor = torch.linalg.vector_norm(key, 1, dim=(1, 3), dtype=inputs.wide)
    return norm


def key_redundancy(inputs: ScorerInput) -> Tensor:
    """`1 - E`, where E is PiToMe's energy (Tran et al. 2024): mean over reducible keys of `ELU(cos - margin)`.

    Keys are means over heads; the parameter `margin` is that of the first block, and falls linearly to 0 at the last.
    The mean of a non-linear function of all pairs needs one `[batch, n, n]` similarity, without heads.
    """
    unit = unit_keys(inputs.attention)
    margin = inputs.params["margin"] * (1 - inputs.layer / max(inputs.depth - 1, 1))
    energy = torch.nn.functional.elu(unit @ unit.transpose(1, 2) - margin)
    others = inputs.tokens.reducible[:, None, :].to(energy.dtype)
    return 1 - (energy * others).sum(-1) / others.sum(-1).clamp(min=1)
