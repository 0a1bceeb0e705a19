"""An encoder without a head, and one vector made of its states."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from prunesearch.pruning.families.pooling import mean_pool
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
        pooling: mean (over the real tokens, by their sizes) or cls (the first state).
    """

    def __init__(self, encoder: nn.Module, pooling: str = "mean") -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, pooling
        self.config: Any = encoder.config

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Embeddings of the encoder's own inputs."""
        return {"embeddings": embeddings(self.encoder, self.encoder, inputs, self.pooling)}


def embeddings(forward: Forward, encoder: nn.Module, inputs: Inputs, pooling: str = "mean") -> Tensor:
    """Embeddings `[batch, width]`: those that `forward` gives, else the states that it gives, pooled.

    Args:
        forward: the encoder, or what was made of it.
        encoder: whose schedule, if it carries one, says what a state stands for.
        inputs: of the encoder.
        pooling: mean or cls.
    """
    found = forward(**inputs)
    given = named(found, "embeddings")
    if given is not None:
        return given
    hidden = output(found, "last_hidden_state")
    if pooling == "cls":
        return hidden[:, 0]
    mask = inputs.get("attention_mask")
    if mask is not None and "input_values" in inputs:
        mask = frame_mask(encoder, mask, hidden.shape[1])
    return mean_pool(encoder, hidden, mask)


def lacking(given: Collection[str], pooling: str = "mean") -> str:
    """Why embeddings cannot be had of outputs with the names `given`; empty where they can."""
    return "" if "embeddings" in given or "logits" in given or pooling == "cls" else NO_SIZES
