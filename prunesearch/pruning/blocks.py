"""The two halves of an encoder block, by layout: attention with its residual, then the MLP with its own.

Splitting a block where the reduction sits needs no rewritten model: the block's own modules are called in the block's
own order. A layout is chosen and its attribute names filled in by a row of `families.FAMILIES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from transformers.pytorch_utils import apply_chunking_to_forward

_NOT_FOR_ENCODERS = ("encoder_hidden_states", "encoder_attention_mask", "past_key_values")


class Layout(Protocol):
    """How a block computes; `layer` is the block's module, hidden states are `[batch, tokens, width]`."""

    @property
    def kind(self) -> str:
        """Name of the computation: blocks of one kind and the same sizes cost the same."""

    @property
    def core(self) -> str:
        """Path, from the block, of the module that calls transformers' attention interface."""

    def attend(self, layer: nn.Module, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """The block up to the point between attention and MLP."""

    def feed(self, layer: nn.Module, x: Tensor) -> Tensor:
        """The rest of the block."""


@dataclass(frozen=True)
class PreNorm:
    """`x += after(attention(norm(x)))`, then `x += after(mlp(norm(x)))` (ViT and its kin)."""

    kind: str
    norm_attention: str
    norm_mlp: str
    after_attention: tuple[str, ...]
    after_mlp: tuple[str, ...]
    attention: str = "attention"
    mlp: str = "mlp"
    core: str = "attention"

    def attend(self, layer: nn.Module, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """See `Layout`."""
        y = getattr(layer, self.norm_attention)(x)
        y, _ = getattr(layer, self.attention)(y, attention_mask=mask, **kwargs)
        for name in self.after_attention:
            y = getattr(layer, name)(y)
        out: Tensor = y + x
        return out

    def feed(self, layer: nn.Module, x: Tensor) -> Tensor:
        """See `Layout`."""
        y = getattr(layer, self.mlp)(getattr(layer, self.norm_mlp)(x))
        for name in self.after_mlp:
            y = getattr(layer, name)(y)
        out: Tensor = y + x
        return out


@dataclass(frozen=True)
class BertLike:
    """`attention` and `feed_forward_chunk` add and normalise inside (BERT, RoBERTa, ELECTRA)."""

    kind: str = "bert"
    core: str = "attention.self"

    def attend(self, layer: nn.Module, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """See `Layout`."""
        rest = {k: v for k, v in kwargs.items() if k not in _NOT_FOR_ENCODERS}
        out: Tensor = layer.attention(x, mask, **rest)[0]  # type: ignore[operator]
        return out

    def feed(self, layer: nn.Module, x: Tensor) -> Tensor:
        """See `Layout`."""
        out: Tensor = apply_chunking_to_forward(
            layer.feed_forward_chunk,  # type: ignore[arg-type]
            layer.chunk_size_feed_forward,  # type: ignore[arg-type]
            layer.seq_len_dim,  # type: ignore[arg-type]
            x,
        )
        return out


@dataclass(frozen=True)
class PostNorm:
    """`x = norm(attention(x) + x)`, then `x = norm(mlp(x) + x)`, the norms beside the parts (DistilBERT)."""

    kind: str
    norm_attention: str
    norm_mlp: str
    attention: str = "attention"
    mlp: str = "ffn"
    core: str = "attention"

    def attend(self, layer: nn.Module, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """See `Layout`."""
        y = getattr(layer, self.attention)(x, attention_mask=mask, **kwargs)[0]
        out: Tensor = getattr(layer, self.norm_attention)(y + x)
        return out

    def feed(self, layer: nn.Module, x: Tensor) -> Tensor:
        """See `Layout`."""
        y = getattr(layer, self.mlp)(x)
        out: Tensor = getattr(layer, self.norm_mlp)(y + x)
        return out
