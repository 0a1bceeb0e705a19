"""What is inside transformers' wrapper of timm's models: how its blocks compute, what they protect, how it pools.

timm is an optional extra, and nothing here imports it: a model that is at hand has brought it along. Its attention
does not go through transformers' interface, but takes an additive mask, where `log(size)` goes; hooks leave queries,
keys and values with a block that has a stage.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunesearch.core.errors import PruneSearchError
from prunesearch.pruning.attention import AttentionView
from prunesearch.pruning.families.family import GRID, WINDOWS
from prunesearch.pruning.families.native_attention import Noted
from prunesearch.pruning.families.positions import RotaryPrefixed
from prunesearch.pruning.forward.state import Host, looked_at
from prunesearch.pruning.hooks import Hooks

_SUPPORTED = "timm's VisionTransformer (vit_*, deit_*) and Eva (eva02_*, vit_*_dinov3, vit_*_rope) can"
_CONVOLUTIONS = "it is made of convolutions, which need every place of their grid"
# what no row could make work, by the name of timm's class
_REASONS = {
    **dict.fromkeys(("SwinTransformer", "SwinTransformerV2", "SwinTransformerV2Cr", "VisionTransformerSAM"), WINDOWS),
    **dict.fromkeys(("Hiera", "MultiScaleVit", "PyramidVisionTransformerV2", "MaxxVit"), GRID),
    **dict.fromkeys(("ConvNeXt", "ResNet", "EfficientNet", "RegNet", "MobileNetV3"), _CONVOLUTIONS),
    "NaFlexVit": "it pads its tokens by a mask of its own (attn_mask)",
    "Beit": "its blocks make a bias between all places; transformers' own beit can be reduced",
}


@dataclass(frozen=True)
class TimmBlock:
    """`x += drop_path(scale(attn(norm(x))))`, then the same with `mlp`; without `pre_norm`, the norms come after.

    Args:
        kind: see `Layout`.
        pre_norm: whether norms come before attention and MLP.
        scales: names of the layer scales, which may be modules, parameters or None.
        core: see `Layout`.
    """

    kind: str
    pre_norm: bool = True
    scales: tuple[str, str] | None = None
    core: str = "attn"

    def attend(self, layer: nn.Module, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """See `Layout`.

        Raises:
            PruneSearchError: for a mask of the caller's own.
        """
        b: Any = layer
        if kwargs.get("attn_mask") is not None or kwargs.get("is_causal"):
            raise PruneSearchError("a timm model with a schedule takes no attn_mask or is_causal: leave them out")
        rest = {k: v for k, v in kwargs.items() if k not in ("attn_mask", "is_causal")}
        y = b.attn(b.norm1(x) if self.pre_norm else x, attn_mask=mask, **rest)
        out: Tensor = x + b.drop_path1(self._finish(b, b.norm1, 0, y))
        return out

    def feed(self, layer: nn.Module, x: Tensor) -> Tensor:
        """See `Layout`."""
        b: Any = layer
        y = b.mlp(b.norm2(x) if self.pre_norm else x)
        out: Tensor = x + b.drop_path2(self._finish(b, b.norm2, 1, y))
        return out

    def _finish(self, block: Any, norm: nn.Module, half: int, y: Tensor) -> Tensor:
        """The norm after a part, or its layer scale."""
        if not self.pre_norm:
            y = norm(y)
        scale = None if self.scales is None else getattr(block, self.scales[half])
        if scale is not None:
            y = scale(y) if isinstance(scale, nn.Module) else scale * y
        return y


# by the names of timm's classes: layer scales and whether norms come first
_BLOCKS = {
    "Block": TimmBlock("timm", scales=("ls1", "ls2")),
    "ResPostBlock": TimmBlock("timm", pre_norm=False),
    "EvaBlock": TimmBlock("timm", scales=("gamma_1", "gamma_2")),
    "EvaBlockPostNorm": TimmBlock("timm", pre_norm=False),
}
_MODELS = ("VisionTransformer", "VisionTransformerDistilled", "Eva")
_CORES = ("Attention", "AttentionRope", "EvaAttention")
_STEMS = ("PatchEmbed",)
_POOLS = ("", "token", "avg", "avgmax", "max", "map")


@dataclass(frozen=True)
class TimmSizes:
    """What other models' configs say of their sizes; the wrapper's says none of it. Image sizes are in pixels."""

    hidden_size: int
    num_attention_heads: int
    hidden_act: str
    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    num_channels: int


def inside_wrapper(model: nn.Module) -> Mapping[str, Any] | str:
    """The fields of a row that hang on what is inside a `TimmWrapper...`, or why that cannot be reduced."""
    inner: Any = model.timm_model
    name = type(inner).__name__
    if name not in _MODELS:
        why = _REASONS.get(name, "no row says how its blocks compute")
        return f"timm's {name}: {why}; {_SUPPORTED}"
    block = inner.blocks[0]
    why_not = _why_not(inner)
    if why_not is not None:
        return f"timm's {name} with {why_not}; a plain one of vit_*, deit_*, eva02_* can"
    layout = _BLOCKS[type(block).__name__]
    leading = int(inner.num_prefix_tokens)
    return {
        "layout": TimmBlock(_kind(block, layout), layout.pre_norm, layout.scales),
        "leading": leading,
        "cls": None if inner.cls_token is None else 0,
        "positions": None if getattr(inner, "rope", None) is None else RotaryPrefixed("rope"),
        "sizes": _sizes(inner, block),
    }


def _why_not(inner: Any) -> str | None:
    """What of a known class is not as its blocks are known to be, in words that follow "with"."""
    for block in inner.blocks:
        if type(block).__name__ not in _BLOCKS:
            return f"{type(block).__name__}: attention and MLP are not one after the other, or not known"
        core = block.attn
        if type(core).__name__ not in _CORES or getattr(core, "num_kv_groups", 1) != 1:
            return f"{type(core).__name__}: heads share keys, or compute otherwise than is known"
        if "attn_mask" not in inspect.signature(core.forward).parameters:
            return "attention that takes no attn_mask, as in old releases: update timm"
    if type(inner.patch_embed).__name__ not in _STEMS:
        return f"{type(inner.patch_embed).__name__}: of stems, only patches (PatchEmbed) are known"
    if inner.global_pool not in _POOLS:
        return f"global_pool='{inner.global_pool}': it attends between all tokens once more"
    return None


def _kind(block: Any, layout: TimmBlock) -> str:
    """Everything besides sizes that a block's cost hangs on."""
    core, mlp = block.attn, type(block.mlp).__name__.lower()
    scale = None if layout.scales is None else getattr(block, layout.scales[0])
    parts = {
        "scaled": scale is not None and not isinstance(scale, nn.Identity),
        "qknorm": not isinstance(core.q_norm, nn.Identity),
        "gated": getattr(core, "gate", None) is not None,
        mlp: mlp != "mlp",
        "unfused": not core.fused_attn,
    }
    return "-".join(["timm", type(block).__name__.lower(), *(part for part, there in parts.items() if there)])


