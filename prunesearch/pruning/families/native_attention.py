"""A look into attention that does not go through transformers' interface, and `log(size)` on its keys.

These families compute attention themselves. Their code runs as it is; hooks leave queries, keys, values and the
relative bias with a module that was asked for them, as `attention` does for the others, and where the module would take
no additive mask, `log(size)` is added to its relative bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunesearch.core.errors import PruneSearchError
from prunesearch.pruning.attention import AttentionView
from prunesearch.pruning.forward.state import Host, looked_at
from prunesearch.pruning.hooks import Hooks


def observe_mpnet(host: Host, model: nn.Module, hooks: Hooks) -> None:
    """MPNet: the mask is additive, so that looking is all there is to do."""
    for core in dict.fromkeys(host.cores):
        _watch(core, hooks, ("q", "k", "v"), _mpnet_view)


def observe_deberta(host: Host, model: nn.Module, hooks: Hooks) -> None:
    """DeBERTa: the mask is boolean; the relative bias is where sizes can go."""
    core: Any
    for core in dict.fromkeys(host.cores):
        bias = _SizedBias(host, core, core.disentangled_attention_bias)
        _watch(core, hooks, ("query_proj", "key_proj", "value_proj"), _deberta_view)
        hooks.put(core, "disentangled_attention_bias", bias.with_sizes)


@dataclass
class _SizedBias:
    """What `observe_deberta` puts over the method that makes the bias, `original`."""

    host: Host
    core: Any
    original: Callable[..., Tensor]

    def with_sizes(self, *args: Any, **kwargs: Any) -> Tensor:
        bias, looking = _with_sizes(self.host, self.original(*args, **kwargs)), looked_at(self.core)
        if looking is not None:
            looking.seen["bias"] = bias
        return bias


def observe_wavlm(host: Host, model: nn.Module, hooks: Hooks) -> None:
    """WavLM: the gated relative bias is where sizes can go.

    PyTorch's function takes the weights of the projections, so that no output of theirs can be had: a module that is
    watched projects once more.
    """
    core: Any
    for core in dict.fromkeys(host.cores):
        attention = _WavLMAttention(host, core, core.torch_multi_head_self_attention)
        hooks.put(core, "torch_multi_head_self_attention", attention.attend)


@dataclass
class _WavLMAttention:
    """What `observe_wavlm` puts over the method that attends, `original`."""

    host: Host
    core: Any
    original: Callable[..., tuple[Tensor, Tensor]]

    def attend(self, hidden: Tensor, mask: Tensor | None, bias: Tensor) -> tuple[Tensor, Tensor]:
        core, looking = self.core, looked_at(self.core)
        bias = _with_sizes(self.host, bias)
        if looking is not None:
            query, key, value = (
                _heads(proj(hidden), core.num_heads) for proj in (core.q_proj, core.k_proj, core.v_proj)
            )
            keys = None if mask is None else mask[:, None, None, :].bool()
            pairs = bias.reshape(-1, core.num_heads, *bias.shape[1:])
            looking.view = AttentionView(query, key, value, keys, core.scaling, None, pairs)
        return self.original(hidden, mask, bias)


View = Callable[[Any, list[Tensor], dict[str, Any], dict[str, Tensor]], AttentionView]


def _watch(core: Any, hooks: Hooks, names: tuple[str, str, str], view: View) -> None:
    """Leave a view of the core's attention where it is asked for; `names` are its query, key and value projections."""
    for name in names:
        hooks.after(core.get_submodule(name), Noted(core, name).keep)
    hooks.after(core, _Watch(core, names, view).finish, with_kwargs=True)


@dataclass
class Noted:
    """Leaves what a part of a core computes, under a name, until the core's view is made."""

    core: Any
    name: str

    def keep(self, _: nn.Module, __: Any, output: Tensor) -> None:
        """As a hook on the part."""
        looking = looked_at(self.core)
        if looking is not None:
            looking.seen.setdefault(self.name, output)  # DeBERTa projects its distances with them too, afterwards


@dataclass
class _Watch:
    """The hook of `_watch` on the core itself."""

    core: Any
    names: tuple[str, str, str]
    view: View

    def finish(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], __: Any) -> None:
        looking = looked_at(self.core)
        if looking is None:
            return
        seen = looking.seen
        if any(name not in seen for name in self.names):
            raise PruneSearchError(
                "projections of attention were replaced while a schedule was applied: call handle.remove(), and "
                "apply_ again"
            )
        given = dict(zip(("hidden_states", "attention_mask", "position_bias"), args, strict=False)) | kwargs
        projected = [_heads(seen[name], self.core.num_attention_heads) for name in self.names]
        looking.view = self.view(self.core, projected, given, seen)
        seen.clear()


def _mpnet_view(core: Any, projected: list[Tensor], given: dict[str, Any], _: dict[str, Tensor]) -> AttentionView:
    query, key, value = projected
    scaling = core.attention_head_size**-0.5
    return AttentionView(query, key, value, given["attention_mask"], scaling, None, given["position_bias"])


def _deberta_view(core: Any, projected: list[Tensor], given: dict[str, Any], seen: dict[str, Tensor]) -> AttentionView:
    query, key, value = projected
    terms = 1 + ("c2p" in core.pos_att_type) + ("p2c" in core.pos_att_type)
    flat = seen["bias"]
    bias = flat.reshape(-1, core.num_attention_heads, *flat.shape[1:])
    scaling = (query.shape[-1] * terms) ** -0.5
    return AttentionView(query, key, value, given["attention_mask"].bool(), scaling, None, bias)


def _heads(x: Tensor, heads: int) -> Tensor:
    """`[batch, n, heads x width]` as `[batch, heads, n, width]`."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _with_sizes(host: Host, bias: Tensor) -> Tensor:
    """Add `log(size)` of the keys to a bias `[batch x heads, n, n]`."""
    tokens = host.state.tokens
    if tokens is None or tokens.size is None:
        return bias
    size = tokens.size.to(torch.promote_types(bias.dtype, torch.float32))
    keys = size.where(size > 0, 1.0).log().to(bias.dtype)  # padding is closed by the mask
    return bias + keys.repeat_interleave(len(bias) // len(keys), 0)[:, None]
