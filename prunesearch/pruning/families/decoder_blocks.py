"""Halves of the encoder blocks of encoder-decoder models (see `blocks`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

_ROOM = 1000  # that transformers leaves below the largest half-precision number


def _bounded(x: Tensor) -> Tensor:
    most = torch.finfo(x.dtype).max - _ROOM
    return x.clamp(min=-most, max=most)


@dataclass(frozen=True)
class Seq2Seq:
    """`self_attn`, then `fc1` and `fc2`; post-norm (BART, Marian) or pre-norm (Whisper)."""

    kind: str
    pre_norm: bool
    core: str = "self_attn"

    def attend(self, layer: nn.Module, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """See `Layout`."""
        b: Any = layer
        y = b.self_attn_layer_norm(x) if self.pre_norm else x
        y = x + dropout(b.self_attn(y, attention_mask=mask, **kwargs)[0], p=b.dropout, training=b.training)
        out: Tensor = y if self.pre_norm else b.self_attn_layer_norm(y)
        return out

    def feed(self, layer: nn.Module, x: Tensor) -> Tensor:
        """See `Layout`."""
        b: Any = layer
        y = b.final_layer_norm(x) if self.pre_norm else x
        y = dropout(b.activation_fn(b.fc1(y)), p=b.activation_dropout, training=b.training)
        y = x + dropout(b.fc2(y), p=b.dropout, training=b.training)
        out: Tensor = y if self.pre_norm else b.final_layer_norm(y)
        if out.dtype != torch.float16:
            return out
        # chosen on the device, where transformers' own code waits for it
        return _bounded(out) if self.pre_norm else torch.where(torch.isfinite(out).all(), out, _bounded(out))


@dataclass(frozen=True)
class T5:
    """The first and the last of a list of layers, each with its norm and residual inside (T5)."""

    kind: str = "t5"
    core: str = "layer.0.SelfAttention"

    def attend(self, layer: nn.Module, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """See `Layout`."""
        b: Any = layer
        return self._finite(b.layer[0](x, attention_mask=mask, **kwargs)[0])

    def feed(self, layer: nn.Module, x: Tensor) -> Tensor:
        """See `Layout`."""
        b: Any = layer
        return self._finite(b.layer[-1](x))

    @staticmethod
    def _finite(x: Tensor) -> Tensor:
        if x.dtype != torch.float16:
            return x
        most = torch.finfo(x.dtype).max
        bound = torch.where(torch.isinf(x).any(), most - _ROOM, most)
        return torch.clamp(x, min=-bound, max=bound)


@dataclass(frozen=True)
class Detr:
    """Post-norm; spatial embeddings are added to queries and keys (DETR)."""

    kind: str = "detr"
    core: str = "self_attn"

    def attend(self, layer: nn.Module, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """See `Layout`."""
        b: Any = layer
        rest = {k: v for k, v in kwargs.items() if k != "spatial_position_embeddings"}
        where = kwargs.get("spatial_position_embeddings")
        y = b.self_attn(hidden_states=x, attention_mask=mask, position_embeddings=where, **rest)[0]
        out: Tensor = b.self_attn_layer_norm(x + dropout(y, p=b.dropout, training=b.training))
        return out

    def feed(self, layer: nn.Module, x: Tensor) -> Tensor:
        """See `Layout`."""
        b: Any = layer
        out: Tensor = b.final_layer_norm(x + b.mlp(x))
        if b.training and not torch.isfinite(out).all():
            out = _bounded(out)
        return out