def _sizes(inner: Any, block: Any) -> TimmSizes:
    stem = inner.patch_embed
    return TimmSizes(
        hidden_size=int(inner.embed_dim),
        num_attention_heads=int(block.attn.num_heads),
        hidden_act=type(getattr(block.mlp, "act", block.mlp)).__name__.lower(),
        image_size=tuple(stem.img_size),
        patch_size=tuple(stem.patch_size),
        num_channels=int(stem.proj.in_channels),
    )


# -- what attention computes -------------------------------------------------------------------------


def observe_timm(host: Host, model: nn.Module, hooks: Hooks) -> None:
    """Leave a view of a block's attention where a stage asks for it."""
    for core in dict.fromkeys(host.cores):
        for name in ("q_norm", "k_norm", "qkv", "v_proj"):
            if getattr(core, name, None) is not None:
                hooks.after(core.get_submodule(name), Noted(core, name).keep)
        hooks.after(core, _Watch(core).finish, with_kwargs=True)


@dataclass
class _Watch:
    """The hook of `observe_timm` on a core."""

    core: Any

    def finish(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], __: Any) -> None:
        looking = looked_at(self.core)
        if looking is None:
            return
        seen = looking.seen
        flat = seen.get("v_proj", seen.get("qkv"))
        looking.view = _Unseen(
            self.core, args[0], seen["q_norm"], seen["k_norm"], flat, kwargs.get("rope"), kwargs["attn_mask"]
        )
        seen.clear()


