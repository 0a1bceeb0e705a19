"""Mean pooling that stays a mean over the INPUTS when tokens stand for several of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunesearch.pruning.families.restoring import restore_of
from prunesearch.pruning.hooks import removal

if TYPE_CHECKING:
    from prunesearch.pruning.apply import Handle
    from prunesearch.pruning.families.family import Attachment, Undo
    from prunesearch.pruning.tokens import Tokens


def mean_pool(model: nn.Module, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Average the last hidden states of `model` over real tokens, weighted by size.

    Args:
        model: the model that made `hidden`, with or without a schedule, or a module around it.
        hidden: `[batch, n, width]`, `n` being the tokens that are left.
        attention_mask: `[batch, n_start]` the mask the model was given; None if nothing was padded.

    Returns:
        `[batch, width]`. Without a schedule: the usual masked mean.
    """
    from prunesearch.pruning.apply import handle_of

    handle = handle_of(model)
    tokens = None if handle is None else handle.tokens
    if tokens is not None:
        weight = alive_mass(tokens)
    elif attention_mask is not None:
        weight = attention_mask
    else:
        return hidden.mean(1)
    weight = weight.to(hidden.dtype)[..., None]
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=torch.finfo(hidden.dtype).tiny)


def alive_mass(tokens: Tokens) -> Tensor:
    """`[batch, n]` sizes, 0 on padding."""
    return tokens.mass if tokens.valid is None else tokens.mass * tokens.valid


def mean_head(target: str, *, source: str | None = None, skips: bool = True, beside_cls: bool = False) -> Attachment:
    """Let a head that averages tokens weigh them by size: it gets the right mean in place of its model's plain one.

    Args:
        target: path of the module that is given the mean, from the model around the encoder or from the encoder.
        source: path, from the same, of the module whose output is averaged; None: the encoder.
        skips: whether the protected tokens at the start are left out of the mean.
        beside_cls: whether the head is given `cat(CLS, mean)`.
    """

    def attach(handle: Handle, model: nn.Module) -> Undo:
        base = handle.encoder.base
        owner = _owner(model, base, target)
        if owner is None:
            return lambda: None
        first = handle.encoder.leading if skips else 0
        latest: dict[str, Tensor | None] = {}  # empty outside the owner's forward: its parts may be called alone

        def begin(_: nn.Module, __: Any) -> None:
            latest["hidden"] = None

        def remember(_: nn.Module, __: Any, output: Any) -> None:
            if latest:
                latest["hidden"] = _hidden_of(output)

        def instead(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            hidden, tokens = latest.pop("hidden", None), handle.tokens
            if hidden is None or tokens is None or tokens.size is None:
                return None
            weight = tokens.size[:, first:, None].to(hidden.dtype)
            mean = (hidden[:, first:] * weight).sum(1) / weight.sum(1)
            return (torch.cat([hidden[:, 0], mean], dim=1) if beside_cls else mean,)

        made = base if source is None else owner.get_submodule(source)
        hooks = [
            owner.register_forward_pre_hook(begin),
            made.register_forward_hook(remember),
            owner.get_submodule(target).register_forward_pre_hook(instead),
        ]
        return removal(hooks)

    return attach


def masked_mean(path: str) -> Attachment:
    """Let a head that averages hidden states by the mask of its INPUT (ModernBERT's) get the mean of the tokens left.

    The mask has the length of the input; so within the forward of the model around, the encoder gives the right mean at
    each of that many places.

    Args:
        path: of a part that the model around the encoder has; one whose head answers for every token averages nothing.
    """

    def attach(handle: Handle, model: nn.Module) -> Undo:
        base = handle.encoder.base
        owner = _owner(model, base, path)
        means = getattr(base.config, "classifier_pooling", None) == "mean"
        if owner is None or restore_of(owner) is not None or not means:
            return lambda: None
        inside: list[bool] = []

        def begin(_: nn.Module, __: Any) -> None:
            inside.append(True)

        def end(_: nn.Module, __: Any, ___: Any) -> None:
            inside.clear()

        def spread(_: nn.Module, __: Any, output: Any) -> Any:
            tokens = handle.tokens
            if not inside or tokens is None:
                return None
            hidden = _hidden_of(output)
            weight = alive_mass(tokens)[..., None].to(hidden.dtype)
            mean = (hidden * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
            return replace(output, last_hidden_state=mean.expand(-1, tokens.n_start, -1))

        return removal(
            [
                owner.register_forward_pre_hook(begin),
                base.register_forward_hook(spread),
                owner.register_forward_hook(end, always_call=True),
            ]
        )

    return attach


def attention_pool(path: str) -> Attachment:
    """Let a head that pools by attention add `log(size)` to its keys (SigLIP's).

    Args:
        path: of its `nn.MultiheadAttention`, from the encoder.
    """

    def attach(handle: Handle, model: nn.Module) -> Undo:
        pool = _part(handle.encoder.base, path)
        if not isinstance(pool, nn.MultiheadAttention):
            return lambda: None

        def with_sizes(
            module: nn.MultiheadAttention, args: tuple[Tensor, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Tensor, ...], dict[str, Any]] | None:
            tokens = handle.tokens
            if tokens is None or tokens.size is None or args[1].shape[1] != tokens.n:
                return None
            bias = tokens.attention_mask(args[1].dtype, additive=True)
            if bias is None:
                return None
            return args, {**kwargs, "attn_mask": bias[:, 0].repeat_interleave(module.num_heads, 0)}

        return removal([pool.register_forward_pre_hook(with_sizes, with_kwargs=True)])

    return attach


def frame_mask(handle: Handle, model: nn.Module) -> Undo:
    """Let a head that averages frames by the mask of its input (Wav2Vec2 and kin) use that of the frames left."""
    owner: Any = _owner(model, handle.encoder.base, "projector")
    if owner is None:
        return lambda: None
    original = owner._get_feature_vector_attention_mask

    def mask(frames: int, *args: Any, **kwargs: Any) -> Tensor:
        tokens = handle.tokens
        if tokens is None:
            found: Tensor = original(frames, *args, **kwargs)
            return found
        return torch.ones_like(tokens.protected) if tokens.valid is None else tokens.valid

    owner._get_feature_vector_attention_mask = mask

    def undo() -> None:
        del owner._get_feature_vector_attention_mask

    return undo


def _owner(model: nn.Module, base: nn.Module, path: str) -> nn.Module | None:
    """The module inside `model` that is `base` or has it as a part, and has a module at `path`."""
    for module in model.modules():
        near = module is base or any(child is base for child in module.children())
        if near and isinstance(_part(module, path), nn.Module):
            return module
    return None


def _part(module: nn.Module, path: str) -> Any:
    """What lies at `path`, or None."""
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _hidden_of(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    hidden: Tensor = output[0] if isinstance(output, tuple) else output.last_hidden_state
    return hidden
