"""The two halves of an encoder block, by layout: attention with its residual, then the MLP with its own.

Splitting a block where the reduction sits needs no rewritten model: the block's own modules are called in the block's
own order. A layout is chosen and its attribute names filled in by a row of `families.FAMILIES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from transformers.pytorch_utils import apply_chunking_to_forward

from prunesearch.pruning.families.positions import grid_bias
from prunesearch.pruning.forward.state import given_mask

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
    """`x += after(attention(norm(x)))`, then `x += after(mlp(norm(x)))` (ViT and its kin).

    `adapter` names a part that may be None: `x += adapter(x)` at the end (Wav2Vec2 of many languages).
    """

    kind: str
    norm_attention: str
    norm_mlp: str
    after_attention: tuple[str, ...]
    after_mlp: tuple[str, ...]
    attention: str = "attention"
    mlp: str = "mlp"
    core: str = "attention"
    adapter: str | None = None

    def attend(self, layer: nn.Module, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """See `Layout`."""
        y = getattr(layer, self.norm_attention)(x)
        y = getattr(layer, self.attention)(y, attention_mask=mask, **kwargs)[0]
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
        adapter = None if self.adapter is None else getattr(layer, self.adapter, None)
        return out if adapter is None else out + adapter(out)


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
    """`x = norm(after(attention(x)) + x)`, then `x = norm(mlp(x) + x)`, the norms beside the parts (DistilBERT)."""

    kind: str
    norm_attention: str
    norm_mlp: str
    attention: str = "attention"
    mlp: str = "ffn"
    core: str = "attention"
    after_attention: tuple[str, ...] = ()

    def attend(self, layer: nn.Module, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """See `Layout`."""
        y = getattr(layer, self.attention)(x, attention_mask=mask, **kwargs)[0]
        for name in self.after_attention:
            y = getattr(layer, name)(y)
        out: Tensor = getattr(layer, self.norm_attention)(y + x)
        return out

    def feed(self, layer: nn.Module, x: Tensor) -> Tensor:
        """See `Layout`."""
        y = getattr(layer, self.mlp)(x)
        out: Tensor = getattr(layer, self.norm_mlp)(y + x)
        return out


@dataclass(frozen=True)
class InnerNorm:
    """`attention` adds and normalises inside, as does `output` after `intermediate` (MPNet, DeBERTa).

    Attention weights that the block's own forward would return are left in `kwargs["weights"]`.
    """

    kind: str
    core: str

    def attend(self, layer: nn.Module, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """See `Layout`."""
        rest = {k: v for k, v in kwargs.items() if k != "weights"}
        out: Tensor
        out, *weights = layer.attention(x, mask, **rest)  # type: ignore[operator]
        kwargs["weights"] = weights[0] if weights else None
        return out

    def feed(self, layer: nn.Module, x: Tensor) -> Tensor:
        """See `Layout`."""
        out: Tensor = layer.output(layer.intermediate(x), x)  # type: ignore[operator]
        return out


@dataclass(frozen=True)
class PreNormOutput:
    """`x += attention(norm(x))`, then `output(intermediate(norm(x)), x)`; attention takes no mask (VideoMAE, YOLOS)."""

    kind: str
    core: str = "attention.attention"

    def attend(self, layer: nn.Module, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """See `Layout`."""
        with given_mask(layer.get_submodule(self.core), mask):
            out: Tensor = layer.attention(layer.layernorm_before(x), **kwargs) + x  # type: ignore[operator]
        return out

    def feed(self, layer: nn.Module, x: Tensor) -> Tensor:
        """See `Layout`."""
        y = layer.intermediate(layer.layernorm_after(x))  # type: ignore[operator]
        out: Tensor = layer.output(y, x)  # type: ignore[operator]
        return out


@dataclass(frozen=True)
class Albert:
    """`attention` adds and normalises inside; one block serves several passes (ALBERT)."""

    kind: str = "albert"
    core: str = "attention"

    def attend(self, layer: nn.Module, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """See `Layout`."""
        out: Tensor = layer.attention(x, mask, **kwargs)[0]  # type: ignore[operator]
        return out

    def feed(self, layer: nn.Module, x: Tensor) -> Tensor:
        """See `Layout`."""
        y = apply_chunking_to_forward(
            layer.ff_chunk,  # type: ignore[arg-type]
            layer.chunk_size_feed_forward,  # type: ignore[arg-type]
            layer.seq_len_dim,  # type: ignore[arg-type]
            x,
        )
        out: Tensor = layer.full_layer_layer_norm(y + x)  # type: ignore[operator]
        return out


@dataclass(frozen=True)
class Beit:
    """Pre-norm with layer scales that are parameters, and a bias between places that the block makes (BEiT)."""

    kind: str = "beit"
    core: str = "attention"

    def attend(self, layer: nn.Module, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """See `Layout`; without a `resolution` the mask holds the bias already."""
        b: Any = layer
        rest = {k: v for k, v in kwargs.items() if k not in ("resolution", "interpolate_pos_encoding")}
        bias = grid_bias(layer, x.shape[1], kwargs) if "resolution" in kwargs else None
        if bias is not None:
            mask = bias if mask is None else bias + mask
        y = b.dropout(b.attention(b.layernorm_before(x), attention_mask=mask, **rest)[0])
        out: Tensor = b.drop_path(b.lambda_1 * y) + x
        return out

    def feed(self, layer: nn.Module, x: Tensor) -> Tensor:
        """See `Layout`."""
        b: Any = layer
        y = b.dropout(b.mlp(b.layernorm_after(x)))
        out: Tensor = b.drop_path(b.lambda_2 * y) + x
        return out
