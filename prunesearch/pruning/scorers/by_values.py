"""Scorers that read values."""

from __future__ import annotations

import torch
from torch import Tensor

from prunesearch.pruning.forward.tokens import wide
from prunesearch.pruning.scorers.base import ScorerInput
from prunesearch.pruning.scorers.by_attention import cls_attention


def value_norm(inputs: ScorerInput) -> Tensor:
    """Euclidean norm of the value vector, all heads together."""
    value = inputs.attention.value
    norm: Tensor = torch.linalg.vector_norm(value, dim=(1, 3), dtype=wide(value.dtype))
    return norm


def cls_attention_value(inputs: ScorerInput) -> Tensor:
    """CLS attention times value norm (ATS, Fayyaz et al. 2022); without CLS, attention received times value norm."""
    return cls_attention(inputs) * value_norm(inputs)
