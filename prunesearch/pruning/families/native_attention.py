"""A look into attention that does not go through transformers' interface, and `log(size)` on its keys.

These families compute attention themselves. Their code runs as it is; hooks leave queries, keys, values and the
relative bias with a module that was asked for them, as `attention` does for the others, and where the module would take
no additive mask, `log(size)` is added to its relative bias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunesearch.pruning.attention import AttentionView, slot_of

if TYPE_CHECKING:
    from prunesearch.pruning.apply import Handle
    from prunesearch.pruning.families.family import Undo


def observe_mpnet(handle: Handle, model: nn.Module) -> Undo:
    """MPNet: the mask is additive, so that looking is all there is to do."""
    return _for_each_core(handle, lambda core: _watch(core, ("q", "k", "v"), _mpnet_view))


def observe_deberta(handle: Handle, model: nn.Module) -> Undo:
    """DeBERTa: the mask is boolean; the relative bias is where sizes can go."""

    def attach(core: Any) -> Undo:
        original = core.disentangled_attention_bias

        def with_sizes(*args: Any, **kwargs: Any) -> Tensor:
            bias = _with_sizes(handle, original(*args, **kwargs))
            if slot_of(core) is not None:
                core.__dict__["_prunesearch_bias"] = bias
            return bias

        unwatch = _watch(core, ("query_proj", "key_proj", "value_proj"), _deberta_view)
        core.disentangled_attention_bias = with_sizes

        def undo() -> None:
            unwatch()
            core.__dict__.pop("_prunesearch_bias", None)
            del core.disentangled_attention_bias

        return undo

    return _for_each_core(handle, attach)


def observe_wavlm(handle: Handle, model: nn.Module) -> Undo:
    """WavLM: the gated relative bias is where sizes can go.

    PyTorch's function takes the weights of the projections, so that no output of theirs can be had: a module that is
    watched projects once more.
    """

    def attach(core: Any) -> Undo:
        original = core.torch_multi_head_self_attention

        def attend(hidden: Tensor, mask: Tensor | None, bias: Tensor) -> tuple[Tensor, Tensor]:
            bias = _with_sizes(handle, bias)
            slot = slot_of(core)
            if slot is not None:
                query, key, value = (
                    _heads(proj(hidden), core.num_heads) for proj in (core.q_proj, core.k_proj, core.v_proj)
                )
                keys = None if mask is None else mask[:, None, None, :].bool()
                pairs = bias.reshape(-1, core.num_heads, *bias.shape[1:])
                slot.view = AttentionView(query, key, value, keys, core.scaling, None, pairs)
            result: tuple[Tensor, Tensor] = original(hidden, mask, bias)
            return result

        core.torch_multi_head_self_attention = attend

        def undo() -> None:
            del core.torch_multi_head_self_attention

        return undo

    return _for_each_core(handle, attach)


def _for_each_core(handle: Handle, attach: Callable[[Any], Undo]) -> Undo:
    undos = [attach(core) for core in handle.encoder.cores]

    def undo() -> None:
        for each in undos:
            each()

    return undo


def _watch(
    core: Any, names: tuple[str, str, str], view: Callable[[Any, list[Tensor], dict[str, Any]], AttentionView]
) -> Undo:
    """Leave a view of the core's attention where it is asked for; `names` are its query, key and value projections."""
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            if slot_of(core) is not None:
                seen.setdefault(name, output)  # DeBERTa projects its distances with them too, afterwards

        return hook

    def finish(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], __: Any) -> None:
        slot = slot_of(core)
        if slot is not None:
            given = dict(zip(("hidden_states", "attention_mask", "position_bias"), args, strict=False)) | kwargs
            slot.view = view(core, [_heads(seen[n], core.num_attention_heads) for n in names], given)
        seen.clear()

    hooks = [core.get_submodule(name).register_forward_hook(note(name)) for name in names]
    hooks.append(core.register_forward_hook(finish, with_kwargs=True))

    def undo() -> None:
        for hook in hooks:
            hook.remove()

    return undo


def _mpnet_view(core: Any, projected: list[Tensor], given: dict[str, Any]) -> AttentionView:
    query, key, value = projected
    scaling = core.attention_head_size**-0.5
    return AttentionView(query, key, value, given["attention_mask"], scaling, None, given["position_bias"])


def _deberta_view(core: Any, projected: list[Tensor], given: dict[str, Any]) -> AttentionView:
    query, key, value = projected
    terms = 1 + ("c2p" in core.pos_att_type) + ("p2c" in core.pos_att_type)
    flat: Tensor = core.__dict__.pop("_prunesearch_bias")
    bias = flat.reshape(-1, core.num_attention_heads, *flat.shape[1:])
    scaling = (query.shape[-1] * terms) ** -0.5
    return AttentionView(query, key, value, given["attention_mask"].bool(), scaling, None, bias)


def _heads(x: Tensor, heads: int) -> Tensor:
    """`[batch, n, heads x width]` as `[batch, heads, n, width]`."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _with_sizes(handle: Handle, bias: Tensor) -> Tensor:
    """Add `log(size)` of the keys to a bias `[batch x heads, n, n]`."""
    tokens = handle.tokens
    if tokens is None or tokens.size is None:
        return bias
    size = tokens.size.to(torch.promote_types(bias.dtype, torch.float32))
    keys = size.where(size > 0, 1.0).log().to(bias.dtype)  # padding is closed by the mask
    return bias + keys.repeat_interleave(len(bias) // len(keys), 0)[:, None]
