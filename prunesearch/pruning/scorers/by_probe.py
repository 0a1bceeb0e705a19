"""Scorers with weights that are learned: two small matrix products on the hidden states of a block."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prunesearch.core.errors import PruneSearchError
from prunesearch.pruning.scorers.base import ScorerInput


def by_probe(inputs: ScorerInput) -> Tensor:
    """What a probe of the block's hidden states says (`probed`), as a share: it was trained to say what matters.

    Raises:
        PruneSearchError: if the model has no weights for this scorer at this block.
    """
    if inputs.probe is None or inputs.features is None:
        raise PruneSearchError(
            f"a learned scorer needs its weights for block {inputs.layer}, which the model has not: search on what "
            "`prunesearch learn-scorers STUDY` wrote (run --weights STUDY/scorers), or apply a point of such a study"
        )
    return probed(inputs.probe, inputs.features, inputs.tokens.reducible, inputs.wide).sigmoid()


def probed(probe: Mapping[str, Tensor], features: Tensor, reducible: Tensor, dtype: torch.dtype) -> Tensor:
    """What a probe says of tokens, `[batch, n]`: local features beside the mean of the reducible tokens' (DynamicViT).

    Args:
        probe: `local` `[hidden, width]`, `local_bias`, `mixed` `[2 x hidden, hidden]`, `mixed_bias`, `out` `[hidden]`.
        features: `[batch, n, width]`, of any scale: they are normalised token by token.
        reducible: bool `[batch, n]`.
        dtype: to compute in.
    """
    weights = {name: value.to(dtype) for name, value in probe.items()}
    x = torch.nn.functional.layer_norm(features.to(dtype), features.shape[-1:])
    local = torch.nn.functional.gelu(torch.nn.functional.linear(x, weights["local"], weights["local_bias"]))
    counts = reducible.to(dtype)[..., None]
    # what is on padding is no number perhaps, and times 0 it would stay none
    mean = (local.where(reducible[..., None], torch.zeros_like(local))).sum(1, keepdim=True) / counts.sum(
        1, keepdim=True
    ).clamp(min=1)
    hidden = local.shape[-1]
    own, of_all = weights["mixed"][:hidden], weights["mixed"][hidden:]
    mixed = torch.nn.functional.gelu(local @ own + (mean @ of_all + weights["mixed_bias"]))
    found: Tensor = mixed @ weights["out"]
    return found