@dataclass
class _Unseen:
    """What hooks could take hold of; what attention makes of it besides is made again only as a stage looks.

    `x` is `[batch, n, width]`, `query` and `key` `[batch, heads, n, head_dim]` before they are turned, `flat` what the
    projection of values, or of all three, gave, `[batch, n, ...]`, or None.
    """

    core: Any
    x: Tensor
    query: Tensor
    key: Tensor
    flat: Tensor | None
    rope: Tensor | None
    mask: Tensor | None

    def __call__(self) -> AttentionView:
        """The view."""
        query, key = self._turned(self.query), self._turned(self.key)
        return AttentionView(query, key, self._value(), self.mask, self.core.scale, None)

    def _value(self) -> Tensor:
        flat = self.flat
        if flat is None:  # Eva multiplies by the weights of `qkv` without calling it
            flat = functional.linear(self.x, self.core.qkv.weight.chunk(3)[2], self.core.v_bias)
        elif self.core.qkv is not None:
            flat = flat.chunk(3, -1)[2]
        return flat.reshape(*flat.shape[:2], self.core.num_heads, -1).transpose(1, 2)

    def _turned(self, x: Tensor) -> Tensor:
        """All but the tokens at the start, as attention turns them."""
        if self.rope is None:
            return x
        turn: Any = sys.modules[type(self.core).__module__].apply_rot_embed_cat
        first, half = self.core.num_prefix_tokens, getattr(self.core, "rotate_half", False)
        return torch.cat([x[:, :, :first], turn(x[:, :, first:], self.rope, half=half)], dim=2).type_as(x)


# -- around the blocks -------------------------------------------------------------------------------


def pool_timm(host: Host, model: nn.Module, hooks: Hooks) -> None:
    """Let means of tokens weigh them by size, and pooling by attention add `log(size)` to its keys."""
    inner: Any = host.base.timm_model
    pool = _Pool(host, inner, inner.pool)
    hooks.put(inner, "pool", pool.pool)
    if inner.attn_pool is not None:
        hooks.before(inner.attn_pool, pool.with_sizes, with_kwargs=True)


@dataclass
class _Pool:
    """What `pool_timm` puts over the method that pools, `original`, and its hook."""

    host: Host
    inner: Any
    original: Any

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        inner, tokens = self.inner, self.host.state.tokens
        how = inner.global_pool if pool_type is None else pool_type
        plain: Tensor
        if tokens is None or tokens.size is None or inner.attn_pool is not None or how not in ("avg", "avgmax"):
            plain = self.original(x, pool_type)
            return plain
        first = 0 if getattr(inner, "pool_include_prefix", False) else inner.num_prefix_tokens
        x, weight = x[:, first:], tokens.size[:, first:, None].to(x.dtype)
        mean = (x * weight).sum(1) / weight.sum(1)
        return mean if how == "avg" else 0.5 * (x.amax(1) + mean)

    def with_sizes(
        self, _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]] | None:
        tokens = self.host.state.tokens
        bias = None if tokens is None else tokens.attention_mask(args[0].dtype, additive=True)
        return None if bias is None else (args, {**kwargs, "attn_mask": bias[..., -args[0].shape[1] :]})


def guard_timm(host: Host, model: nn.Module, hooks: Hooks) -> None:
    """Refuse, in one line, what a schedule would make wrong: grids of hidden states, and two ways of training."""
    inner: Any = host.base.timm_model
    guard = _Guard(host, inner, inner.forward_intermediates)
    hooks.put(inner, "forward_intermediates", guard.intermediates)
    hooks.before(inner.patch_embed, guard.check)


@dataclass
class _Guard:
    """What `guard_timm` puts over a method of the model's, `original`, and its hook."""

    host: Host
    inner: Any
    original: Any

    def check(self, _: nn.Module, __: Any) -> None:
        inner = self.inner
        if inner.grad_checkpointing and torch.is_grad_enabled():
            raise PruneSearchError(
                "gradient checkpointing runs timm's blocks again when the tokens they had are gone: "
                "call model.gradient_checkpointing_disable() before training with a schedule"
            )
        if inner.training and not isinstance(inner.patch_drop, nn.Identity | None):
            raise PruneSearchError(
                "patch_drop_rate drops tokens of its own in training: build the model without it to train with a "
                "schedule"
            )

    def intermediates(self, x: Tensor, *args: Any, output_fmt: str = "NCHW", **kwargs: Any) -> Any:
        if output_fmt != "NLC" and self.host.reduces:
            raise PruneSearchError(
                "hidden states of reduced tokens are no grid: add output_fmt='NLC' to output_hidden_states=True"
            )
        return self.original(x, *args, output_fmt=output_fmt, **kwargs)
