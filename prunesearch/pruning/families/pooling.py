"""Mean pooling that stays a mean over the INPUTS when tokens stand for several of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunesearch.pruning.families.restoring import restore_of
from prunesearch.pruning.forward.state import Host, carrier_of
from prunesearch.pruning.forward.tokens import Tokens
from prunesearch.pruning.hooks import Hooks

if TYPE_CHECKING:
    from prunesearch.pruning.families.family import Attachment


def mean_pool(model: nn.Module, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Average the last hidden states of `model` over real tokens, weighted by size.

    Args:
        model: the model that made `hidden`, with or without a schedule, or a module around it.
        hidden: `[batch, n, width]`, `n` being the tokens that are left.
        attention_mask: `[batch, n_start]` the mask the model was given; None if nothing was padded.

    Returns:
        `[batch, width]`. Without a schedule: the usual masked mean.
    """
    weight = token_weights(model, attention_mask)
    if weight is None:
        return hidden.mean(1)
    weight = weight.to(hidden.dtype)[..., None]
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=torch.finfo(hidden.dtype).tiny)


def token_weights(model: nn.Module, attention_mask: Tensor | None = None) -> Tensor | None:
    """How many tokens each of the states that are left stands for, `[batch, n]`, 0 on padding; None: one each.

    Args:
        model: that has just run, with or without a schedule, or a module around it.
        attention_mask: `[batch, n_start]` the mask it was given; None if nothing was padded.
    """
    handle = carrier_of(model)
    tokens: Tokens | None = None if handle is None else handle.tokens
    return attention_mask if tokens is None else alive_mass(tokens)


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

    return partial(_attach_mean_head, target=target, source=source, skips=skips, beside_cls=beside_cls)


def _attach_mean_head(
    host: Host, model: nn.Module, hooks: Hooks, *, target: str, source: str | None, skips: bool, beside_cls: bool
) -> None:
    owner = _owner(model, host.base, target)
    if owner is None or (source is not None and not isinstance(_part(owner, source), nn.Module)):
        return  # no such head, or one that averages nothing
    head = _MeanHead(host, f"mean of {target}", host.leading if skips else 0, beside_cls)
    made = host.base if source is None else owner.get_submodule(source)
    hooks.before(owner, head.begin)
    hooks.after(made, head.remember)
    hooks.before(owner.get_submodule(target), head.instead)
    hooks.after(owner, head.end, always=True)


@dataclass
class _MeanHead:
    """The hooks of `mean_head`; outside the owner's forward its parts may be called alone, and there is no note."""

    host: Host
    note: str
    first: int
    beside_cls: bool

    def begin(self, _: nn.Module, __: Any) -> None:
        self.host.state.notes[self.note] = None

    def remember(self, _: nn.Module, __: Any, output: Any) -> None:
        notes = self.host.state.notes
        if self.note in notes:
            notes[self.note] = _hidden_of(output)

    def instead(self, _: nn.Module, __: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        hidden, tokens = self.host.state.notes.pop(self.note, None), self.host.state.tokens
        if hidden is None or tokens is None or (tokens.size is None and not tokens.by_row):
            return None
        weight = alive_mass(tokens)[:, self.first :, None].to(hidden.dtype)
        mean = (hidden[:, self.first :] * weight).sum(1) / weight.sum(1)
        return (torch.cat([hidden[:, 0], mean], dim=1) if self.beside_cls else mean,)

    def end(self, _: nn.Module, __: Any, ___: Any) -> None:
        self.host.state.notes.pop(self.note, None)


def masked_mean(path: str) -> Attachment:
    """Let a head that averages hidden states by the mask of its INPUT (ModernBERT's) get the mean of the tokens left.

    The mask has the length of the input; so within the forward of the model around, the encoder gives the right mean at
    each of that many places.

    Args:
        path: of a part that the model around the encoder has; one whose head answers for every token averages nothing.
    """

    return partial(_attach_masked_mean, path=path)


def _attach_masked_mean(host: Host, model: nn.Module, hooks: Hooks, *, path: str) -> None:
    base = host.base
    owner = _owner(model, base, path)
    means = getattr(base.config, "classifier_pooling", None) == "mean"
    if owner is None or restore_of(owner) is not None or not means:
        return
    mean = _MaskedMean(host)
    hooks.before(owner, mean.begin)
    hooks.after(base, mean.spread)
    hooks.after(owner, mean.end, always=True)


@dataclass
class _MaskedMean:
    """The hooks of `masked_mean`."""

    host: Host

    def begin(self, _: nn.Module, __: Any) -> None:
        self.host.state.notes["masked mean"] = True

    def spread(self, _: nn.Module, __: Any, output: Any) -> Any:
        tokens = self.host.state.tokens
        if "masked mean" not in self.host.state.notes or tokens is None:
            return None
        hidden = _hidden_of(output)
        weight = alive_mass(tokens)[..., None].to(hidden.dtype)
        mean = (hidden * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        full = mean.expand(-1, tokens.n_start, -1)
        return (full, *output[1:]) if isinstance(output, tuple) else replace(output, last_hidden_state=full)

    def end(self, _: nn.Module, __: Any, ___: Any) -> None:
        self.host.state.notes.pop("masked mean", None)


def attention_pool(path: str) -> Attachment:
    """Let a head that pools by attention add `log(size)` to its keys (SigLIP's).

    Args:
        path: of its `nn.MultiheadAttention`, from the encoder.
    """

    return partial(_attach_attention_pool, path=path)


def _attach_attention_pool(host: Host, model: nn.Module, hooks: Hooks, *, path: str) -> None:
    pool = _part(host.base, path)
    if isinstance(pool, nn.MultiheadAttention):
        hooks.before(pool, _SizedPool(host).with_sizes, with_kwargs=True)


@dataclass
class _SizedPool:
    """The hook of `attention_pool`."""

    host: Host

    def with_sizes(
        self, module: nn.MultiheadAttention, args: tuple[Tensor, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]] | None:
        tokens = self.host.state.tokens
        if tokens is None or (tokens.size is None and not tokens.by_row) or args[1].shape[1] != tokens.n:
            return None
        bias = tokens.attention_mask(args[1].dtype, additive=True)
        if bias is None:
            return None
        return args, {**kwargs, "attn_mask": bias[:, 0].repeat_interleave(module.num_heads, 0)}


def frame_mask(host: Host, model: nn.Module, hooks: Hooks) -> None:
    """Let a head that averages frames by the mask of its input (Wav2Vec2 and kin) use that of the frames left."""
    owner: Any = _owner(model, host.base, "projector")
    if owner is not None:
        frames = _FrameMask(host, owner._get_feature_vector_attention_mask)
        hooks.put(owner, "_get_feature_vector_attention_mask", frames.mask)


@dataclass
class _FrameMask:
    """What `frame_mask` puts over a method of the owner's, `original`."""

    host: Host
    original: Any

    def mask(self, frames: int, *args: Any, **kwargs: Any) -> Tensor:
        tokens = self.host.state.tokens
        if tokens is None:
            found: Tensor = self.original(frames, *args, **kwargs)
            return found
        return torch.ones_like(tokens.like) if tokens.valid is None else tokens.valid


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
