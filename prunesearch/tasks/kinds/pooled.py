"""An encoder without a head, and one vector made of its states."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from prunesearch.pruning.families.pooling import mean_pool, token_weights
from prunesearch.tasks.base import Forward, named, output
from prunesearch.tasks.batching.batches import Inputs
from prunesearch.tasks.kinds.audio import frame_mask

NO_SIZES = (
    "embeddings are a mean over all tokens there were, and what was exported gives the states of those that are left: "
    "choose --to onnx, which has the mean inside"
)


class Pooled(nn.Module):
    """An encoder that gives `embeddings` `[batch, width]`; `config` is the encoder's.

    Args:
        encoder: with or without a schedule.
        pooling: names in `POOLINGS`, whose vectors are joined.
        after: what the joined vector goes through; None: nothing.
    """

    def __init__(
        self, encoder: nn.Module, pooling: tuple[str, ...] = ("mean",), after: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.pooling, self.after = encoder, pooling, after
        self.config: Any = encoder.config

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Embeddings of the encoder's own inputs."""
        return {"embeddings": embeddings(self.encoder, self.encoder, inputs, self.pooling, self.after)}


def embeddings(
    forward: Forward,
    encoder: nn.Module,
    inputs: Inputs,
    pooling: tuple[str, ...] = ("mean",),
    after: nn.Module | None = None,
) -> Tensor:
    """Embeddings `[batch, width]`: those that `forward` gives, else the states that it gives, pooled.

    Args:
        forward: the encoder, or what was made of it.
        encoder: whose schedule, if it carries one, says what a state stands for.
        inputs: of the encoder.
        pooling: names in `POOLINGS`, whose vectors are joined.
        after: what the joined vector goes through; None: nothing.
    """
    found = forward(**inputs)
    given = named(found, "embeddings")
    if given is not None:
        return given
    hidden = output(found, "last_hidden_state")
    mask = inputs.get("attention_mask")
    if mask is not None and "input_values" in inputs:
        mask = frame_mask(encoder, mask, hidden.shape[1])
    joined = torch.cat([POOLINGS[mode][0](encoder, hidden, mask) for mode in pooling], dim=-1)
    return joined if after is None else after(joined)


def _first(encoder: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
    return hidden[:, 0]


def _greatest(encoder: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
    weight = token_weights(encoder, mask)
    return (hidden if weight is None else hidden.masked_fill(weight[..., None] == 0, -torch.inf)).max(dim=1).values


def _by_root(encoder: nn.Module, hidden: Tensor, mask: Tensor | None) -> Tensor:
    weight = token_weights(encoder, mask)
    count = hidden.new_tensor(hidden.shape[1]) if weight is None else weight.to(hidden.dtype).sum(1, keepdim=True)
    return mean_pool(encoder, hidden, mask) * count.sqrt()


# `(encoder, states [b, n, width], mask of the tokens there were) -> [b, width]`, by sentence-transformers' names
POOLINGS: dict[str, tuple[Callable[[nn.Module, Tensor, Tensor | None], Tensor], str]] = {
    "mean": (mean_pool, "the mean of the last states, by the tokens' sizes"),
    "cls": (_first, "the first token's last state"),
    "max": (_greatest, "the greatest of the last states"),
    "mean_sqrt_len_tokens": (
        _by_root,
        "the sum of the last states, by the tokens' sizes, over the root of their number",
    ),
}


def lacking(given: Collection[str], pooling: tuple[str, ...] = ("mean",)) -> str:
    """Why embeddings cannot be had of outputs with the names `given`; empty where they can."""
    return "" if "embeddings" in given or "logits" in given or pooling == ("cls",) else NO_SIZES
